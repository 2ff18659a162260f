"""One way to move: claim, work, apply. The clients that stages work with live here, per process."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from tempfile import gettempdir
from uuid import UUID

import structlog

from config.settings import Settings
from service import retention, stages
from service.blobs import Blobs
from service.crashpoints import CrashPoint, reached
from service.errors import AccountBlocked, HandedBack, HaulierError, StaleLease
from service.retry import after
from service.states import BatchState, Stage
from service.store import engine
from service.store.apply import apply
from service.store.claim import claim_batches, claim_job, extend
from service.store.engine import is_unavailable
from service.store.permissions import rules_for
from service.sweep import sweep
from service.together import Pool, Together, open_pool
from service.work import (
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
from workers.ratelimit import RateLimit
from workers.stopping import stopping
from workers.waits import Waits, while_lasts
from workers.worklog import bound, report

log = structlog.get_logger()

BATCH_WORK: dict[Stage, Callable[[BatchClaim, stages.AccountClients], Outcome]] = {
    Stage.UPLOAD: stages.upload,
    Stage.CREATE: stages.create,
    Stage.POLL: stages.poll,
    Stage.FETCH: stages.fetch,
}
JOB_WORK: dict[Stage, Callable[[JobClaim, stages.Clients], Outcome]] = {
    Stage.SPLIT: stages.split,
    Stage.ASSEMBLE: stages.assemble,
}


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
        if stopping():
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
    """Runs stages in this process. Its connections are opened at first use, so after a fork."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._costs: defaultdict[str, stages.Costs] = defaultdict(stages.Costs)

    @cached_property
    def db(self) -> engine.Database:
        self.settings.required("database_url")
        return engine.database(engine.create(self.settings.database_url or ""))

    @cached_property
    def _blobs(self) -> Blobs:
        return Blobs(self.settings.blobs)

    @cached_property
    def _pool(self) -> Pool:
        # A lease is extended between blocks, and lasts three quarters of its length from there.
        return open_pool(min(timedelta(seconds=120), self.settings.lease_seconds / 2))

    @cached_property
    def _rate(self) -> RateLimit | None:
        per_second = self.settings.control_requests_per_second
        if per_second is None:
            return None
        self.settings.required("redis_url")
        return RateLimit(self.settings.redis_url or "", per_second)

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

    def batch(self, stage: Stage, batch_id: UUID) -> bool:
        """Run a stage of a batch; whether it advanced, so that the chain may go on."""
        return any(self.batches(stage, [batch_id]))

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

    def sweep(self, account: str, spent_file_ids: list[str]) -> None:
        """Cancel batches under files that were given up. What fails is done at the next sweep."""
        with structlog.contextvars.bound_contextvars(account=account):
            try:
                stages.cancel_twins(self._together(account), spent_file_ids)
            except HaulierError as error:
                log.warning("sweep_failed", reason=str(error))

    def prune(self) -> None:
        """Forget old jobs."""
        if self.settings.retention_days is not None:
            retention.prune(self.db, timedelta(days=self.settings.retention_days))

    def discard(self, account: str | None) -> None:
        """Delete what forgotten jobs left at Together; None: in blob storage."""
        config = self.settings
        times = {"claim_for": config.lease_seconds, "retry": config.retry_base_seconds}
        if account is None:
            retention.discard_blobs(self.db, self._blobs, **times)
            return
        with structlog.contextvars.bound_contextvars(account=account):
            try:
                together = self._together(account)
            except AccountBlocked as error:
                log.warning("discard_failed", reason=str(error))
            else:
                retention.discard_files(self.db, account, together, **times)

    def sweep_blobs(self) -> None:
        """Delete old blobs that no row names."""
        sweep(self.db, self._blobs)

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
                return JOB_WORK[stage](claim, self._job_clients(claim, lease))
            return BATCH_WORK[stage](claim, self._account_clients(claim, lease, view))
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
        return stages.bury(claim, self._clients(lease), BatchState.FAILED, "stage_failed", reason)

    def _clients(self, lease: HeldLease) -> stages.Clients:
        return stages.Clients(
            blobs=self._blobs, lease=lease, scratch=self._scratch, settings=self.settings
        )

    def _job_clients(self, claim: JobClaim, lease: HeldLease) -> stages.Clients:
        clients = self._clients(lease)
        if claim.enqueued is None and claim.input is None:
            return clients
        return replace(clients, rules=rules_for(self.db, claim.producer, self.settings))

    def _account_clients(
        self, claim: BatchClaim, lease: HeldLease, view: stages.View | None
    ) -> stages.AccountClients:
        together = self._together(claim.account)
        show = together.batch if view is None else partial(view.show, together)
        return stages.AccountClients(**vars(self._clients(lease)), together=together, show=show)

    def _together(self, name: str) -> Together:
        account = self.settings.account(name)
        if account is None:
            raise AccountBlocked(f"account {name!r} has no key in the settings")
        key = account.api_key.get_secret_value()
        if self._rate is None:
            return Together(self._pool, account.base_url, key)
        # For one claim: what it waits for its calls must leave its lease long enough.
        gate = self._rate.gate(name, self._quarter)
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
