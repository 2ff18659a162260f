"""Random providers and random interleavings against the store on a real database.

Workers claim, die, come back late and say all that a stage can say; producers cancel and retry;
time moves on in leaps. After every step each request must be in exactly one place, and every row
that is not done must be one that somebody will pick up.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import sessionmaker

from service.errors import Conflict, StaleLease
from service.models import Batch, Job
from service.states import BATCH_STAGES, OPEN_BATCH_STATES, BatchState, JobState, Stage
from service.store import engine
from service.store.apply import apply
from service.store.cancel import cancel
from service.store.claim import claim_batches, claim_job, extend
from service.store.due import Due, dispatch
from service.store.revive import Revival, graveyards, revive
from service.work import (
    Advance,
    Assembled,
    BatchClaim,
    Changes,
    Claim,
    DeadLetter,
    Fail,
    FinalLines,
    JobClaim,
    Outcome,
    Park,
    Pause,
    Retry,
    RetryBatch,
    Settle,
    Settlement,
    Shard,
    Split,
    Wait,
)
from tests.factories import LEASE, House
from tests.servers import Databases

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
GRACE = timedelta(seconds=60)
MOST_JOBS = 3
EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "20"))
"""A second or two each; more on purpose: PROPERTY_EXAMPLES=500."""
LANES: tuple[tuple[type[Job | Batch], frozenset[Stage]], ...] = (
    (Job, frozenset({Stage.SPLIT, Stage.ASSEMBLE})),
    (Batch, frozenset({Stage.UPLOAD, Stage.FETCH})),
    (Batch, frozenset({Stage.CREATE})),
    (Batch, frozenset({Stage.POLL})),
)
"""What a scheduler asks for, one after the other."""

OUR_CLOCKS = {
    "jobs": ("not_before", "leased_until", "dispatched_at"),
    "batches": ("not_before", "leased_until", "dispatched_at", "create_deadline"),
    "accounts": ("paused_until",),
}


@pytest.fixture(scope="module")
def database(databases: Databases) -> Iterator[Engine]:
    url = databases.create()
    made = engine.create(url, pool_size=2)
    yield made
    made.dispose()
    databases.drop(url)


def test_every_request_stays_in_one_place_and_no_row_is_forgotten(database: Engine) -> None:
    class Here(Store):
        connections = database

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
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
        self.house = House(engine.database(self.connections))
        self.house.sweep()
        self.db = self.house.db
        self.claims: list[Claim] = []
        """Of workers that may still say something, whether they hold their lease or not."""
        self.due: list[Due] = []
        """Messages that nobody has read yet."""
        self.jobs: list[UUID] = []
        self.carried: dict[str, tuple[int, ...]] = {}
        """By manifest: the ordinals of the requests in it."""
        self.served: dict[str, tuple[int, ...]] = {}
        """By blob of final lines: the ordinals that succeeded."""
        self.maybe_sent: set[str] = set()
        """Input files for which a create was or may be sent."""
        self.numbers = count()
        self.steps = 0

    # --- what happens ---------------------------------------------------------------------------

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=2))
    def submit(self, sizes: list[int]) -> None:
        job_id = self.house.submitted(*sizes)
        first = 0
        for shard in self.house.job(job_id).plan or ():
            last = first + shard["requests"]
            self.carried[shard["manifest_blob"]] = tuple(range(first, last))
            first = last
        self.jobs.append(job_id)

    @rule(lane=st.sampled_from(LANES), limit=st.integers(1, 5))
    def tick(self, lane: tuple[type[Job | Batch], frozenset[Stage]], limit: int) -> None:
        self.due += dispatch(self.db, *lane, limit=limit, again=LEASE)

    @precondition(lambda self: self.due)
    @rule(data=st.data(), lost=st.booleans(), again=st.booleans())
    def deliver(self, data: st.DataObject, lost: bool, again: bool) -> None:
        """A message arrives, or it is lost, or it will come once more."""
        message = data.draw(st.sampled_from(self.due))
        if not again:
            self.due.remove(message)
        if not lost:
            self.claim(message.stage, message.id)

    @rule(stage=st.sampled_from(Stage))
    def deliver_what_nobody_sent(self, stage: Stage) -> None:
        """A late message, from before a flush or a restored backup."""
        if stage in {Stage.SPLIT, Stage.ASSEMBLE}:
            for job_id in self.jobs:
                self.claim(stage, job_id)
        else:
            for batch_id in self.ids("SELECT id FROM haulier.batches ORDER BY id"):
                self.claim(stage, batch_id)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """A worker says what became of a row, whether it still has it or not."""
        claim = data.draw(st.sampled_from(self.claims))
        outcome = data.draw(self.outcomes(claim))
        if data.draw(st.integers(0, 5)) > 0:
            self.claims.remove(claim)  # else it will say something else once more
        self.say(claim, outcome)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.claims.remove(data.draw(st.sampled_from(self.claims)))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        held = self.holds(claim)
        try:
            extend(self.db, claim, LEASE)
        except StaleLease:
            assert not held
        else:
            assert held

    @rule(seconds=st.sampled_from((0.5, 5.0, 61.0, 400.0)))
    def pass_time(self, seconds: float) -> None:
        with self.db.begin() as session:
            session.execute(text(_earlier(seconds)))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = self.house.job(data.draw(st.sampled_from(self.jobs)))
        over = job.state in {JobState.COMPLETED, JobState.FAILED, JobState.REJECTED}
        try:
            cancel(self.db, job.id)
        except Conflict:
            assert over
        else:
            assert not over or job.cancel_requested_at is not None

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), all_of_them=st.booleans())
    def retry(self, data: st.DataObject, all_of_them: bool) -> None:
        job = self.house.job(data.draw(st.sampled_from(self.jobs)))
        chosen = None
        if not all_of_them:
            chosen = self.ids(
                "SELECT custom_id FROM haulier.dead_letters WHERE job_id = :id"
                " AND ordinal % 2 = 0 ORDER BY 1",
                id=job.id,
            )
        found, _ = graveyards(self.db, job.id, chosen)
        if not found:
            return
        revivals = []
        for grave in found:
            manifest = self.named("revived")
            self.carried[manifest] = tuple(sorted(grave.ordinals))
            revivals.append(
                Revival(
                    batch_id=grave.batch_id,
                    manifest_blob=manifest,
                    ordinals=grave.ordinals,
                    bytes=1,
                )
            )
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
                FROM haulier.batches b WHERE b.job_id = j.id) b ON true
            WHERE total <> j.succeeded + j.failed + j.pending
               OR j.succeeded <> b.succeeded
               OR j.open_batches <> b.open
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
            for batch in session.scalars(select(Batch)):
                split.add(batch.job_id)
                if batch.state in OPEN_BATCH_STATES:
                    places[batch.job_id] += self.carried[batch.manifest_blob]
                elif batch.outcome is not None:
                    places[batch.job_id] += self.served[batch.outcome["blob"]]
            for job_id, ordinal in session.execute(
                text("SELECT job_id, ordinal FROM haulier.dead_letters")
            ):
                places[job_id].append(ordinal)
            totals = {job.id: job.total for job in session.scalars(select(Job))}
        for job_id in split:
            assert sorted(places[job_id]) == list(range(totals[job_id]))

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
            found = {
                due.id for lane in LANES for due in dispatch(db, *lane, limit=999, again=LEASE)
            }
        waiting = self.ids(
            "SELECT id FROM haulier.batches WHERE finished_at IS NULL AND parked_at IS NULL"
            " UNION ALL SELECT id FROM haulier.jobs WHERE finished_at IS NULL"
            " AND parked_at IS NULL AND open_batches = 0"
        )
        assert found == set(waiting)

    def teardown(self) -> None:
        """Whatever has happened: with an operator's help for parked rows, everything ends."""
        self.look_for_forgotten_rows()
        self.house.run("UPDATE haulier.jobs SET parked_at = NULL")
        self.house.run("UPDATE haulier.batches SET parked_at = NULL")
        for _ in range(200):
            with self.db.begin() as session:
                session.execute(text(_earlier(DAY.total_seconds())))
            due = [d for lane in LANES for d in dispatch(self.db, *lane, limit=99, again=LEASE)]
            if not due:
                break
            for message in due:
                self.claims.clear()
                self.claim(message.stage, message.id)
                for claim in self.claims:
                    self.say(claim, self.success(claim))
        assert self.ids("SELECT id FROM haulier.jobs WHERE finished_at IS NULL") == []
        self.counters_agree_with_rows()
        self.each_request_is_in_one_place()

    # --- workers --------------------------------------------------------------------------------

    def claim(self, stage: Stage, row_id: UUID) -> None:
        if stage in {Stage.SPLIT, Stage.ASSEMBLE}:
            job = claim_job(self.db, row_id, stage, LEASE)
            self.claims += [] if job is None else [job]
            return
        for claim in claim_batches(self.db, [row_id], stage, LEASE):
            assert BATCH_STAGES[claim.state] is stage
            self.claims.append(claim)
            if stage is Stage.CREATE and claim.create_deadline is None:
                assert claim.input_file_id is not None
                # Whoever is told of no earlier intent sends a create without a search.
                assert claim.input_file_id not in self.maybe_sent
                if not claim.cancel_requested:
                    self.maybe_sent.add(claim.input_file_id)

    def say(self, claim: Claim, outcome: Outcome) -> None:
        held = self.holds(claim)
        before = None if held else self.snapshot()
        try:
            apply(self.db, claim, outcome, retry_base=SECOND, probe=SECOND)
        except StaleLease:
            assert not held
            assert self.snapshot() == before
            return
        assert held
        if (
            isinstance(claim, BatchClaim)
            and claim.create_deadline is None
            and (isinstance(outcome, Pause) or (isinstance(outcome, Retry) and outcome.not_sent))
        ):
            self.maybe_sent.discard(claim.input_file_id or "")

    def outcomes(self, claim: Claim) -> st.SearchStrategy[Outcome]:
        """All that a stage could say of a row."""
        transient: list[Outcome] = [
            Retry("503"),
            Pause("429", SECOND),
            Pause("401", blocked=True),
            Pause("402", blocked=True, spending=True),
            Park("25 workers died"),
        ]
        if isinstance(claim, JobClaim):
            if claim.state is JobState.ACCEPTED:
                return st.sampled_from([*transient, self.success(claim), Fail("no")])
            return st.sampled_from([*transient, self.success(claim)])
        transient.append(Wait(SECOND))
        if claim.state is BatchState.ENDED:
            return st.one_of(st.sampled_from(transient), self.settlements(claim))
        choices = [*transient, self.success(claim), self.success(claim)]
        if claim.state is BatchState.QUEUED or (
            claim.state is BatchState.UPLOADED and claim.create_deadline is None
        ):
            to = BatchState.CANCELLED if claim.cancel_requested else BatchState.FAILED
            choices += [self.buried(claim, to), Retry("not sent", SECOND, not_sent=True)]
        elif (
            claim.state is BatchState.UPLOADED
            and claim.create_deadline is not None
            and claim.now >= claim.create_deadline + GRACE
        ):
            choices.append(Advance(BatchState.QUEUED))
        return st.sampled_from(choices)

    def success(self, claim: Claim) -> Outcome:
        """What a stage says when nothing goes wrong."""
        if isinstance(claim, JobClaim):
            return Assembled(()) if claim.shards is None else Split(_shards(claim))
        match claim.state:
            case BatchState.QUEUED:
                changes = Changes(input_file_id=self.named("file"))
                return Advance(BatchState.UPLOADED, changes)
            case BatchState.UPLOADED:
                changes = Changes(provider_batch_id=self.named("provider"))
                return Advance(BatchState.CREATED, changes)
            case BatchState.CREATED:
                return Advance(BatchState.ENDED, Changes(provider_status="COMPLETED"))
            case _:
                return self.settled(claim, self.carried[claim.manifest_blob], (), ())

    def settlements(self, claim: BatchClaim) -> st.SearchStrategy[Outcome]:
        """Each request succeeds, dies, or goes on in one of two retry batches."""
        ordinals = self.carried[claim.manifest_blob]

        def settle(fates: list[int]) -> Outcome:
            def whose(fate: int) -> tuple[int, ...]:
                return tuple(o for o, f in zip(ordinals, fates, strict=True) if f == fate)

            return self.settled(claim, whose(0), whose(1), (whose(2), whose(3)))

        size = len(ordinals)
        return st.lists(st.integers(0, 3), min_size=size, max_size=size).map(settle)

    def settled(
        self,
        claim: BatchClaim,
        good: Sequence[int],
        bad: Sequence[int],
        groups: Sequence[tuple[int, ...]],
    ) -> Outcome:
        retries = []
        for group in groups:
            if group:
                manifest = self.named("manifest")
                self.carried[manifest] = group
                retries.append(
                    RetryBatch(manifest_blob=manifest, requests=len(group), bytes=1, delay=SECOND)
                )
        return Settle(
            BatchState.SETTLED,
            Settlement(
                succeeded=len(good),
                dead=_letters(bad),
                retries=tuple(retries),
                outcome=self.final_lines(good, bad),
            ),
        )

    def buried(self, claim: BatchClaim, to: BatchState) -> Outcome:
        ordinals = self.carried[claim.manifest_blob]
        lines = self.final_lines((), ordinals)
        return Settle(to, Settlement(succeeded=0, dead=_letters(ordinals), outcome=lines))

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
        tables = ("jobs", "batches", "events", "dead_letters", "accounts")
        return [self.ids(f"SELECT t::text FROM haulier.{t} t ORDER BY 1") for t in tables]

    def ids(self, query: str, **values: Any) -> list[Any]:
        return list(self.house.rows(query, **values))

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


def _shards(claim: JobClaim) -> tuple[Shard, ...]:
    assert claim.shards is not None
    return claim.shards


def _letters(ordinals: Sequence[int]) -> tuple[DeadLetter, ...]:
    return tuple(
        DeadLetter(ordinal=o, custom_id=f"r{o}", code="error", message="no", attempts=1)
        for o in ordinals
    )
