"""One way to move: claim, work, apply. The clients that stages work with live here, per process."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from uuid import UUID

import structlog
from tenacity import Retrying, retry_if_exception, wait_random_exponential

from config.settings import Settings
from service import stages
from service.blobs import Blobs
from service.crashpoints import CrashPoint, reached
from service.errors import AccountBlocked, HandedBack, HaulierError, StaleLease
from service.retry import after
from service.states import BatchState, Stage
from service.store import engine
from service.store.apply import apply
from service.store.claim import claim_batches, claim_job, extend
from service.store.engine import is_unavailable
from service.together import Pool, Together, open_pool
from service.work import (
    Advance,
    Assembled,
    BatchClaim,
    Claim,
    Fail,
    JobClaim,
    Outcome,
    Park,
    Pause,
    Retry,
    Settle,
    Split,
    Wait,
)
from workers.stopping import stopping

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
        with _bound(claim, stage):
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
        pause: Pause | None = None
        for claim in claim_batches(self.db, list(ids), stage, self.settings.lease_seconds):
            with _bound(claim, stage):
                lease = HeldLease(self, claim, taken)
                # What stops one batch of an account would stop the rest of its page as well.
                outcome = pause or self._work(claim, stage, lease)
                if isinstance(outcome, Pause):
                    pause = outcome
                if self._finish(claim, lease, outcome):
                    yield claim.id

    def sweep(self, account: str, spent_file_ids: list[str]) -> None:
        """Cancel batches under files that were given up. What fails is done at the next sweep."""
        with structlog.contextvars.bound_contextvars(account=account):
            try:
                stages.cancel_twins(self._together(account), spent_file_ids)
            except HaulierError as error:
                log.warning("sweep_failed", reason=str(error))

    def _work(self, claim: Claim, stage: Stage, lease: HeldLease) -> Outcome | None:
        """The outcome; None where the lease was lost and nothing may be said any more."""
        try:
            reached(CrashPoint.WORKER_CLAIMED)
            lease.keep()  # a page of batches may be long, and this one's turn late
            if claim.tries >= self.settings.stage_tries:
                return self._give_up(claim, lease)
            if isinstance(claim, JobClaim):
                return JOB_WORK[stage](claim, self._clients(lease))
            return BATCH_WORK[stage](claim, self._account_clients(claim, lease))
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

    def _account_clients(self, claim: BatchClaim, lease: HeldLease) -> stages.AccountClients:
        together = self._together(claim.account)
        return stages.AccountClients(**vars(self._clients(lease)), together=together)

    def _together(self, name: str) -> Together:
        account = self.settings.account(name)
        if account is None:
            raise AccountBlocked(f"account {name!r} has no key in the settings")
        return Together(self._pool, account.base_url, account.api_key.get_secret_value())

    def _finish(self, claim: Claim, lease: HeldLease, outcome: Outcome | None) -> bool:
        """Apply the outcome, for as long as the lease lasts if Postgres is away."""
        if outcome is None:
            return False
        try:
            for attempt in Retrying(
                retry=retry_if_exception(is_unavailable),
                wait=wait_random_exponential(max=2),
                stop=lambda _: lease.remaining() <= timedelta(0),
                reraise=True,
            ):
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
        _report(outcome)
        reached(CrashPoint.WORKER_APPLIED)
        return isinstance(outcome, Advance) and outcome.to is not BatchState.QUEUED


@contextmanager
def _bound(claim: Claim, stage: Stage) -> Iterator[None]:
    """Put what is being worked on onto every line of the log."""
    context = {"stage": str(stage), "account": claim.account}
    if isinstance(claim, BatchClaim):
        context |= {"job": str(claim.job_id), "batch": str(claim.id)}
        with structlog.contextvars.bound_contextvars(**context, attempt=claim.attempt):
            yield
    else:
        with structlog.contextvars.bound_contextvars(**context, job=str(claim.id)):
            yield


def _report(outcome: Outcome) -> None:
    """One line for each outcome; constant names, identifiers in the context."""
    match outcome:
        case Advance(to=to):
            log.info("advanced", to=str(to))
        case Settle(to=to, settlement=settlement, reason=reason):
            log.info(
                "settled",
                to=str(to),
                succeeded=settlement.succeeded,
                dead=len(settlement.dead),
                carried=settlement.carried,
                reason=reason,
            )
        case Split(shards=shards):
            log.info("split", shards=len(shards))
        case Assembled(segments=segments):
            log.info("assembled", segments=len(segments))
        case Wait():
            log.debug("waiting")
        case Retry(reason=reason):
            log.warning("postponed", reason=reason)
        case Pause(reason=reason):
            log.error("account_paused", reason=reason)
        case Fail(reason=reason):
            log.error("job_failed", reason=reason)
        case Park(reason=reason):
            log.critical("parked", reason=reason)
