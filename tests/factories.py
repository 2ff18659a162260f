"""Makes the things that tests are about, with everything in them that a test does not care for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import func, select, text

from config.settings import Settings
from service.payloads.blobs import Blobs
from service.payloads.intake import Intake, Taken
from service.payloads.results import LinesWriter
from service.rules.admission import Capacity
from service.rules.lanes import Health
from service.rules.outcomes import (
    Advance,
    Assembled,
    Changes,
    DeadLetter,
    Outcome,
    RetryPart,
    Settle,
    Settlement,
    Wait,
)
from service.rules.packing import Limits
from service.rules.permissions import Permissions
from service.rules.spec import Spec, read_spec
from service.rules.states import BatchState, JobState, LaneState, PartState, Stage
from service.rules.work import BatchClaim, Entry, FinalLines, JobClaim, PartClaim, Shard
from service.stages import AccountClients
from service.store.admit import Admission
from service.store.apply import apply
from service.store.claim import claim_batches, claim_jobs
from service.store.due import Due
from service.store.engine import Database
from service.store.health import write
from service.store.lane_verbs import id_of
from service.store.models import Account, Batch, Job, Lane, Part
from service.store.parts import batch_for, log_batches
from service.store.submit import Submission, Submitted, submit_each
from service.together.client import Together

CHAT = "/v1/chat/completions"
MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
LEASE = timedelta(seconds=60)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


# --- requests ----------------------------------------------------------------------------------


def chat_request(custom_id: str, *, model: str = MODEL, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Say {custom_id}"}]
    return {"custom_id": custom_id, "body": {"model": model, "messages": messages, **body}}


def chat_line(custom_id: str, *, model: str = MODEL, **body: Any) -> bytes:
    """A request line without its line feed."""
    return msgspec.json.encode(chat_request(custom_id, model=model, **body))


def spec(*custom_ids: str, **fields: Any) -> Spec:
    """A spec as it was read from JSON."""
    requests = [chat_request(custom_id) for custom_id in custom_ids or ("a", "b", "c")]
    content = {"endpoint": CHAT, "requests": requests, **fields}
    return read_spec(msgspec.json.encode(content), Permissions())


def entry(ordinal: int, custom_id: str | None = None, **fields: Any) -> Entry:
    return Entry(custom_id or f"r{ordinal}", ordinal, ordinal * 100, 100, **fields)


def take(
    blobs: Blobs,
    lines: Iterable[bytes],
    *,
    endpoint: str = CHAT,
    shard_requests: int = 50_000,
    shard_bytes: int = 100_000_000,
    hashed: bool = False,
    canary: int | None = None,
) -> Taken:
    """Take lines in as the API does. Raises BadInput."""
    with Intake(
        blobs,
        f"jobs/{uuid4()}",
        endpoint,
        Settings(shard_requests=shard_requests, shard_bytes=shard_bytes),
        hashed=hashed,
        canary=canary,
    ) as intake:
        for line in lines:
            intake.add(line)
        return intake.finish()


def final_lines(blobs: Blobs, name: str, lines: Sequence[tuple[int, bytes]]) -> FinalLines:
    """Result lines of a batch, stored with their index."""
    writer = LinesWriter(blobs, name)
    with writer.open():
        for ordinal, line in lines:
            writer.write(ordinal, line)
    stored = writer.final_lines
    assert stored is not None
    return stored


# --- claims and stages -------------------------------------------------------------------------


def batch_claim(**fields: Any) -> BatchClaim:
    """A claim of a queued batch of three requests."""
    known: dict[str, Any] = {
        "id": uuid4(),
        "lease": uuid4(),
        "leased_until": NOW + LEASE,
        "now": NOW,
        "state": BatchState.QUEUED,
        "tries": 0,
        "failures": 0,
        "endpoint": CHAT,
        "account": "default",
        "account_blocked": False,
        "model": MODEL,
        "requests": 3,
        "cancel_requested": False,
    }
    return BatchClaim(**{**known, **fields})


def learned(claim: BatchClaim, outcome: Outcome) -> BatchClaim:
    """The next claim of a batch, with what a stage has learned."""
    assert isinstance(outcome, Advance | Wait)
    known = {field.name for field in fields(BatchClaim)}
    changes = {k: v for k, v in vars(outcome.changes).items() if v is not None and k in known}
    state = {"state": outcome.to} if isinstance(outcome, Advance) else {}
    return replace(claim, lease=uuid4(), **{**changes, **state})


def part_claim(**fields: Any) -> PartClaim:
    """A travelling part of three requests."""
    known: dict[str, Any] = {
        "id": uuid4(),
        "job_id": uuid4(),
        "state": PartState.TRAVELLING,
        "attempt": 1,
        "requests": 3,
        "bytes": 300,
        "input_blob": "input",
        "manifest": "manifest",
        "max_attempts": 3,
        "cancelled": False,
    }
    return PartClaim(**{**known, **fields})


def job_claim(**fields: Any) -> JobClaim:
    known: dict[str, Any] = {
        "id": uuid4(),
        "lease": uuid4(),
        "leased_until": NOW + LEASE,
        "state": JobState.ACCEPTED,
        "created_at": NOW,
        "tries": 0,
        "producer": "default",
        "endpoint": CHAT,
        "account": "default",
        "max_attempts": 3,
        "input": None,
    }
    return JobClaim(**{**known, **fields})


@dataclass
class FakeLease:
    """A lease that lasts as long as the test says."""

    left: timedelta = LEASE
    kept: int = 0

    def keep(self) -> None:
        self.kept += 1

    def remaining(self) -> timedelta:
        return self.left


def clients(
    blobs: Blobs,
    together: Together,
    scratch: Path,
    *parts: PartClaim,
    left: timedelta = LEASE,
    **settings: Any,
) -> AccountClients:
    """What a stage works with. `left` is what remains of its lease, of 60 seconds."""
    made = Settings(**{"lease_seconds": LEASE, **settings})
    return AccountClients(
        blobs=blobs,
        together=together,
        show=together.batch,
        lease=FakeLease(left),
        scratch=scratch,
        settings=made,
        parts=lambda: parts,
        permissions=Permissions(accounts=made.account_names, input_roots=made.input_roots),
    )


# --- rows --------------------------------------------------------------------------------------


def shard(requests: int = 3, *, model: str = MODEL, name: str | None = None) -> Shard:
    """A shard whose blobs are mere names."""
    name = name or str(uuid4())
    return Shard(
        model=model,
        input_blob=f"{name}.jsonl",
        manifest=f"{name}.manifest",
        requests=requests,
        bytes=requests * 100,
    )


def settlement(
    succeeded: int, *, dead: Sequence[int] = (), carried: int = 0, **fields: Any
) -> Settlement:
    """A settlement whose blobs are mere names. `dead` are ordinals, `carried` one new part.

    `Harness` gives it the part of a batch that has no other.
    """
    letters = tuple(
        DeadLetter(ordinal=o, custom_id=f"r{o}", code="error", message="no", attempts=1)
        for o in dead
    )
    retry = RetryPart(manifest="retry.manifest", requests=carried, bytes=1, delay=timedelta(0))
    known: dict[str, Any] = {
        "part": UUID(int=0),
        "job_id": UUID(int=0),
        "retries": (retry,) if carried else (),
    }
    return Settlement(succeeded=succeeded, dead=letters, **{**known, **fields})


def mingled() -> FinalLines:
    """Final lines that lie among those of another part, so that somebody must merge them."""
    name = str(uuid4())
    return FinalLines(
        blob=name, index_blob=name, first_ordinal=0, last_ordinal=99, bytes=1, requests=1
    )


AT_ONCE = Limits(requests=10_000, bytes=100_000_000, wait=timedelta(0))
"""Nothing waits for company."""


def admit(db: Database, *, limit: int, capacity: Capacity, limits: Limits = AT_ONCE) -> list[Due]:
    """Let parts in as a scheduler does that has just started."""
    return Admission().admit(db, limit=limit, capacity=capacity, limits=limits)


def ill_lane(db: Database, model: str, **health: Any) -> str:
    """The id of a new lane that rests for an hour."""
    with db.begin() as session:
        now = session.scalars(select(func.now())).one()
        made = Lane(account="default", endpoint="/v1/chat/completions", model=model)
        session.add(made)
        ill = {"state": LaneState.RESTING, "since": now, "ill_since": now, "rests": 1}
        write(session, made, Health(**{**ill, "until": now + timedelta(hours=1), **health}))
        return id_of(made)


def claim_job(db: Database, job_id: UUID, stage: Stage, lease_for: timedelta) -> JobClaim | None:
    """Lease one job; None where it is not due, not in that stage, or taken."""
    return next(iter(claim_jobs(db, [job_id], stage, lease_for)), None)


def submit(db: Database, submissions: Sequence[Submission]) -> list[Submitted]:
    """Store submissions; raises the first of what kept one from being stored."""
    stored = submit_each(db, submissions)
    for one in stored:
        if not isinstance(one, Submitted):
            raise one
    return [one for one in stored if isinstance(one, Submitted)]


@dataclass
class Harness:
    """Rows in a real database, moved as workers move them."""

    db: Database

    def submitted(self, *shards: int, producer: str = "default", **fields: Any) -> UUID:
        """A running job whose parts have so many requests each."""
        job_id = uuid4()
        cut = tuple(shard(requests) for requests in shards or (3,))
        taken = Taken(sum(piece.requests for piece in cut), cut, "0" * 64)
        submission = Submission(id=job_id, producer=producer, spec=spec(**fields), taken=taken)
        submit(self.db, [submission])
        return job_id

    def unread(self, *, producer: str = "default", **fields: Any) -> UUID:
        """An accepted job, whose `input` is still to be read."""
        job_id = uuid4()
        unread = msgspec.structs.replace(spec(**fields), requests=None, input="s3://bucket/key")
        submit(self.db, [Submission(id=job_id, producer=producer, spec=unread)])
        return job_id

    def end(self, job_id: UUID) -> None:
        """Put the results of a job together, if that is still to be done."""
        if self.job(job_id).finished_at is None:
            self.apply(self.claim_job(job_id, Stage.ASSEMBLE), Assembled(()))

    def split(self, *shards: int, **fields: Any) -> list[UUID]:
        """The queued batches of a running job, by shard: one for each part."""
        ids = self.waiting(*shards, **fields)
        self.let_in()
        return ids

    def let_in(self) -> None:
        """Let in all that waits: each part in a batch of its own, which has the part's id."""
        with self.db.begin() as session:
            for part in session.scalars(select(Part).where(Part.state == PartState.WAITING)):
                batch = batch_for([part])
                batch.id = part.company or part.id
                batch.poison, batch.failed_first = part.poison, part.failed_first
                batch.not_before = part.ready_at
                session.add(batch)
                session.flush()
                part.state, part.batch_id = PartState.TRAVELLING, batch.id
                log_batches(session, [(batch.id, {"parts": 1, "requests": part.requests})])

    def share(self, *jobs: int, **fields: Any) -> tuple[UUID, list[UUID]]:
        """A queued batch that jobs of so many requests share, and the jobs, in this order."""
        ids = [self.submitted(requests, **fields) for requests in jobs]
        (due,) = admit(self.db, limit=1, capacity=Capacity(batches=None, tokens=10**12))
        return due.id, ids

    def waiting(self, *shards: int, **fields: Any) -> list[UUID]:
        """The waiting parts of a running job, by shard."""
        return self.open_parts(self.submitted(*shards, **fields))

    def queued(self, requests: int = 3, **fields: Any) -> UUID:
        return self.split(requests, **fields)[0]

    def uploaded(self, requests: int = 3, **fields: Any) -> UUID:
        batch_id = self.queued(requests, **fields)
        self.advance(batch_id, BatchState.UPLOADED)
        return batch_id

    def created(self, requests: int = 3, **fields: Any) -> UUID:
        batch_id = self.uploaded(requests, **fields)
        self.advance(batch_id, BatchState.CREATED)
        return batch_id

    def ended(self, requests: int = 3, **fields: Any) -> UUID:
        batch_id = self.created(requests, **fields)
        self.advance(batch_id, BatchState.ENDED)
        return batch_id

    def advance(self, batch_id: UUID, to: BatchState) -> None:
        """Bring a batch to a later state, step by step."""
        for source, target, stage in _WAY:
            if self.batch(batch_id).state is source:
                self.due_now(batch_id)
                claim = self.claim(batch_id, stage)
                self.apply(claim, Advance(target, _learned(target, batch_id)))
            if target is to:
                return

    def settle(self, batch_id: UUID, done: Settlement) -> None:
        self.advance(batch_id, BatchState.ENDED)
        self.due_now(batch_id)
        self.apply(self.claim(batch_id, Stage.FETCH), Settle(BatchState.SETTLED, (done,)))

    def claim(self, batch_id: UUID, stage: Stage, lease_for: timedelta = LEASE) -> BatchClaim:
        claims = claim_batches(self.db, [batch_id], stage, lease_for)
        assert len(claims) == 1, f"batch is {self.batch(batch_id).state}, or not free"
        return claims[0]

    def claim_job(self, job_id: UUID, stage: Stage, lease_for: timedelta = LEASE) -> JobClaim:
        claim = claim_job(self.db, job_id, stage, lease_for)
        assert claim is not None, f"job is {self.job(job_id).state}, or not free"
        return claim

    def apply(self, claim: BatchClaim | JobClaim, outcome: Outcome) -> None:
        second = timedelta(seconds=1)
        if isinstance(outcome, Settle) and isinstance(claim, BatchClaim):
            outcome = self._with_parts(claim, outcome)
        apply(self.db, claim, outcome, retry_base=second, probe=second)

    def batch(self, batch_id: UUID) -> Batch:
        with self.db.begin() as session:
            return session.get_one(Batch, batch_id)

    def job(self, job_id: UUID) -> Job:
        with self.db.begin() as session:
            return session.get_one(Job, job_id)

    def part(self, batch_id: UUID) -> Part:
        """The only part of a batch."""
        (part,) = self.parts(batch_id)
        return part

    def parts(self, batch_id: UUID) -> list[Part]:
        """The parts of a batch, in the order in which they were submitted."""
        with self.db.begin() as session:
            order = (Part.ready_at, Part.shard, Part.id)
            return list(
                session.scalars(select(Part).where(Part.batch_id == batch_id).order_by(*order))
            )

    def _with_parts(self, claim: BatchClaim, outcome: Settle) -> Settle:
        if all(done.part != UUID(int=0) for done in outcome.parts):
            return outcome
        part = self.part(claim.id)
        return replace(
            outcome,
            parts=tuple(replace(done, part=part.id, job_id=part.job_id) for done in outcome.parts),
        )

    def job_of(self, batch_id: UUID) -> Job:
        return self.job(self.part(batch_id).job_id)

    def account(self, name: str = "default") -> Account | None:
        with self.db.begin() as session:
            return session.get(Account, name)

    def open_batches(self, job_id: UUID) -> list[UUID]:
        """Ids of the batches that are not settled, by shard and attempt."""
        statement = (
            "SELECT batch_id FROM haulier.parts WHERE job_id = :job AND state = 'travelling'"
            " ORDER BY shard, attempt"
        )
        return list(self.rows(statement, job=job_id))

    def open_parts(self, job_id: UUID) -> list[UUID]:
        """Ids of the parts that are not settled, by shard and attempt."""
        statement = (
            "SELECT id FROM haulier.parts WHERE job_id = :job AND state <> 'settled'"
            " ORDER BY shard, attempt"
        )
        return list(self.rows(statement, job=job_id))

    def run(self, statement: str, **values: Any) -> None:
        """Run a statement on the tables, such as one that turns a row's clock on."""
        with self.db.begin() as session:
            session.execute(text(statement), values)

    def rows(self, statement: str, **values: Any) -> Sequence[Any]:
        """The first column of what a query finds."""
        with self.db.begin() as session:
            return session.scalars(text(statement), values).all()

    def sweep(self) -> None:
        """Remove every row."""
        tables = ("producers", "batches", "accounts", "lanes", "heartbeats")
        self.run(f"TRUNCATE {', '.join(f'haulier.{table}' for table in tables)} CASCADE")

    def due_now(self, batch_id: UUID) -> None:
        """As if the pause of a batch were over."""
        self.run("UPDATE haulier.batches SET not_before = now() WHERE id = :id", id=batch_id)

    def expire_lease(self, batch_id: UUID) -> None:
        """As if the worker had been gone for longer than its lease."""
        self.run(
            "UPDATE haulier.batches SET leased_until = now() - interval '1 ms' WHERE id = :id",
            id=batch_id,
        )


_WAY = (
    (BatchState.QUEUED, BatchState.UPLOADED, Stage.UPLOAD),
    (BatchState.UPLOADED, BatchState.CREATED, Stage.CREATE),
    (BatchState.CREATED, BatchState.ENDED, Stage.POLL),
)


def _learned(to: BatchState, batch_id: UUID) -> Changes:
    """What a stage learns on the way to a state."""
    match to:
        case BatchState.UPLOADED:
            return Changes(input_file_id=f"file-{batch_id}")
        case BatchState.CREATED:
            return Changes(provider_batch_id=f"provider-{batch_id}")
        case _:
            return Changes(provider_status="COMPLETED", output_file_id="file-output")
