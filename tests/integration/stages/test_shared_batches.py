"""The stages of a batch that several jobs share, against the simulator."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from dataclasses import replace as with_
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from service import stages
from service.payloads.blobs import Blobs
from service.payloads.results import read_index
from service.rules.outcomes import Outcome, RetryPart, SetApart, Settle, Settlement, Wait
from service.rules.shared_ids import shared_ids
from service.rules.states import BatchState, PartState
from service.rules.work import BatchClaim, PartClaim
from service.stages import AccountClients
from service.together.client import Together
from service.together.transport import Pool, open_pool
from tests.eventually import eventually
from tests.factories import batch_claim, chat_line, clients, learned, part_claim, take
from tests.simulator import KEY, Simulator

SIZES = (3, 1, 2)
SAME = ("a", "b", "c")
"""The custom_ids of each job: all jobs use the same."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with open_pool(timedelta(seconds=5)) as opened:
        yield opened


@dataclass
class Shared:
    """A batch of three jobs, and what a worker has in hand."""

    blobs: Blobs
    simulator: Simulator
    clients: AccountClients
    claim: BatchClaim
    parts: list[PartClaim] = field(default_factory=list)

    def add(self, requests: int) -> None:
        """Take in a job whose requests say what no other job's do."""
        job_id = uuid4()
        lines = [chat_line(name, user=f"{job_id}/{name}") for name in SAME[:requests]]
        (shard,) = take(self.blobs, lines).shards
        self.parts.append(
            part_claim(
                job_id=job_id,
                requests=shard.requests,
                bytes=shard.bytes,
                input_blob=shard.input_blob,
                manifest=shard.manifest,
            )
        )

    def learned(self, outcome: Outcome) -> None:
        self.claim = learned(self.claim, outcome)

    def end(self) -> None:
        self.learned(stages.upload(self.claim, self.clients))
        self.learned(stages.create(self.claim, self.clients))

        def ended() -> bool:
            self.learned(stages.poll(self.claim, self.clients))
            return self.claim.state is BatchState.ENDED

        eventually(ended, timeout=10, interval=0.02)

    def fetch(self) -> Outcome:
        return stages.fetch(self.claim, self.clients)

    def settle(self) -> Settle:
        """Fetch until nothing is waited for, as workers do; gives the last settlement."""
        self.end()
        for _ in range(20):
            outcome = self.fetch()
            rest = outcome.rest if isinstance(outcome, Settle) else outcome
            if rest is None:
                break
            assert isinstance(rest, Wait)
            if isinstance(outcome, Settle):
                self.note(outcome)
            self.learned(rest)
            self.claim = with_(self.claim, now=self.claim.now + rest.delay)
        assert isinstance(outcome, Settle)
        return outcome

    def note(self, outcome: Settle) -> None:
        """As apply does it: these parts are settled."""
        done = {one.part for one in outcome.parts}
        self.parts = [
            with_(part, state=PartState.SETTLED) if part.id in done else part for part in self.parts
        ]

    def lines(self, done: Settlement) -> list[dict[str, Any]]:
        lines = done.final_lines
        if lines is None:
            return []
        data = b"".join(self.blobs.stream(lines.blob))
        index = read_index(self.blobs, lines.index_blob)
        assert lines.bytes == len(data) == sum(index.lengths)
        assert lines.requests == len(index.ordinals)
        return [msgspec.json.decode(line) for line in data.splitlines()]

    def names(self, part: PartClaim) -> list[str]:
        return shared_ids(part.job_id, range(part.requests))


@pytest.fixture
def shared(simulator: Simulator, pool: Pool, tmp_path: Path) -> Shared:
    blobs = Blobs((tmp_path / "blobs").as_uri())
    hands = clients(blobs, Together(pool, simulator.url, KEY), tmp_path)
    claim = batch_claim(parts=len(SIZES), renamed=True, requests=sum(SIZES))
    made = Shared(blobs, simulator, hands, claim)
    made.clients = with_(hands, parts=lambda: tuple(made.parts))
    for size in SIZES:
        made.add(size)
    return made


def groups(outcome: Settle) -> dict[UUID | None, set[UUID]]:
    """Which parts go on together, by their company."""
    found: dict[UUID | None, set[UUID]] = {}
    for done in outcome.parts:
        for retry in done.retries:
            found.setdefault(retry.company, set()).add(done.part)
    return found


def retry_of(done: Settlement) -> RetryPart:
    (retry,) = done.retries
    return retry


def test_each_job_gets_its_own_results_under_its_own_names(shared: Shared) -> None:
    outcome = shared.settle()
    assert [(done.part, done.job_id) for done in outcome.parts] == [
        (part.id, part.job_id) for part in shared.parts
    ]
    for part, done in zip(shared.parts, outcome.parts, strict=True):
        lines = shared.lines(done)
        assert [line["custom_id"] for line in lines] == list(SAME[: part.requests])
        assert done.succeeded == part.requests
        used = sum(line["response"]["body"]["usage"]["total_tokens"] for line in lines)
        assert done.usage.total_tokens == used > 0
    executed = shared.simulator.account().lines
    assert {name: book.succeeded for name, book in executed.items()} == {
        name: 1 for part in shared.parts for name in shared.names(part)
    }


def test_all_but_the_custom_ids_are_the_providers_bytes(shared: Shared, tmp_path: Path) -> None:
    outcome = shared.settle()
    path = tmp_path / "output"
    with path.open("w+b") as file:
        file_id = shared.claim.output_file_id
        assert file_id is not None
        shared.clients.together.download(file_id, file, lambda: None)
    theirs = path.read_bytes()
    for part in shared.parts:
        for name, own in zip(shared.names(part), SAME, strict=False):
            theirs = theirs.replace(f'"{name}"'.encode(), f'"{own}"'.encode())
    ours = b"".join(
        line
        for done in outcome.parts
        if done.final_lines is not None
        for line in shared.blobs.stream(done.final_lines.blob)
    )
    assert sorted(ours.splitlines()) == sorted(theirs.splitlines())


def test_parts_of_one_job_keep_its_custom_ids(shared: Shared) -> None:
    first = shared.parts[0]
    entries = shared.blobs.get_manifest(first.manifest)
    shared.parts = [
        with_(first, id=uuid4(), manifest=shared.blobs.put_manifest("m", [entry]), requests=1)
        for entry in entries
    ]
    shared.claim = with_(shared.claim, parts=3, renamed=False, requests=3)
    outcome = shared.settle()
    assert [shared.lines(done)[0]["custom_id"] for done in outcome.parts] == list(SAME)
    assert set(shared.simulator.account().lines) == set(SAME)


def test_what_failed_of_one_job_concerns_no_other(shared: Shared) -> None:
    bad, again = f"{shared.parts[0].job_id}/b", f"{shared.parts[2].job_id}/a"
    shared.simulator.line_rule("error", contains=bad, message="Invalid model specified")
    shared.simulator.line_rule("error", contains=again)
    first, second, third = shared.settle().parts
    assert [letter.custom_id for letter in first.dead] == ["b"]
    assert [line["custom_id"] for line in shared.lines(first)] == ["a", "b", "c"]
    assert (second.succeeded, second.dead, second.retries) == (1, (), ())
    entries = shared.blobs.get_manifest(retry_of(third).manifest)
    assert [(entry.custom_id, entry.attempts) for entry in entries] == [("a", 1)]
    assert [line["custom_id"] for line in shared.lines(third)] == ["b"]


def test_a_cancelled_job_keeps_what_came_back_and_sends_nothing_again(shared: Shared) -> None:
    first = shared.parts[0]
    shared.parts[0] = with_(first, cancelled=True)
    shared.simulator.line_rule("error", contains=f"{first.job_id}/b")
    done, *others = shared.settle().parts
    assert (done.succeeded, [letter.code for letter in done.dead]) == (2, ["cancelled"])
    assert done.retries == ()
    assert [other.succeeded for other in others] == [1, 2]


def test_what_is_missing_of_one_job_holds_up_no_other(shared: Shared) -> None:
    missing = shared.parts[0]
    shared.simulator.line_rule("missing", contains=f"{missing.job_id}/c")
    shared.end()
    outcome = shared.fetch()
    assert isinstance(outcome, Settle)
    assert [done.part for done in outcome.parts] == [part.id for part in shared.parts[1:]]
    assert outcome.rest is not None
    shared.note(outcome)
    shared.learned(outcome.rest)
    # Looked at again, the lines of the others are no strangers.
    again = shared.fetch()
    assert isinstance(again, Wait)
    shared.learned(again)
    shared.claim = with_(shared.claim, now=shared.claim.now + timedelta(hours=2))
    for _ in range(4):
        again = shared.fetch()
        if isinstance(again, Settle):
            break
        shared.learned(again)
        shared.claim = with_(shared.claim, now=shared.claim.now + timedelta(hours=2))
    assert isinstance(again, Settle)
    assert (again.rest, again.oddities.unknown) == (None, 0)
    (done,) = again.parts
    assert (done.part, done.succeeded, retry_of(done).requests) == (missing.id, 2, 1)


@pytest.mark.parametrize("parts", [3, 20])
def test_a_batch_with_a_bad_line_is_divided_by_parts(shared: Shared, parts: int) -> None:
    while len(shared.parts) < parts:
        shared.add(2)
    requests = sum(part.requests for part in shared.parts)
    shared.claim = with_(shared.claim, parts=parts, requests=requests)
    message = "Line 2 (within chunk): Invalid JSON"
    shared.simulator.batch_rule(outcome="fail", message=message)
    outcome = shared.settle()
    found = groups(outcome)
    assert len(found) == min(parts, 8)
    assert None not in found
    assert set.union(*found.values()) == {part.id for part in shared.parts}
    assert {retry.poison for done in outcome.parts for retry in done.retries} == {1}
    for part, done in zip(shared.parts, outcome.parts, strict=True):
        entries = shared.blobs.get_manifest(retry_of(done).manifest)
        # The neighbours pay nothing.
        assert {(entry.attempts, entry.lost) for entry in entries} == {(0, 0)}
        assert len(entries) == part.requests


def test_a_batch_that_failed_for_an_outage_goes_again_without_a_division(shared: Shared) -> None:
    shared.simulator.batch_rule(outcome="fail", message="Internal Server Error")
    outcome = shared.settle()
    assert groups(outcome) == {None: {part.id for part in shared.parts}}


def test_a_refused_create_is_divided_and_a_part_alone_fails_with_the_words(shared: Shared) -> None:
    shared.learned(stages.upload(shared.claim, shared.clients))
    shared.simulator.fault("create", "status", status=400, message="that will not do", times=2)
    outcome = stages.create(shared.claim, shared.clients)
    assert isinstance(outcome, Settle)
    assert outcome.to is BatchState.FAILED
    assert sorted(map(len, groups(outcome).values())) == [1, 1, 1]

    shared.parts = shared.parts[:1]
    alone = stages.create(with_(shared.claim, parts=1), shared.clients)
    assert isinstance(alone, Settle)
    (done,) = alone.parts
    assert {letter.code for letter in done.dead} == {"create_refused"}
    assert "that will not do" in done.dead[0].message


def test_a_part_whose_blob_is_missing_leaves_the_batch(shared: Shared) -> None:
    lost = shared.parts[1]
    shared.blobs.delete([lost.input_blob])
    outcome = stages.upload(shared.claim, shared.clients)
    assert isinstance(outcome, SetApart)
    assert outcome.parts == (lost.id,)
    assert shared.simulator.requests() == []

    shared.parts.remove(lost)
    shared.claim = with_(shared.claim, parts=2, requests=5)
    assert [done.succeeded for done in shared.settle().parts] == [3, 2]


def test_if_all_blobs_are_missing_the_storage_is_to_blame(shared: Shared) -> None:
    shared.blobs.delete([part.input_blob for part in shared.parts])
    with pytest.raises(FileNotFoundError):
        stages.upload(shared.claim, shared.clients)


def test_a_cancelled_batch_writes_a_line_for_each_request_of_each_job(shared: Shared) -> None:
    outcome = stages.ended_here(with_(shared.claim, cancel_requested=True), shared.clients)
    assert isinstance(outcome, Settle)
    for part, done in zip(shared.parts, outcome.parts, strict=True):
        lines = shared.lines(done)
        assert [line["custom_id"] for line in lines] == list(SAME[: part.requests])
        assert {line["error"]["code"] for line in lines} == {"cancelled"}
