"""The stages, called as a worker calls them: real blobs, a real client, the simulator behind it."""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from dataclasses import replace as with_
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
import pytest

from service import stages
from service.payloads.blobs import Blobs
from service.payloads.results import read_index
from service.rules.errors import AccountBlocked, Missing, RateLimited, Transient, Unreachable
from service.rules.outcomes import (
    Advance,
    Assembled,
    Changes,
    Fail,
    Outcome,
    Park,
    Pause,
    Retry,
    Settle,
    Split,
    Wait,
)
from service.rules.permissions import Permissions
from service.rules.states import BatchState, JobState
from service.rules.work import BatchClaim, FinalLines, PartClaim
from service.stages import AccountClients
from service.stages.poll import MOST_NOT_THERE
from service.together.client import Together
from service.together.transport import Pool, open_pool
from tests.eventually import eventually
from tests.factories import (
    NOW,
    FakeLease,
    batch_claim,
    chat_line,
    clients,
    final_lines,
    job_claim,
    learned,
    part_claim,
    take,
)
from tests.simulator import KEY, Simulator

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
T = TypeVar("T")
POLL = timedelta(seconds=30)
GRACE = timedelta(seconds=60)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with open_pool(timedelta(seconds=5)) as opened:
        yield opened


@dataclass
class Bench:
    """One shard in blob storage, and what a worker would have in hand."""

    blobs: Blobs
    clients: AccountClients
    simulator: Simulator
    custom_ids: list[str]
    claim: BatchClaim
    part: PartClaim

    @property
    def together(self) -> Together:
        return self.clients.together

    def shard(self, *custom_ids: str) -> None:
        """Take these requests in and claim their batch."""
        taken = take(self.blobs, [chat_line(custom_id) for custom_id in custom_ids])
        (shard,) = taken.shards
        self.custom_ids = list(custom_ids)
        self.part = part_claim(
            requests=shard.requests,
            input_blob=shard.input_blob,
            manifest=shard.manifest,
            bytes=shard.bytes,
        )
        self.clients = with_(self.clients, parts=lambda: (self.part,))
        self.claim = batch_claim(requests=shard.requests)

    def learned(self, outcome: Outcome) -> None:
        """Claim the batch again, with what a stage has learned."""
        self.claim = learned(self.claim, outcome)

    def upload(self) -> str:
        self.learned(stages.upload(self.claim, self.clients))
        assert self.claim.input_file_id is not None
        return self.claim.input_file_id

    def create(self) -> str:
        self.upload()
        self.learned(stages.create(self.claim, self.clients))
        assert self.claim.provider_batch_id is not None
        return self.claim.provider_batch_id

    def end(self) -> None:
        """Go on until the batch has ended."""
        self.create()

        def ended() -> bool:
            self.learned(stages.poll(self.claim, self.clients))
            return self.claim.state is BatchState.ENDED

        eventually(ended, timeout=10, interval=0.02)

    def fetch(self) -> Settle:
        outcome = stages.fetch(self.claim, self.clients)
        looks = 1
        while isinstance(outcome, Wait) and looks < 20:
            self.learned(outcome)
            self.claim = with_(self.claim, now=self.claim.now + outcome.delay)
            outcome = stages.fetch(self.claim, self.clients)
            looks += 1
        assert isinstance(outcome, Settle)
        done = outcome.parts[0]
        # Conservation, for whatever came back.
        assert self.claim.requests == done.succeeded + len(done.dead) + done.carried
        assert self.claim.requests == len(self.lines(outcome)) + len(self.carried(outcome))
        assert outcome.to is BatchState.SETTLED
        return outcome

    def lines(self, outcome: Settle) -> list[dict[str, Any]]:
        lines = outcome.parts[0].final_lines
        if lines is None:
            return []
        data = b"".join(self.blobs.stream(lines.blob))
        index = read_index(self.blobs, lines.index_blob)
        assert lines.bytes == len(data) == sum(index.lengths)
        assert lines.requests == len(index.ordinals)
        assert (lines.first_ordinal, lines.last_ordinal) == (index.ordinals[0], index.ordinals[-1])
        found = [msgspec.json.decode(line) for line in data.split(b"\n")[:-1]]
        assert [line["custom_id"] for line in found] == [self.custom_ids[i] for i in index.ordinals]
        return found

    def carried(self, outcome: Settle) -> list[str]:
        found = []
        for retry in outcome.parts[0].retries:
            entries = self.blobs.get_manifest(retry.manifest)
            assert retry.requests == len(entries)
            assert retry.bytes == sum(entry.length for entry in entries)
            found += [entry.custom_id for entry in entries]
        return sorted(found)

    def succeeded(self, outcome: Settle) -> list[str]:
        return [line["custom_id"] for line in self.lines(outcome) if "response" in line]

    def codes(self, outcome: Settle) -> dict[str, str]:
        return {letter.custom_id: letter.code for letter in outcome.parts[0].dead}


@pytest.fixture
def bench(simulator: Simulator, pool: Pool, tmp_path: Path) -> Bench:
    blobs = Blobs((tmp_path / "blobs").as_uri())
    together = Together(pool, simulator.url, KEY)
    made = Bench(
        blobs, clients(blobs, together, tmp_path), simulator, [], batch_claim(), part_claim()
    )
    made.shard("a", "b", "c")
    return made


def _buried(outcome: object, to: BatchState, code: str, bench: Bench) -> None:
    assert isinstance(outcome, Settle)
    assert outcome.to is to
    assert outcome.parts[0].succeeded == 0
    assert bench.codes(outcome) == dict.fromkeys(bench.custom_ids, code)
    assert [line["error"]["code"] for line in bench.lines(outcome)] == [code] * 3
    assert {letter.attempts for letter in outcome.parts[0].dead} == {0}


# --- upload -------------------------------------------------------------------------------------


def test_upload_brings_the_requests_under_the_name_of_the_batch(bench: Bench) -> None:
    file_id = bench.upload()
    file = bench.together.file(file_id)
    assert (file.filename, file.bytes) == (f"{bench.claim.id}.jsonl", bench.part.bytes)


def test_upload_of_a_retry_sends_only_what_is_left(bench: Bench) -> None:
    bench.shard("a", "b", "c", "d")
    a, _, c, d = bench.blobs.get_manifest(bench.part.manifest)
    left = bench.blobs.put_manifest("left", [a, c, d])
    size = a.length + c.length + d.length
    bench.part = with_(bench.part, manifest=left, bytes=size, requests=3)
    bench.claim = with_(bench.claim, requests=3)
    bench.end()
    assert bench.succeeded(bench.fetch()) == ["a", "c", "d"]


def test_an_upload_of_a_cancelled_job_sends_nothing(bench: Bench) -> None:
    outcome = stages.ended_here(with_(bench.claim, cancel_requested=True), bench.clients)
    _buried(outcome, BatchState.CANCELLED, "cancelled", bench)
    assert bench.simulator.requests() == []


def test_a_refused_upload_is_buried(bench: Bench) -> None:
    bench.simulator.fault("create_file", "status", status=400, message="no such purpose")
    outcome = stages.upload(bench.claim, bench.clients)
    _buried(outcome, BatchState.FAILED, "upload_refused", bench)
    assert isinstance(outcome, Settle)
    assert "no such purpose" in (outcome.reason or "")


def test_a_file_that_goes_away_while_it_is_uploaded_is_tried_again(bench: Bench) -> None:
    bench.simulator.fault("preprocess", "status", status=404)
    assert isinstance(stages.upload(bench.claim, bench.clients), Retry)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, RateLimited), (401, AccountBlocked), (402, AccountBlocked), (500, Transient)],
)
def test_trouble_while_uploading_is_not_the_batchs(
    bench: Bench, status: int, kind: type[Unreachable]
) -> None:
    bench.simulator.fault("create_file", "status", status=status)
    with pytest.raises(kind):
        stages.upload(bench.claim, bench.clients)


def test_uploading_anew_deletes_the_spent_files(bench: Bench) -> None:
    spent = bench.upload()
    bench.claim = with_(bench.claim, spent_file_ids=(spent, "file-long-gone"))
    assert bench.upload() != spent
    with pytest.raises(Missing):
        bench.together.file(spent)


# --- create -------------------------------------------------------------------------------------


def test_create_makes_one_batch_of_the_file(bench: Bench) -> None:
    batch_id = bench.create()
    (batch,) = bench.together.batches()
    assert (batch.id, batch.input_file_id) == (batch_id, bench.claim.input_file_id)
    assert bench.claim.state is BatchState.CREATED


def test_a_create_of_a_cancelled_job_sends_nothing(bench: Bench) -> None:
    bench.upload()
    outcome = stages.ended_here(with_(bench.claim, cancel_requested=True), bench.clients)
    _buried(outcome, BatchState.CANCELLED, "cancelled", bench)
    assert bench.simulator.batches_created == 0


def test_a_create_with_too_short_a_lease_is_not_sent(bench: Bench, tmp_path: Path) -> None:
    bench.upload()
    short = clients(bench.blobs, bench.together, tmp_path, left=timedelta(seconds=29))
    outcome = stages.create(bench.claim, short)
    assert isinstance(outcome, Retry)
    assert outcome.not_sent
    assert "create" not in bench.simulator.counts()


def test_a_create_that_waits_long_for_its_turn_looks_at_its_lease_after_that(
    bench: Bench, pool: Pool
) -> None:
    bench.upload()
    lease = FakeLease()

    def gate() -> None:
        lease.left = timedelta(seconds=29)

    patient = Together(pool, bench.simulator.url, KEY, gate=gate)
    outcome = stages.create(bench.claim, with_(bench.clients, together=patient, lease=lease))
    assert isinstance(outcome, Retry)
    assert outcome.not_sent
    assert "create" not in bench.simulator.counts()


def test_every_call_of_the_control_api_waits_for_its_turn(bench: Bench, pool: Pool) -> None:
    turns: list[int] = []
    gated = Together(pool, bench.simulator.url, KEY, gate=lambda: turns.append(1))
    at_work = with_(bench.clients, together=gated, show=gated.batch)
    bench.learned(stages.upload(bench.claim, at_work))
    bench.learned(stages.create(bench.claim, at_work))
    job = gated.batches()[0]
    eventually(lambda: gated.batch(job.id).ended)
    gated.cancel(job.id)
    bench.learned(stages.poll(bench.claim, at_work))
    stages.fetch(bench.claim, at_work)
    gated.delete_file(job.input_file_id or "")
    counts = bench.simulator.counts()
    uncounted = counts["put"] + counts["content"]
    assert len(turns) == sum(counts.values()) - uncounted


def test_a_refused_create_is_buried(bench: Bench) -> None:
    bench.upload()
    bench.simulator.fault("create", "status", status=400, message="no such model")
    outcome = stages.create(bench.claim, bench.clients)
    _buried(outcome, BatchState.FAILED, "create_refused", bench)


@pytest.mark.parametrize(
    ("status", "kind"), [(429, RateLimited), (401, AccountBlocked), (402, AccountBlocked)]
)
def test_a_create_that_the_account_may_not_make_was_not_made(
    bench: Bench, status: int, kind: type[Unreachable]
) -> None:
    bench.upload()
    bench.simulator.fault("create", "status", status=status)
    with pytest.raises(kind) as raised:
        stages.create(bench.claim, bench.clients)
    assert not raised.value.sent


LOST: list[tuple[str, dict[str, Any]]] = [
    ("lost", {"after_commit": True}),
    ("status", {"status": 500, "after_commit": True}),
    ("status", {"status": 503, "body": "html", "after_commit": True}),
    ("status", {"status": 504, "body": "empty", "after_commit": True}),
    ("cut", {"bytes": 10}),
    ("cut", {"bytes": 10, "clean": True}),
]


def _find(bench: Bench, after: timedelta = timedelta(0)) -> object:
    """The next claim of an unanswered create: `after` it can no longer be in flight."""
    bench.claim = with_(bench.claim, lease=uuid4(), create_deadline=NOW, now=NOW + after)
    return stages.create(bench.claim, bench.clients)


@pytest.mark.parametrize(("kind", "options"), LOST, ids=str)
def test_a_create_whose_answer_is_lost_is_found_and_not_repeated(
    bench: Bench, kind: str, options: dict[str, Any]
) -> None:
    bench.upload()
    bench.simulator.fault("create", kind, **options)
    outcome = stages.create(bench.claim, bench.clients)
    assert isinstance(outcome, Retry)
    assert not outcome.not_sent
    found = _find(bench)
    assert isinstance(found, Advance)
    assert found.to is BatchState.CREATED
    (batch,) = bench.together.batches()
    assert found.changes == Changes(provider_batch_id=batch.id)
    assert bench.simulator.batches_created == 1


def test_a_create_that_shows_no_batch_is_found(bench: Bench) -> None:
    bench.simulator.switch(job_null_on_create=True)
    bench.upload()
    outcome = stages.create(bench.claim, bench.clients)
    assert isinstance(outcome, Retry)
    assert not outcome.not_sent
    assert isinstance(_find(bench), Advance)
    assert bench.simulator.batches_created == 1


def test_a_refused_connection_leaves_no_intent(bench: Bench, pool: Pool, tmp_path: Path) -> None:
    bench.upload()
    nowhere = clients(bench.blobs, Together(pool, "http://127.0.0.1:9", KEY), tmp_path)
    outcome = stages.create(bench.claim, nowhere)
    assert isinstance(outcome, Retry)
    assert outcome.not_sent


def test_a_create_that_never_arrived_is_given_up_after_the_grace(bench: Bench) -> None:
    bench.upload()
    bench.simulator.fault("create", "lost")
    stages.create(bench.claim, bench.clients)
    for after in (-GRACE, timedelta(0), GRACE - SECOND):
        waiting = _find(bench, after)
        assert isinstance(waiting, Wait)
        assert waiting.delay <= POLL
        assert timedelta(0) < waiting.delay <= GRACE - after
    assert _find(bench, GRACE) == Advance(BatchState.QUEUED)
    assert bench.simulator.batches_created == 0


def test_a_batch_that_is_late_in_the_list_is_waited_for(bench: Bench) -> None:
    bench.simulator.switch(list_lag_seconds=0.3)
    bench.upload()
    bench.simulator.fault("create", "lost", after_commit=True)
    stages.create(bench.claim, bench.clients)
    assert isinstance(_find(bench), Wait)
    eventually(lambda: isinstance(_find(bench), Advance))
    assert bench.simulator.batches_created == 1


def test_a_batch_whose_entry_in_the_list_names_no_file_is_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.upload()
    bench.simulator.fault("create", "lost", after_commit=True)
    assert isinstance(stages.create(bench.claim, bench.clients), Retry)
    listed = Together.batches
    monkeypatch.setattr(
        Together, "batches", lambda self: [with_(b, input_file_id=None) for b in listed(self)]
    )
    outcome = stages.create(with_(bench.claim, create_deadline=NOW), bench.clients)
    assert isinstance(outcome, Advance)
    assert outcome.changes.provider_batch_id is not None


def test_a_search_needs_a_list_that_was_read(bench: Bench) -> None:
    bench.upload()
    bench.simulator.fault("create", "lost")
    stages.create(bench.claim, bench.clients)
    bench.simulator.fault("list", "status", status=500)
    with pytest.raises(Transient):
        _find(bench, 10 * GRACE)
    assert _find(bench, 10 * GRACE) == Advance(BatchState.QUEUED)


def test_a_cancelled_job_looks_for_its_lost_batch_all_the_same(bench: Bench) -> None:
    bench.upload()
    bench.simulator.fault("create", "lost", after_commit=True)
    stages.create(bench.claim, bench.clients)
    bench.claim = with_(bench.claim, cancel_requested=True)
    bench.part = with_(bench.part, cancelled=True)
    found = _find(bench)
    assert isinstance(found, Advance)
    assert found.to is BatchState.CREATED


def test_of_several_batches_the_oldest_is_adopted_and_the_others_are_cancelled(
    bench: Bench,
) -> None:
    bench.simulator.batch_rule(hang=True)
    file_id = bench.upload()
    ids = [
        _must(bench.together.create(bench.claim.endpoint, file_id, within=POLL)).id
        for _ in range(3)
    ]
    found = _find(bench)
    assert isinstance(found, Advance)
    assert found.changes.provider_batch_id == ids[0]

    def cancelled() -> set[str]:
        return {b.id for b in bench.together.batches() if b.status == "CANCELLED"}

    eventually(lambda: cancelled() == set(ids[1:]))
    assert not bench.together.batch(ids[0]).ended


def _must(value: T | None) -> T:
    assert value is not None
    return value


# --- poll ---------------------------------------------------------------------------------------


def test_a_batch_at_work_is_looked_at_again(bench: Bench) -> None:
    bench.simulator.batch_rule(hang=True)
    bench.create()
    outcome = stages.poll(bench.claim, bench.clients)
    assert isinstance(outcome, Wait)
    assert POLL <= outcome.delay <= 10 * POLL
    assert outcome.changes.provider_status in {"VALIDATING", "IN_PROGRESS"}


def test_an_unknown_status_is_shown_and_waited_out(bench: Bench) -> None:
    bench.simulator.batch_rule(hang=True, shows="PONDERING", shows_seconds=60)
    bench.create()

    def seen() -> bool:
        outcome = stages.poll(bench.claim, bench.clients)
        assert isinstance(outcome, Wait)
        return outcome.changes.provider_status == "PONDERING"

    eventually(seen)


def test_a_failed_batch_ends_at_the_first_look(bench: Bench) -> None:
    bench.simulator.batch_rule(outcome="fail", message="Line 2 (within chunk)")
    bench.create()
    batch_id = _must(bench.claim.provider_batch_id)
    eventually(lambda: bench.together.batch(batch_id).ended)
    outcome = stages.poll(bench.claim, bench.clients)
    assert isinstance(outcome, Advance)
    assert outcome.changes.provider_status == "FAILED"
    assert outcome.changes.provider_error == "Line 2 (within chunk)"


def test_a_cancel_is_sent_once(bench: Bench) -> None:
    bench.simulator.batch_rule(hang=True)
    bench.create()
    bench.claim = with_(bench.claim, cancel_requested=True)
    bench.part = with_(bench.part, cancelled=True)
    for _ in range(3):
        outcome = stages.poll(bench.claim, bench.clients)
        if isinstance(outcome, Wait):
            assert outcome.changes.cancel_sent
            bench.learned(outcome)
    assert bench.simulator.counts()["cancel"] == 1


def test_a_cancel_that_was_not_heard_is_sent_again(bench: Bench) -> None:
    bench.simulator.batch_rule(hang=True)
    bench.create()
    bench.claim = with_(bench.claim, cancel_requested=True)
    bench.part = with_(bench.part, cancelled=True)
    bench.simulator.fault("cancel", "status", status=503)
    with pytest.raises(Transient):
        stages.poll(bench.claim, bench.clients)
    assert isinstance(stages.poll(bench.claim, bench.clients), Wait)


def test_a_cancel_that_comes_too_late_changes_nothing(bench: Bench) -> None:
    bench.create()
    batch_id = _must(bench.claim.provider_batch_id)
    eventually(lambda: bench.together.batch(batch_id).ended)
    outcome = stages.poll(with_(bench.claim, cancel_requested=True), bench.clients)
    assert isinstance(outcome, Advance)
    assert outcome.changes.provider_status == "COMPLETED"


def test_a_late_duplicate_under_a_spent_file_is_cancelled(bench: Bench) -> None:
    bench.simulator.batch_rule(hang=True)
    spent = bench.upload()
    late = _must(bench.together.create(bench.claim.endpoint, spent, within=POLL))
    bench.create()
    assert stages.cancel_duplicates(bench.together, [spent]) == 1
    eventually(lambda: bench.together.batch(late.id).status == "CANCELLED")
    assert not bench.together.batch(_must(bench.claim.provider_batch_id)).ended
    assert stages.cancel_duplicates(bench.together, [spent]) == 0


def test_a_batch_that_together_does_not_know_waits_and_then_for_an_operator(bench: Bench) -> None:
    claim = with_(bench.claim, provider_batch_id=str(uuid4()), state=BatchState.CREATED)
    first = stages.poll(with_(claim, failures=1000), bench.clients)
    assert isinstance(first, Retry)
    assert first.not_there
    last = stages.poll(with_(claim, not_there=MOST_NOT_THERE - 1), bench.clients)
    assert isinstance(last, Retry)
    assert _must(last.delay) > _must(first.delay)
    assert isinstance(stages.poll(with_(claim, not_there=MOST_NOT_THERE), bench.clients), Park)


# --- fetch --------------------------------------------------------------------------------------


def test_everything_comes_home_in_input_order(bench: Bench) -> None:
    bench.shard(*[f"r{i}" for i in range(50)])
    bench.end()
    outcome = bench.fetch()
    assert bench.succeeded(outcome) == bench.custom_ids
    assert outcome.parts[0].usage.total_tokens > 0


def test_successes_are_the_providers_bytes(bench: Bench) -> None:
    bench.end()
    outcome = bench.fetch()
    ours = b"".join(bench.blobs.stream(_must(outcome.parts[0].final_lines).blob))
    to = bench.clients.scratch / "output"
    with to.open("w+b") as file:
        bench.together.download(_must(bench.claim.output_file_id), file, lambda: None)
    assert sorted(ours.splitlines()) == sorted(to.read_bytes().splitlines())


def test_failed_lines_are_dead_or_carried_by_their_words(bench: Bench) -> None:
    bench.simulator.line_rule("error", custom_id="a")
    bench.simulator.line_rule("error", custom_id="b", message="Invalid model specified")
    bench.end()
    outcome = bench.fetch()
    assert bench.succeeded(outcome) == ["c"]
    assert bench.carried(outcome) == ["a"]
    assert bench.codes(outcome) == {"b": "batch_client_error"}
    (retry,) = outcome.parts[0].retries
    assert [e.attempts for e in bench.blobs.get_manifest(retry.manifest)] == [1]


@pytest.mark.parametrize(
    ("effect", "fate"),
    [
        ("missing", "carried"),
        ("broken", "carried"),
        ("truncated", "carried"),
        ("duplicate", "succeeded"),
        ("stranger", "succeeded"),
        ("both_files", "succeeded"),
        ("empty_length", "succeeded"),
        ("error_in_output", "carried"),
        ("bad_status", "carried"),
    ],
)
def test_an_odd_line_harms_no_other(bench: Bench, effect: str, fate: str) -> None:
    bench.simulator.line_rule(effect, custom_id="b")
    bench.end()
    outcome = bench.fetch()
    found = bench.succeeded(outcome) if fate == "succeeded" else bench.carried(outcome)
    assert "b" in found
    assert {"a", "c"} <= set(bench.succeeded(outcome))
    odd = outcome.oddities
    counted = {
        "missing": odd.missing,
        "broken": odd.unreadable,
        "duplicate": odd.duplicate,
        "stranger": odd.unknown,
        "empty_length": odd.truncated,
    }
    assert counted.get(effect, 1) == 1


@pytest.mark.parametrize(("outcome", "status"), [("expire", "EXPIRED"), ("cancel", "CANCELLED")])
def test_what_was_done_on_a_bad_day_is_kept_and_the_rest_carried(
    bench: Bench, outcome: str, status: str
) -> None:
    bench.shard(*[f"r{i}" for i in range(10)])
    bench.simulator.batch_rule(outcome=outcome, share=0.4)
    bench.end()
    assert bench.claim.provider_status == status
    settled = bench.fetch()
    assert settled.parts[0].succeeded == 4
    assert len(bench.carried(settled)) == 6
    (retry,) = settled.parts[0].retries
    entries = bench.blobs.get_manifest(retry.manifest)
    assert {(e.attempts, e.lost) for e in entries} == {(0, 1)}


def test_a_cancelled_job_keeps_what_was_done_and_sends_nothing_again(bench: Bench) -> None:
    bench.shard(*[f"r{i}" for i in range(10)])
    bench.simulator.batch_rule(outcome="cancel", share=0.4)
    bench.end()
    bench.claim = with_(bench.claim, cancel_requested=True)
    bench.part = with_(bench.part, cancelled=True)
    settled = bench.fetch()
    assert settled.parts[0].succeeded == 4
    assert list(bench.codes(settled).values()) == ["cancelled"] * 6
    assert not settled.parts[0].retries


def test_a_job_cancelled_when_all_was_done_keeps_it_all(bench: Bench) -> None:
    bench.end()
    bench.claim = with_(bench.claim, cancel_requested=True)
    bench.part = with_(bench.part, cancelled=True)
    assert bench.succeeded(bench.fetch()) == ["a", "b", "c"]


def test_a_batch_that_failed_whole_is_tried_whole_once_more(bench: Bench) -> None:
    bench.simulator.batch_rule(outcome="fail", message="Line 2 (within chunk): Invalid JSON")
    bench.end()
    settled = bench.fetch()
    assert bench.carried(settled) == ["a", "b", "c"]


@pytest.mark.parametrize("reads", [1, 2, 6])
@pytest.mark.parametrize("outcome", ["complete", "expire", "cancel"])
def test_files_that_show_late_are_waited_for(bench: Bench, outcome: str, reads: int) -> None:
    bench.shard(*[f"r{i}" for i in range(10)])
    if outcome != "complete":
        bench.simulator.batch_rule(outcome=outcome, share=0.4)
        reads = min(reads, 3)
    bench.simulator.switch(terminal_reads_without_files=reads)
    bench.end()
    settled = bench.fetch()
    assert settled.parts[0].succeeded == (10 if outcome == "complete" else 4)


def test_a_cut_download_is_no_missing_line(bench: Bench) -> None:
    bench.end()
    bench.simulator.switch(content_length=False)
    bench.simulator.fault("content", "cut", fraction=0.5, clean=True, times=2)
    assert isinstance(stages.fetch(bench.claim, bench.clients), Wait)
    assert bench.succeeded(bench.fetch()) == ["a", "b", "c"]


def test_a_file_that_stays_short_costs_only_what_is_missing_in_it(bench: Bench) -> None:
    bench.end()
    bench.simulator.switch(content_length=False)
    bench.simulator.fault("content", "cut", fraction=0.5, clean=True, times=None)
    settled = bench.fetch()
    assert settled.parts[0].succeeded + len(bench.carried(settled)) == 3
    assert settled.parts[0].succeeded > 0
    assert bench.claim.now - NOW >= bench.clients.settings.settle_patience_seconds


def test_a_batch_that_brings_nothing_legible_is_parked_and_not_bought_again(bench: Bench) -> None:
    bench.simulator.line_rule("broken")
    bench.end()
    outcome = stages.fetch(bench.claim, bench.clients)
    while isinstance(outcome, Wait):
        bench.learned(outcome)
        bench.claim = with_(bench.claim, now=bench.claim.now + outcome.delay)
        outcome = stages.fetch(bench.claim, bench.clients)
    assert isinstance(outcome, Park)


def test_a_batch_that_has_not_ended_after_all_is_waited_for(bench: Bench) -> None:
    bench.simulator.batch_rule(hang=True)
    bench.create()
    claim = with_(bench.claim, state=BatchState.ENDED, provider_status="COMPLETED")
    assert isinstance(stages.fetch(claim, bench.clients), Wait)


def test_fetching_twice_gives_the_same_under_other_names(bench: Bench) -> None:
    bench.end()
    first = bench.fetch()
    bench.claim = with_(bench.claim, lease=uuid4())
    second = bench.fetch()
    assert bench.lines(first) == bench.lines(second)
    one, other = _must(first.parts[0].final_lines), _must(second.parts[0].final_lines)
    assert one.blob != other.blob


def test_fetch_leaves_no_scratch_behind(bench: Bench, tmp_path: Path) -> None:
    bench.end()
    bench.fetch()
    assert [path.name for path in tmp_path.iterdir()] == ["blobs"]


# --- split and assemble -------------------------------------------------------------------------


def _split(bench: Bench, tmp_path: Path, content: bytes | None, **settings: Any) -> object:
    inputs = tmp_path / "in"
    inputs.mkdir()
    if content is not None:
        (inputs / "a.jsonl").write_bytes(content)
    url = f"{inputs.as_uri()}/a.jsonl"
    roots = {"input_roots": (inputs.as_uri(),), **settings}
    made = clients(bench.blobs, bench.together, tmp_path, **roots)
    return stages.split(job_claim(input=url), made)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_split_reads_the_input(
    bench: Bench, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    content = pack(b"\n".join(chat_line(f"r{i}") for i in range(5)))
    outcome = _split(bench, tmp_path, content, shard_requests=2)
    assert isinstance(outcome, Split)
    assert [shard.requests for shard in outcome.shards] == [2, 2, 1]


@pytest.mark.parametrize(
    ("content", "words", "lines"),
    [
        (None, "is not a file that can be read", []),
        (b"", "the input holds no requests", [None]),
        (gzip.compress(b"x", mtime=0)[:-1], "the gzip data is cut off", [None]),
        (b"[{}]", "the input is a JSON array", [None]),
        (b"oops\n\n" + chat_line("a") + b"\n" + chat_line("a"), "line 1: is not JSON", [1, 4]),
    ],
)
def test_split_rejects_a_bad_input(
    bench: Bench, tmp_path: Path, content: bytes | None, words: str, lines: list[int | None]
) -> None:
    outcome = _split(bench, tmp_path, content)
    assert isinstance(outcome, Fail)
    assert outcome.rejected
    assert words in outcome.reason
    assert [problem.line for problem in outcome.problems] == lines


def test_split_rejects_an_input_whose_root_was_closed(bench: Bench, tmp_path: Path) -> None:
    outcome = _split(bench, tmp_path, chat_line("a"), input_roots=())
    assert isinstance(outcome, Fail)
    assert outcome.rejected


def test_split_follows_no_link_into_another_producers_root(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jsonl").write_bytes(chat_line("a"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.jsonl").symlink_to(tmp_path / "other" / "a.jsonl")
    made = clients(bench.blobs, bench.together, tmp_path, input_roots=(tmp_path.as_uri(),))
    own = with_(made, permissions=Permissions(input_roots=((tmp_path / "own").as_uri(),)))
    url = f"{(tmp_path / 'own').as_uri()}/a.jsonl"

    assert isinstance(stages.split(job_claim(input=url), made), Split)
    outcome = stages.split(job_claim(input=url), own)
    assert isinstance(outcome, Fail)
    assert outcome.rejected


def test_assemble_puts_batches_in_order(bench: Bench) -> None:
    parts: tuple[FinalLines, ...] = (
        final_lines(bench.blobs, "x", [(0, b"a"), (2, b"c")]),
        final_lines(bench.blobs, "y", [(1, b"b")]),
    )
    claim = job_claim(state=JobState.RUNNING, final_lines=parts)
    outcome = stages.assemble(claim, bench.clients)
    assert isinstance(outcome, Assembled)
    (segment,) = outcome.segments
    assert b"".join(bench.blobs.stream(segment.blob)) == b"a\nb\nc\n"
    assert str(claim.lease) in segment.blob


STAGES: list[Callable[[BatchClaim, AccountClients], object]] = [stages.upload, stages.ended_here]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_a_lost_blob_is_an_error_that_names_it(
    bench: Bench, stage: Callable[[BatchClaim, AccountClients], object]
) -> None:
    bench.part = with_(bench.part, manifest="gone")
    claim = with_(bench.claim, cancel_requested=True)
    with pytest.raises(FileNotFoundError, match="gone"):
        stage(claim, bench.clients)


def test_ids_of_batches_are_in_the_names_of_their_files(bench: Bench) -> None:
    name = bench.together.file(bench.upload()).filename or ""
    assert UUID(name.removesuffix(".jsonl")) == bench.claim.id


@pytest.mark.parametrize(
    ("cancelled", "refused", "ends"),
    [
        (DAY, None, False),
        (DAY, SECOND, False),
        (SECOND, DAY, False),
        (DAY, DAY, True),
        (None, DAY, False),
    ],
)
def test_a_cancelled_batch_is_given_up_only_if_its_key_is_refused_for_all_of_the_patience(
    bench: Bench, cancelled: timedelta | None, refused: timedelta | None, ends: bool
) -> None:
    """However long ago it was cancelled: what it has bought by then is not thrown away."""
    bench.create()
    bench.simulator.keys({KEY: 401})
    claim = with_(
        bench.claim,
        cancelled_at=None if cancelled is None else NOW - cancelled,
        cancel_requested=cancelled is not None,
        key_refused_since=None if refused is None else NOW - refused,
    )
    outcome = stages.weigh(claim, AccountBlocked("401"), bench.clients)
    assert isinstance(outcome, Settle if ends else Pause)
