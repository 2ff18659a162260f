"""Random providers and random interleavings against the store on a real database.

Workers claim, die, come back late and say all that a stage can say; producers cancel and retry;
time moves on in leaps. After every step each request must be in exactly one place, and every row
that is not done must be one that somebody will pick up.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import sessionmaker

from service.rules.admission import Capacity
from service.rules.errors import Conflict, StaleLease
from service.rules.lanes import Signs, Trouble
from service.rules.outcomes import (
    Advance,
    Assembled,
    Changes,
    Cut,
    DeadLetter,
    Fail,
    Hold,
    Outcome,
    Park,
    Pause,
    Retry,
    RetryPart,
    SetApart,
    Settle,
    Settlement,
    Split,
    Wait,
)
from service.rules.packing import Limits
from service.rules.states import BATCH_STAGES, BatchState, JobState, PartState, Stage
from service.rules.work import BatchClaim, Claim, Ending, FinalLines, JobClaim, PartClaim
from service.store import engine
from service.store.apply import apply
from service.store.cancel import cancel
from service.store.claim import claim_batches, extend
from service.store.due import Due, dispatch
from service.store.engine import Database
from service.store.lane_verbs import id_of, lanes, pause, probe, resume
from service.store.models import Batch, Job, Part
from service.store.parked import abandon, unpark
from service.store.parts import parts_of
from service.store.revive import Revival, dead_letters_by_part, revive
from tests.factories import (
    LEASE,
    Harness,
    admit,
    claim_job,
    shard,
)
from tests.servers import Databases

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
GRACE = timedelta(seconds=60)
ACTS = (
    *["finish"] * 8,
    *["deliver_everything"] * 4,
    *["die"] * 2,
    *("tick", "deliver", "deliver", "deliver_what_nobody_sent"),
    *("keep", "cancel", "retry", "retry", "give_up", "operate"),
)
"""What may happen next, and how likely that is."""
EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "40"))
"""Of the slow case. Two seconds each; more on purpose: PROPERTY_EXAMPLES=500."""
LANES: tuple[tuple[type[Job | Batch], frozenset[Stage]], ...] = (
    (Job, frozenset({Stage.SPLIT, Stage.ASSEMBLE})),
    (Batch, frozenset({Stage.UPLOAD, Stage.FETCH})),
    (Batch, frozenset({Stage.CREATE})),
    (Batch, frozenset({Stage.POLL})),
)
"""What a scheduler asks for, one after the other."""

NARROW = Capacity(batches=3, tokens=1_000_000)
WIDE = Capacity(batches=None, tokens=1_000_000)


def sent(
    db: Database,
    lane: tuple[type[Job | Batch], frozenset[Stage]],
    limit: int,
    capacity: Capacity = NARROW,
) -> list[Due]:
    """What a scheduler sends of a lane: what is due, and for uploads what is let in."""
    due = dispatch(db, *lane, limit=limit, again=LEASE)
    if Stage.UPLOAD in lane[1]:
        due += admit(db, limit=limit - len(due), capacity=capacity, limits=SMALL)
    return due


SMALL = Limits(requests=8, bytes=10**9, wait=SECOND)
"""Some batches hold parts of several jobs, others are full with one."""

OUR_CLOCKS = {
    "jobs": ("not_before", "leased_until", "dispatched_at"),
    "parts": ("ready_at", "patient_until"),
    "batches": ("not_before", "created_at", "leased_until", "dispatched_at", "create_deadline"),
    "accounts": ("paused_until",),
    "lanes": ("held_until", "until"),
}


@pytest.fixture(scope="module")
def database(databases: Databases) -> Iterator[Engine]:
    url = databases.create()
    made = engine.create(url, pool_size=2)
    yield made
    made.dispose()
    databases.drop(url)


@pytest.mark.parametrize("examples", [4, pytest.param(EXAMPLES, marks=pytest.mark.slow)])
def test_every_request_stays_in_one_place_and_no_row_is_forgotten(
    database: Engine, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that jobs of a few requests fall ill, and probes are cut.
    monkeypatch.setattr("service.rules.lanes.PROBE", 2)
    monkeypatch.setattr("service.store.probing.PROBE", 2)
    monkeypatch.setattr("service.rules.lanes.FEW", 2)
    monkeypatch.setattr("service.rules.lanes.EVIDENCE_LINES", 1)

    class Here(Store):
        connections = database

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize="CI" in os.environ,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


class Store(RuleBasedStateMachine):
    """The store, and what a model of it remembers: which requests a blob's name stands for."""

    connections: ClassVar[Engine]

    def __init__(self) -> None:
        super().__init__()
        self.harness = Harness(engine.database(self.connections))
        self.harness.sweep()
        self.db = self.harness.db
        self.claims: list[Claim] = []
        """Of workers that may still say something, whether they hold their lease or not."""
        self.due: list[Due] = []
        """Messages that nobody has read yet."""
        self.jobs: list[UUID] = []
        self.unread: dict[UUID, list[int]] = {}
        """Of jobs that are still to be read: how many requests their parts will have."""
        self.parts: dict[UUID, tuple[PartClaim, ...]] = {}
        """By lease: the parts of a batch as its worker saw them."""
        self.carried: dict[str, tuple[int, ...]] = {}
        """By manifest: the ordinals of the requests in it."""
        self.served: dict[str, tuple[int, ...]] = {}
        """By blob of final lines: the ordinals that succeeded."""
        self.maybe_sent: set[str] = set()
        """Input files for which a create was or may be sent."""
        self.numbers = count()
        self.steps = 0

    # --- what happens ---------------------------------------------------------------------------

    @initialize(
        jobs=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=2), min_size=1, max_size=3),
        rounds=st.integers(0, 8),
        seed=st.integers(0, 2**32),
    )
    def begin(self, jobs: list[list[int]], rounds: int, seed: int) -> None:
        """Some jobs, of so many requests in each shard, somewhere on their way."""
        for number, sizes in enumerate(jobs):
            self.submit(sizes, read=number != 1)
            for _ in range(rounds if number == 0 else 0):
                self.work_once(61, Random(seed))

    def submit(self, sizes: list[int], *, read: bool = True) -> None:
        if read:
            job_id = self.harness.submitted(*sizes)
            with self.db.begin() as session:
                parts = session.scalars(
                    select(Part).where(Part.job_id == job_id).order_by(Part.shard)
                ).all()
            self.remember([(part.manifest_blob or "", part.requests) for part in parts])
        else:
            job_id = self.harness.unread()
            self.unread[job_id] = sizes
        self.jobs.append(job_id)

    def remember(self, manifests: Sequence[tuple[str, int]]) -> None:
        """Which requests the first parts of a job have."""
        first = 0
        for manifest, requests in manifests:
            self.carried[manifest] = tuple(range(first, first + requests))
            first += requests

    @rule(act=st.sampled_from(ACTS), seed=st.integers(0, 2**32))
    def act(self, act: str, seed: int) -> None:
        """One rule for all: of several, Hypothesis would leave most out of most examples.

        What is to be chosen from depends on the database, which Hypothesis does not allow for its
        own choices: so it chooses a seed.
        """
        act_out: Callable[[Random], None] = getattr(self, act)
        act_out(Random(seed))

    def tick(self, luck: Random) -> None:
        lane = luck.choice(LANES)
        self.due += sent(self.db, lane, luck.randint(1, 5))

    def deliver(self, luck: Random) -> None:
        """A message arrives, or it is lost, or it will come once more."""
        if not self.due:
            return self.tick(luck)
        message = luck.choice(self.due)
        if luck.random() < 0.5:
            self.due.remove(message)
        if luck.random() < 0.5:
            self.claims += self.claim(message.stage, message.id)
        return None

    def deliver_everything(self, luck: Random) -> None:
        """Time passes, and every row that is due then gets a worker."""
        self.pass_time(luck.choice((61.0, 0.0, 400.0)))
        self.due.clear()
        for lane in LANES:
            for message in sent(self.db, lane, 99):
                self.claims += self.claim(message.stage, message.id)

    def deliver_what_nobody_sent(self, luck: Random) -> None:
        """Late messages, from before a flush or a restored backup."""
        stage = luck.choice(list(Stage))
        table = "jobs" if stage in {Stage.SPLIT, Stage.ASSEMBLE} else "batches"
        for row_id in self.ids(f"SELECT id FROM haulier.{table} ORDER BY created_at, id"):
            self.claims += self.claim(stage, row_id)

    def finish(self, luck: Random) -> None:
        """Workers say what became of rows, whether they still have them or not."""
        if not self.claims:
            self.deliver_everything(luck)
        for claim in luck.sample(self.claims, min(luck.randint(1, 4), len(self.claims))):
            outcome = self.outcome(claim, luck)
            self.claims.remove(claim)
            if luck.random() < 0.25:
                self.claims.append(claim)  # it will say something else once more
            self.say(claim, outcome)

    def die(self, luck: Random) -> None:
        """A worker dies, and perhaps its lease runs out."""
        if self.claims:
            self.claims.remove(luck.choice(self.claims))
        self.pass_time(luck.choice((61.0, 1.0, 200.0)))

    def keep(self, _: Random) -> None:
        for claim in self.claims:
            held = self.holds(claim)
            try:
                extend(self.db, claim, LEASE)
            except StaleLease:
                assert not held
            else:
                assert held

    def cancel(self, luck: Random) -> None:
        job = self.harness.job(luck.choice(self.jobs))
        over = job.state in {JobState.COMPLETED, JobState.FAILED, JobState.REJECTED}
        try:
            cancel(self.db, job.id)
        except Conflict:
            assert over
        else:
            assert not over

    def give_up(self, luck: Random) -> None:
        """An operator has had enough of what is parked, or lets it go on."""
        job_id = luck.choice(self.jobs)
        parked = self.ids(
            "SELECT id FROM haulier.batches b WHERE parked_at IS NOT NULL AND finished_at IS NULL"
            " AND EXISTS (SELECT FROM haulier.parts p WHERE p.job_id = :id"
            " AND p.batch_id = b.id AND p.state = 'travelling')",
            id=job_id,
        )
        if luck.random() < 0.3:
            unpark(self.db, job_id)
            return
        try:
            given_up = abandon(self.db, job_id, again=luck.random() < 0.5)
        except Conflict:
            assert parked == []
        else:
            assert given_up == len(parked) > 0

    def operate(self, luck: Random) -> None:
        """An operator does something to a lane."""
        for lane in lanes(self.db):
            with suppress(Conflict):
                luck.choice((probe, resume, pause))(self.db, id_of(lane), by=None)

    def retry(self, luck: Random) -> None:
        """An operator retries a job; more often than not, one that has come to its end."""
        job_id = luck.choice(self.jobs)
        if luck.random() < 0.7:
            for _ in range(16):
                if self.harness.job(job_id).finished_at is None:
                    self.work_once(400, luck)
        job = self.harness.job(job_id)
        chosen = None
        if luck.random() < 0.5:
            chosen = self.ids(
                "SELECT custom_id FROM haulier.dead_letters WHERE job_id = :id"
                " AND ordinal % 2 = 0 ORDER BY 1",
                id=job.id,
            )
        found, _ = dead_letters_by_part(self.db, job.id, chosen)
        revivals = []
        for grave in found:
            manifest = self.named("revived")
            self.carried[manifest] = tuple(sorted(grave.ordinals))
            revivals.append(
                Revival(
                    part_id=grave.part_id,
                    manifest=manifest,
                    ordinals=grave.ordinals,
                    bytes=1,
                )
            )
        if not revivals:
            return
        try:
            revive(self.db, job.id, revivals)
        except Conflict:
            assert job.state not in {JobState.COMPLETED, JobState.CANCELLED}
        else:
            assert job.state in {JobState.COMPLETED, JobState.CANCELLED}

    # --- what must be true after each step ------------------------------------------------------

    @invariant()
    def counters_agree_with_rows(self) -> None:
        wrong = self.ids(
            """
            SELECT j.id FROM haulier.jobs j LEFT JOIN LATERAL (
                SELECT coalesce(sum(succeeded), 0) AS succeeded,
                       coalesce(sum(requests) FILTER (WHERE finished_at IS NULL), 0) AS pending,
                       count(*) FILTER (WHERE finished_at IS NULL) AS open
                FROM haulier.parts p WHERE p.job_id = j.id) b ON true
            WHERE total <> j.succeeded + j.failed + j.pending
               OR j.succeeded <> b.succeeded
               OR j.open_parts <> b.open
               OR (j.state = 'running' AND j.pending <> b.pending)
               OR j.failed <> (SELECT count(*) FROM haulier.dead_letters d WHERE d.job_id = j.id)
            """
        )
        assert wrong == []

    @invariant()
    def each_request_is_in_one_place(self) -> None:
        places: dict[UUID, list[int]] = {job_id: [] for job_id in self.jobs}
        split: set[UUID] = set()
        with self.db.begin() as session:
            columns = (Part.job_id, Part.state, Part.manifest_blob, Part.final_lines)
            for part in session.execute(select(*columns)):
                split.add(part.job_id)
                if part.state is not PartState.SETTLED:
                    places[part.job_id] += self.carried[part.manifest_blob or ""]
                elif part.final_lines is not None:
                    places[part.job_id] += self.served[part.final_lines["blob"]]
            for job_id, ordinal in session.execute(
                text("SELECT job_id, ordinal FROM haulier.dead_letters")
            ):
                places[job_id].append(ordinal)
            totals = dict(session.execute(select(Job.id, Job.total)).all())
        for job_id in split:
            assert sorted(places[job_id]) == list(range(totals[job_id]))

    @invariant()
    def batches_are_what_their_parts_are(self) -> None:
        wrong = self.ids(
            """
            SELECT b.id FROM haulier.batches b LEFT JOIN LATERAL (
                SELECT count(*) AS parts, sum(requests) AS requests, sum(succeeded) AS succeeded,
                       sum(dead) AS dead, sum(carried) AS carried,
                       count(*) FILTER (WHERE state = 'travelling') AS open,
                       count(DISTINCT job_id) AS jobs, count(DISTINCT company) AS companies,
                       bool_or(renamed <> b.renamed) AS misnamed
                FROM haulier.parts p WHERE p.batch_id = b.id) p ON true
            WHERE b.parts <> p.parts OR b.requests <> p.requests
               OR b.succeeded <> p.succeeded OR b.dead <> p.dead OR b.carried <> p.carried
               OR (b.finished_at IS NULL) <> (p.open > 0) OR (p.jobs > 1 AND NOT b.renamed)
               OR p.companies > 1 OR p.misnamed
            """
        )
        assert wrong == []

    @invariant()
    def no_row_is_forgotten(self) -> None:
        """In a day, were nobody to do anything, a scheduler would find every row.

        What is forgotten stays so: it is enough, and much faster, to look at every fifth step.
        """
        self.steps += 1
        if self.steps % 5 == 0:
            self.look_for_forgotten_rows()

    def look_for_forgotten_rows(self) -> None:
        with self.a_day_later() as db:
            # What probes a lane that is not healthy is a part of what waits: `teardown` sees that
            # the lane comes to itself.
            with db.begin() as session:
                session.execute(
                    text("UPDATE haulier.lanes SET state = 'healthy', paused_at = NULL")
                )
            found = {due.id for lane in LANES for due in sent(db, lane, 999, WIDE)}
            with db.begin() as session:
                left = select(Part.id).where(Part.state == PartState.WAITING)
                assert session.scalars(left).all() == []
                new = select(Part.batch_id).where(Part.id.in_(self.waiting_parts()))
                found -= {batch_id for batch_id in session.scalars(new) if batch_id is not None}
        waiting = self.ids(
            "SELECT id FROM haulier.batches WHERE finished_at IS NULL AND parked_at IS NULL"
            " UNION ALL SELECT id FROM haulier.jobs WHERE finished_at IS NULL"
            " AND parked_at IS NULL AND open_parts = 0"
        )
        assert found == set(waiting)

    def waiting_parts(self) -> list[UUID]:
        return self.ids("SELECT id FROM haulier.parts WHERE state = 'waiting'")

    def teardown(self) -> None:
        """Whatever has happened: with an operator's help for parked rows, everything ends."""
        self.look_for_forgotten_rows()
        self.harness.run("UPDATE haulier.jobs SET parked_at = NULL")
        self.harness.run("UPDATE haulier.batches SET parked_at = NULL")
        self.harness.run("UPDATE haulier.lanes SET paused_at = NULL")
        idle = 0
        for _ in range(200):
            # A lane whose probe did not come back rests for a day first, and nothing is due.
            idle = 0 if self.work_once(DAY.total_seconds()) else idle + 1
            if idle == 3:
                break
        assert self.ids("SELECT id FROM haulier.jobs WHERE finished_at IS NULL") == []
        self.counters_agree_with_rows()
        self.each_request_is_in_one_place()
        self.batches_are_what_their_parts_are()

    # --- workers --------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        with self.db.begin() as session:
            session.execute(text(_earlier(seconds)))

    def work_once(self, seconds: float, luck: Random | None = None) -> int:
        """Time passes, and whatever is due then goes well; with `luck`, not for every request.

        Gives how many rows were due.
        """
        self.pass_time(seconds)
        due = [message for lane in LANES for message in sent(self.db, lane, 99)]
        for message in due:
            for claim in self.claim(message.stage, message.id):
                self.say(claim, self.success(claim) if luck is None else self.hoped(claim, luck))
        return len(due)

    def claim(self, stage: Stage, row_id: UUID) -> list[Claim]:
        if stage in {Stage.SPLIT, Stage.ASSEMBLE}:
            job = claim_job(self.db, row_id, stage, LEASE)
            return [] if job is None else [job]
        claims: list[Claim] = []
        for claim in claim_batches(self.db, [row_id], stage, LEASE):
            assert BATCH_STAGES[claim.state] is stage
            claims.append(claim)
            assert isinstance(claim, BatchClaim)
            self.parts[claim.lease] = tuple(
                part for part in parts_of(self.db, claim) if part.state is PartState.TRAVELLING
            )
            if stage is Stage.CREATE and claim.create_deadline is None:
                assert claim.input_file_id is not None
                # Whoever is told of no earlier intent sends a create without a search.
                assert claim.input_file_id not in self.maybe_sent
                if not claim.cancel_requested and claim.ending is None:
                    self.maybe_sent.add(claim.input_file_id)
        return claims

    def say(self, claim: Claim, outcome: Outcome) -> None:
        held = self.holds(claim)
        before = None if held else self.snapshot()
        try:
            apply(self.db, claim, outcome, retry_base=SECOND, probe=SECOND, company=SECOND)
        except StaleLease:
            assert not held
            assert self.snapshot() == before
            return
        assert held
        if (
            isinstance(claim, BatchClaim)
            and claim.create_deadline is None
            and (
                isinstance(outcome, Pause | Hold)
                or (isinstance(outcome, Retry) and outcome.not_sent)
            )
        ):
            self.maybe_sent.discard(claim.input_file_id or "")

    def outcome(self, claim: Claim, luck: Random) -> Outcome:
        """What a stage could say of a row; success, more often than not."""
        return self.hoped(claim, luck) if luck.random() < 0.6 else luck.choice(self.setbacks(claim))

    def hoped(self, claim: Claim, luck: Random) -> Outcome:
        """No setback, but Together has not served every request."""
        if (
            isinstance(claim, BatchClaim)
            and claim.state is BatchState.ENDED
            and claim.ending not in {Ending.DEAD, Ending.AGAIN}
        ):
            return self.settlement(claim, luck)
        return self.success(claim)

    def setbacks(self, claim: Claim) -> list[Outcome]:
        transient: list[Outcome] = [
            Retry("503"),
            Retry("no answer", timedelta(0)),
            Retry("no answer", timedelta(0), create_failed=isinstance(claim, BatchClaim)),
            Retry("busy", SECOND),
            Pause("429", SECOND),
            Pause("401", blocked=True),
            Pause("402", blocked=True, spending=True),
            Park("25 workers died"),
        ]
        if isinstance(claim, JobClaim):
            if claim.state is JobState.ACCEPTED:
                transient.append(Fail("no"))
            return transient
        transient += [
            Wait(SECOND),
            Hold("queue full", SECOND),
            Retry("403 for this batch", SECOND, not_sent=True, refused=True)
            if claim.create_deadline is None
            else Retry("404", SECOND, not_there=True),
        ]
        if claim.state is BatchState.QUEUED or (
            claim.state is BatchState.UPLOADED and claim.create_deadline is None
        ):
            to = BatchState.CANCELLED if claim.cancel_requested else BatchState.FAILED
            transient += [self.buried(claim, to), Retry("not sent", SECOND, not_sent=True)]
            parts = self.parts[claim.lease]
            if claim.state is BatchState.QUEUED and len(parts) > 1:
                transient.append(SetApart((parts[0].id,), "its blob is missing"))
        elif (
            claim.state is BatchState.UPLOADED
            and claim.create_deadline is not None
            and claim.now >= claim.create_deadline + GRACE
        ):
            transient += [Advance(BatchState.QUEUED)] * 3
        return transient

    def success(self, claim: Claim) -> Outcome:
        """What a stage says when nothing goes wrong, or what ends the batch without it."""
        if isinstance(claim, JobClaim):
            return self.split(claim) if claim.state is JobState.ACCEPTED else Assembled(())
        if claim.ending in {Ending.DEAD, Ending.AGAIN}:
            return self.given_up(claim)
        match claim.state:
            case BatchState.QUEUED if self.is_large(claim):
                return self.cut(claim)
            case BatchState.QUEUED:
                changes = Changes(input_file_id=self.named("file"))
                return Advance(BatchState.UPLOADED, changes)
            case BatchState.UPLOADED:
                changes = Changes(provider_batch_id=self.named("provider"))
                return Advance(BatchState.CREATED, changes)
            case BatchState.CREATED:
                return Advance(BatchState.ENDED, Changes(provider_status="COMPLETED"))
            case _:
                parts = self.parts[claim.lease]
                done = tuple(self.settled(part, self.requests_of(part), (), ()) for part in parts)
                jobs = tuple({part.job_id for part in parts})
                return Settle(BatchState.SETTLED, done, signs=Signs(jobs=jobs, well=True))

    def is_large(self, claim: BatchClaim) -> bool:
        """Whether a probe has more requests than it may send."""
        alone = len(self.parts[claim.lease]) == 1 and not claim.cancel_requested
        return claim.probe is not None and claim.requests > claim.probe and alone

    def cut(self, claim: BatchClaim) -> Cut:
        (part,) = self.parts[claim.lease]
        ordinals, most = self.requests_of(part), claim.probe or 0
        travels, stays = self.named("manifest"), self.named("manifest")
        self.carried[travels], self.carried[stays] = ordinals[:most], ordinals[most:]
        return Cut(part=part.id, travels=travels, requests=most, bytes=1, stays=stays)

    def signs(self, parts: Sequence[PartClaim], luck: Random) -> Signs | None:
        """What such a batch could say of its lane."""
        jobs = tuple({part.job_id for part in parts})
        ill = Signs(jobs=jobs, trouble=Trouble.LINES, text="trouble", lines=9)
        return luck.choice((None, Signs(jobs=jobs, well=True), ill, ill))

    def split(self, claim: JobClaim) -> Split:
        shards = tuple(shard(size) for size in self.unread[claim.id])
        self.remember([(str(piece.manifest), piece.requests) for piece in shards])
        return Split(shards)

    def requests_of(self, part: PartClaim) -> tuple[int, ...]:
        return self.carried[str(part.manifest)]

    def given_up(self, claim: BatchClaim) -> Outcome:
        """All requests die, or go into new parts, as an operator has decided."""
        to = BatchState.SETTLED if claim.provider_batch_id is not None else BatchState.FAILED
        again = claim.ending is Ending.AGAIN
        done = []
        for part in self.parts[claim.lease]:
            ordinals = self.requests_of(part)
            lot: tuple[Any, ...] = ((), [ordinals]) if again else (ordinals, [])
            done.append(self.settled(part, (), *lot))
        return Settle(to, tuple(done), given_up=True)

    def settlement(self, claim: BatchClaim, luck: Random) -> Outcome:
        """Each request succeeds, dies, or goes on in one of two new parts.

        Or the whole batch FAILED, and is divided; or some parts wait for their files.
        """
        parts = self.parts[claim.lease]
        if len(parts) > 1 and luck.random() < 0.3:
            return self.divided(claim)
        done = []
        for part in parts:
            fates: list[list[int]] = [[], [], [], []]
            for ordinal in self.requests_of(part):
                luck.choice(fates).append(ordinal)
            good, bad, *groups = fates
            done.append(self.settled(part, good, bad, groups))
        rest = Wait(SECOND) if len(done) > 1 and luck.random() < 0.3 else None
        signs = self.signs(parts, luck)
        return Settle(BatchState.SETTLED, tuple(done[1:] if rest else done), rest=rest, signs=signs)

    def divided(self, claim: BatchClaim) -> Settle:
        """Half of the parts travel in one batch from now on, half in another."""
        companies = (uuid4(), uuid4())
        done = []
        for number, part in enumerate(self.parts[claim.lease]):
            ordinals = self.requests_of(part)
            manifest = self.named("manifest")
            self.carried[manifest] = ordinals
            retry = RetryPart(
                manifest=manifest,
                requests=len(ordinals),
                bytes=1,
                delay=timedelta(0),
                poison=claim.poison + 1,
                company=companies[number % 2],
            )
            done.append(
                Settlement(part=part.id, job_id=part.job_id, succeeded=0, dead=(), retries=(retry,))
            )
        return Settle(BatchState.SETTLED, tuple(done))

    def settled(
        self,
        part: PartClaim,
        good: Sequence[int],
        bad: Sequence[int],
        groups: Sequence[Sequence[int]],
    ) -> Settlement:
        retries = []
        for group in groups:
            if group:
                manifest = self.named("manifest")
                self.carried[manifest] = tuple(group)
                retries.append(
                    RetryPart(
                        manifest=manifest,
                        requests=len(group),
                        bytes=1,
                        delay=SECOND,
                        outage=len(group) % 2 == 0,
                    )
                )
        return Settlement(
            part=part.id,
            job_id=part.job_id,
            succeeded=len(good),
            dead=_letters(bad),
            retries=tuple(retries),
            final_lines=self.final_lines(good, bad),
        )

    def buried(self, claim: BatchClaim, to: BatchState) -> Outcome:
        parts = self.parts[claim.lease]
        return Settle(
            to, tuple(self.settled(part, (), self.requests_of(part), ()) for part in parts)
        )

    def final_lines(self, good: Sequence[int], bad: Sequence[int]) -> FinalLines | None:
        ordinals = sorted((*good, *bad))
        if not ordinals:
            return None
        blob = self.named("lines")
        self.served[blob] = tuple(good)
        return FinalLines(
            blob=blob,
            index_blob=f"{blob}.index",
            first_ordinal=ordinals[0],
            last_ordinal=ordinals[-1],
            bytes=1,
            requests=len(ordinals),
        )

    # --- looking --------------------------------------------------------------------------------

    def holds(self, claim: Claim) -> bool:
        table = "jobs" if isinstance(claim, JobClaim) else "batches"
        query = f"SELECT lease FROM haulier.{table} WHERE id = :id"
        return self.ids(query, id=claim.id) == [claim.lease]

    def snapshot(self) -> list[Any]:
        tables = ("jobs", "parts", "batches", "events", "dead_letters", "accounts")
        return [self.ids(f"SELECT t::text FROM haulier.{t} t ORDER BY 1") for t in tables]

    def ids(self, query: str, **values: Any) -> list[Any]:
        return list(self.harness.rows(query, **values))

    def named(self, what: str) -> str:
        return f"{what}-{next(self.numbers)}"

    @contextmanager
    def a_day_later(self) -> Iterator[engine.Database]:
        """The database in a day; what is done there is undone."""
        with self.connections.connect() as connection:
            outer = connection.begin()
            connection.execute(text(_earlier(DAY.total_seconds())))
            yield sessionmaker(
                connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
            )
            outer.rollback()


def _earlier(seconds: float) -> str:
    """Moves every instant that is waited for back, which is as good as time moving on."""
    return ";".join(
        f"UPDATE haulier.{table} SET "
        + ", ".join(f"{clock} = {clock} - interval '{seconds} s'" for clock in clocks)
        for table, clocks in OUR_CLOCKS.items()
    )


def _letters(ordinals: Sequence[int]) -> tuple[DeadLetter, ...]:
    return tuple(
        DeadLetter(ordinal=o, custom_id=f"r{o}", code="error", message="no", attempts=1)
        for o in ordinals
    )
