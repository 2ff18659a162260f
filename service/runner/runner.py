"""One way to move: claim, work, apply. A runner holds the clients that stages work with."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from tempfile import gettempdir
from uuid import UUID

import structlog

from config.settings import Settings
from service import stages
from service.payloads.blobs import Blobs
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import AccountBlocked, HandedBack, HaulierError, StaleLease
from service.rules.retry import after
from service.rules.states import BatchState, Stage
from service.rules.work import (
    Advance,
    BatchClaim,
    Claim,
    Fail,
    JobClaim,
    Outcome,
    Park,
    Pause,
    Retry,
    Wait,
)
from service.runner.waits import Waits, while_lasts
from service.runner.worklog import bound, report
from service.store import engine
from service.store.apply import apply
from service.store.claim import claim_batches, claim_job, extend
from service.store.engine import is_unavailable
from service.store.permissions import permissions_for
from service.together.client import Pool, Together, open_pool

log = structlog.get_logger()

BatchWork = Callable[[BatchClaim, stages.AccountClients], Outcome]
JobWork = Callable[[JobClaim, stages.Clients], Outcome]
Gate = Callable[[], None]
"""Called before each call of Together's control API; it may wait, or raise Transient."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The functions that stages run, by stage."""

    batches: Mapping[Stage, BatchWork]
    jobs: Mapping[Stage, JobWork]


@dataclass
class HeldLease:
    """The lease of one claim. Counts from before the claim was asked for, so that it never
    believes itself longer than the database does."""

    runner: "Runner"
    claim: Claim
    taken: float

    def keep(self) -> None:
        length = self.runner.settings.lease_seconds.total_seconds()
        now = time.monotonic()
        if now < self.taken + length / 4:
            return
        if self.runner.stopping():
            raise HandedBack
        try:
            extend(self.runner.db, self.claim, self.runner.settings.lease_seconds)
        except Exception as error:
            # The work may go on without the database for as long as the lease lasts.
            if not is_unavailable(error) or now > self.taken + length:
                raise
            return
        self.taken = now

    def remaining(self) -> timedelta:
        gone = timedelta(seconds=time.monotonic() - self.taken)
        return self.runner.settings.lease_seconds - gone


class Runner:
    """Runs stages in this process. Its connections are opened at first use, so after a fork.

    `gate` makes the gate of one claim from its account and the longest time to wait in all.
    `stopping` says whether the process is to stop, so that long work is handed back.
    """

    def __init__(
        self,
        settings: Settings,
        work: Work,
        *,
        gate: Callable[[str, timedelta], Gate] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings = settings
        self.stopping = stopping
        self._functions = work
        self._gate = gate
        self._costs: defaultdict[str, stages.Costs] = defaultdict(stages.Costs)

    @cached_property
    def db(self) -> engine.Database:
        self.settings.required("database_url")
        return engine.database(engine.create(self.settings.database_url or ""))

    @cached_property
    def blobs(self) -> Blobs:
        return Blobs(self.settings.blobs)

    @cached_property
    def _pool(self) -> Pool:
        # A lease is extended between blocks, and lasts three quarters of its length from there.
        return open_pool(min(timedelta(seconds=120), self.settings.lease_seconds / 2))

    @property
    def _quarter(self) -> timedelta:
        return self.settings.lease_seconds / 4

    @cached_property
    def _scratch(self) -> Path:
        path = self.settings.scratch or Path(gettempdir())
        path.mkdir(parents=True, exist_ok=True)
        return path

    def job(self, stage: Stage, job_id: UUID) -> None:
        """Run a stage of a job, if it is due and nobody else is on it."""
        taken = time.monotonic()
        claim = claim_job(self.db, job_id, stage, self.settings.lease_seconds)
        if claim is None:
            log.debug("not_due", stage=stage, job=str(job_id))
            return
        with bound(claim, stage):
            lease = HeldLease(self, claim, taken)
            self._finish(claim, lease, self._work(claim, stage, lease))

    def batches(self, stage: Stage, ids: Iterable[UUID]) -> Iterator[UUID]:
        """Run a stage of a page of batches, one after the other; yields those that advanced.

        What goes wrong with one is contained in its row.
        """
        taken = time.monotonic()
        claims = claim_batches(self.db, list(ids), stage, self.settings.lease_seconds)
        if stage is Stage.POLL:
            yield from self._poll_page(claims, taken)
            return
        pause: Pause | None = None
        for claim in claims:
            with bound(claim, stage):
                lease = HeldLease(self, claim, taken)
                # What stops one batch of an account would stop the rest of its page as well.
                outcome = pause or self._work(claim, stage, lease)
                if isinstance(outcome, Pause):
                    pause = outcome
                if self._finish(claim, lease, outcome):
                    yield claim.id

    def _poll_page(self, claims: Sequence[BatchClaim], taken: float) -> Iterator[UUID]:
        """Like `batches`, with one look for all where that is cheaper, and one write for all that
        go on waiting."""
        if not claims:
            return
        shown = frozenset(claim.provider_batch_id for claim in claims if claim.provider_batch_id)
        careful = any(claim.tries for claim in claims)
        view = stages.View(shown, self._costs[claims[0].account], careful=careful)
        waits = Waits(self.db, self.settings.lease_seconds)
        rest: Wait | None = None
        for claim in claims:
            with bound(claim, Stage.POLL):
                lease = HeldLease(self, claim, taken)
                outcome = rest or self._work(claim, Stage.POLL, lease, view)
                if isinstance(outcome, Wait) and not claim.account_blocked:
                    waits.add(claim, outcome)
                elif self._finish(claim, lease, outcome):
                    yield claim.id
            if isinstance(outcome, Pause):
                # What stops one batch of an account would stop the rest of its page as well.
                rest = Wait(timedelta(0), reason=outcome.reason, looked=False)
            elif time.monotonic() > view.ready_at + self._quarter.total_seconds():
                # Single calls take long: soon each row would need its lease extended.
                rest = Wait(timedelta(0), looked=False)
            waits.flush_if_due()
        waits.flush()

    def _work(
        self, claim: Claim, stage: Stage, lease: HeldLease, view: stages.View | None = None
    ) -> Outcome | None:
        """The outcome; None where the lease was lost and nothing may be said any more."""
        try:
            reached(CrashPoint.WORKER_CLAIMED)
            lease.keep()  # a page of batches may be long, and this one's turn late
            if claim.tries >= self.settings.stage_tries:
                return self._give_up(claim, lease)
            if isinstance(claim, JobClaim):
                return self._functions.jobs[stage](claim, self._job_clients(claim, lease))
            return self._functions.batches[stage](claim, self._account_clients(claim, lease, view))
        except StaleLease:
            log.warning("lease_lost")
            return None
        except HandedBack:
            return Wait(timedelta(0), reason="handed back by a worker that was stopped")
        except HaulierError as error:
            return after(error)
        except Exception as error:
            # One sick row never stops the others.
            log.exception("stage_broke")
            return Retry(f"{type(error).__name__}: {error}")

    def _give_up(self, claim: Claim, lease: HeldLease) -> Outcome:
        """Every try ended with the worker's death. What Together may hold is never given up."""
        reason = f"{claim.tries} workers died or were lost over this stage"
        if isinstance(claim, JobClaim):
            return Fail(reason) if claim.shards is None and not claim.final_lines else Park(reason)
        if claim.provider_batch_id is not None or claim.create_deadline is not None:
            return Park(reason)
        return stages.settle_unserved(
            claim, self._clients(lease), BatchState.FAILED, "stage_failed", reason
        )

    def _clients(self, lease: HeldLease) -> stages.Clients:
        return stages.Clients(
            blobs=self.blobs, lease=lease, scratch=self._scratch, settings=self.settings
        )

    def _job_clients(self, claim: JobClaim, lease: HeldLease) -> stages.Clients:
        clients = self._clients(lease)
        if claim.enqueued is None and claim.input is None:
            return clients
        return replace(clients, permissions=permissions_for(self.db, claim.producer, self.settings))

    def _account_clients(
        self, claim: BatchClaim, lease: HeldLease, view: stages.View | None
    ) -> stages.AccountClients:
        together = self.together(claim.account)
        show = together.batch if view is None else partial(view.show, together)
        return stages.AccountClients(**vars(self._clients(lease)), together=together, show=show)

    def together(self, name: str) -> Together:
        """The client of an account. Raises AccountBlocked if the settings have no key for it."""
        account = self.settings.account(name)
        if account is None:
            raise AccountBlocked(f"account {name!r} has no key in the settings")
        key = account.api_key.get_secret_value()
        if self._gate is None:
            return Together(self._pool, account.base_url, key)
        # For one claim: what it waits for its calls must leave its lease long enough.
        gate = self._gate(name, self._quarter)
        return Together(self._pool, account.base_url, key, gate=gate)

    def _finish(self, claim: Claim, lease: HeldLease, outcome: Outcome | None) -> bool:
        """Apply the outcome, for as long as the lease lasts if Postgres is away."""
        if outcome is None:
            return False
        try:
            for attempt in while_lasts(lease.remaining):
                with attempt:
                    apply(
                        self.db,
                        claim,
                        outcome,
                        retry_base=self.settings.retry_base_seconds,
                        probe=self.settings.probe_seconds,
                    )
        except StaleLease:
            log.warning("lease_lost", outcome=type(outcome).__name__)
            return False
        except Exception as error:
            if is_unavailable(error):
                raise
            # What cannot be stored must not stop the page: its lease runs out and spends a try.
            log.exception("outcome_not_stored", outcome=type(outcome).__name__)
            return False
        report(outcome)
        reached(CrashPoint.WORKER_APPLIED)
        return isinstance(outcome, Advance) and outcome.to is not BatchState.QUEUED
