"""Runs a stage on a row or a page of rows: claim, work, apply."""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, cached_property, partial
from pathlib import Path
from tempfile import gettempdir
from uuid import UUID

import structlog

from config.settings import Settings
from service import stages
from service.payloads.blobs import STORAGE_ERRORS, Blobs
from service.payloads.private import private_folder
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import (
    AccountBlocked,
    HandedBack,
    HaulierError,
    StaleLease,
    Unreachable,
)
from service.rules.measures import OUTCOMES, SETTLE_SECONDS, STAGE_SECONDS
from service.rules.outcomes import Advance, Fail, Outcome, Park, Pause, Retry, Settle, Split, Wait
from service.rules.retry import after
from service.rules.states import BatchState, JobState, Stage
from service.rules.work import BatchClaim, Claim, JobClaim, PartClaim
from service.runner.lease import HeldLease, while_lasts
from service.runner.waits import Waits
from service.runner.worklog import bound, report
from service.store import engine
from service.store.apply import apply
from service.store.claim import claim_batches, claim_jobs, provider_ids
from service.store.engine import is_unavailable
from service.store.parts import parts_of
from service.store.permissions import permissions_for
from service.together.client import Together
from service.together.transport import Pool, open_pool

log = structlog.get_logger()

BatchWork = Callable[[BatchClaim, stages.AccountClients], Outcome]
JobWork = Callable[[JobClaim, stages.Clients], Outcome]
Gate = Callable[[], None]
"""Called before each call of Together's control API. It may wait, or raise Transient."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The function of each stage."""

    batches: Mapping[Stage, BatchWork]
    jobs: Mapping[Stage, JobWork]


CLAIMED_AT_ONCE = 1000
"""The most batches that a poll leases at a time."""
CANCELLED_TRIES = 3
"""After so many failures to read the requests of a cancelled job, it ends without reading them."""


def _without_requests(outcome: Outcome | None) -> Outcome | None:
    """Return what ends a cancelled job if its requests, of which nothing was sent, are not read."""
    return Split(()) if isinstance(outcome, Retry | Pause | Park) else outcome


def _handed_back(claim: Claim) -> Outcome:
    reason = "handed back by a worker that was stopped"
    if isinstance(claim, BatchClaim) and claim.state is BatchState.UPLOADED:
        # Nobody keeps a lease between sending a create and its answer.
        return Retry(reason, timedelta(0), not_sent=True)
    return Wait(timedelta(0), reason=reason, looked=False)


def scratch_of(settings: Settings) -> Path:
    """Return where this machine's workers keep files while they are fetched and sent."""
    return settings.scratch or Path(gettempdir())


class Runner:
    """Runs stages in this process. It opens connections at first use, so after a fork.

    `gate` takes an account and the longest time that one claim may wait for its calls in all, and
    returns the claim's gate. `stopping` returns whether the process is to stop; a stage then hands
    long work back.
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
        # A stage extends its lease between two blocks. At least three quarters of the lease are
        # left then, so half of it is the longest wait for one block.
        return open_pool(min(timedelta(seconds=120), self.settings.lease_seconds / 2))

    @property
    def _quarter(self) -> timedelta:
        return self.settings.lease_seconds / 4

    @cached_property
    def _scratch(self) -> Path:
        path = scratch_of(self.settings)
        private_folder(path)
        return path

    def _lease(self, claim: Claim, since: float) -> HeldLease:
        return HeldLease(self.db, claim, self.settings.lease_seconds, since, self.stopping)

    def jobs(self, stage: Stage, ids: Iterable[UUID]) -> None:
        """Run a stage of those of the jobs that are due and that no other worker holds."""
        taken = time.monotonic()
        for claim in claim_jobs(self.db, list(ids), stage, self.settings.lease_seconds):
            with bound(claim, stage):
                lease = self._lease(claim, taken)
                outcome = self._work(claim, stage, lease)
                stuck = claim.cancel_requested and claim.failures >= CANCELLED_TRIES
                if stuck and stage is Stage.SPLIT:
                    outcome = _without_requests(outcome)
                self._finish(claim, lease, outcome)

    def batches(self, stage: Stage, ids: Iterable[UUID]) -> Iterator[UUID]:
        """Run a stage on batches, one after the other. Yields the ids of those that advanced.

        An error of one batch changes that batch's row alone.
        """
        if stage is Stage.POLL:
            yield from self._poll(list(ids))
            return
        taken = time.monotonic()
        claims = claim_batches(self.db, list(ids), stage, self.settings.lease_seconds)
        pause: Pause | None = None
        for claim in claims:
            with bound(claim, stage):
                lease = self._lease(claim, taken)
                # A fault that pauses the account would stop the rest of the page as well.
                outcome = pause or self._work(claim, stage, lease)
                if isinstance(outcome, Pause):
                    pause = outcome
                if self._finish(claim, lease, outcome):
                    yield claim.id

    def _poll(self, ids: list[UUID]) -> Iterator[UUID]:
        """Poll batches of one account: a thousand leases at a time, and one list for all."""
        shown = provider_ids(self.db, ids)
        view: stages.Lookup | None = None
        rest: Wait | None = None
        for start in range(0, len(ids), CLAIMED_AT_ONCE):
            taken = time.monotonic()
            page = ids[start : start + CLAIMED_AT_ONCE]
            claims = claim_batches(self.db, page, Stage.POLL, self.settings.lease_seconds)
            if not claims:
                continue
            careful = any(claim.tries for claim in claims)
            if view is None or careful or view.is_old(self._quarter):
                costs = self._costs[claims[0].account]
                view = stages.Lookup(shown, costs, careful=careful)
            rest = yield from self._poll_page(claims, taken, view, rest)

    def _poll_page(
        self,
        claims: Sequence[BatchClaim],
        taken: float,
        view: stages.Lookup,
        rest: Wait | None,
    ) -> Generator[UUID, None, Wait | None]:
        """Poll what was claimed, and write all waits at once.

        Returns the outcome for all that follow, if there is nothing left to do but to hand them
        back: `rest` of the page before, or what this page met with.
        """
        waits = Waits(self.db, self.settings.lease_seconds)
        for claim in claims:
            with bound(claim, Stage.POLL):
                lease = self._lease(claim, taken)
                outcome = rest or self._work(claim, Stage.POLL, lease, view)
                if isinstance(outcome, Wait) and not claim.account_blocked:
                    waits.add(claim, outcome)
                elif self._finish(claim, lease, outcome):
                    yield claim.id
            if isinstance(outcome, Pause):
                # A fault that pauses the account would stop the rest of the page as well.
                rest = Wait(timedelta(0), reason=outcome.reason, looked=False)
            elif time.monotonic() > max(view.ready_at, taken) + self._quarter.total_seconds():
                # Single calls take long. If they went on, each row would need its lease extended.
                rest = Wait(timedelta(0), looked=False)
            waits.flush_if_due()
        waits.flush()
        return rest

    def _work(
        self, claim: Claim, stage: Stage, lease: HeldLease, view: stages.Lookup | None = None
    ) -> Outcome | None:
        """Return the stage's outcome, or None if the lease was lost and nothing may be written."""
        with STAGE_SECONDS.timed(stage):
            return self._outcome(claim, stage, lease, view)

    def _outcome(
        self, claim: Claim, stage: Stage, lease: HeldLease, view: stages.Lookup | None
    ) -> Outcome | None:
        try:
            reached(CrashPoint.WORKER_CLAIMED)
            lease.keep()  # in a long page, a batch's turn may come late
            if claim.tries >= self.settings.stage_tries:
                return self._give_up(claim, lease)
            if isinstance(claim, JobClaim):
                return self._functions.jobs[stage](claim, self._job_clients(claim, lease))
            return self._batch(claim, stage, lease, view)
        except StaleLease:
            log.warning("lease_lost")
            return None
        except HandedBack:
            return _handed_back(claim)
        except HaulierError as error:
            return after(error)
        except Exception as error:
            # An error of one row must not stop the others.
            log.exception("stage_broke")
            return Retry(f"{type(error).__name__}: {error}", fault=self._is_fault(error))

    def _batch(
        self, claim: BatchClaim, stage: Stage, lease: HeldLease, view: stages.Lookup | None
    ) -> Outcome:
        clients = self._clients(lease)
        ended = stages.ended_here(claim, clients)
        if ended is not None:
            return ended
        if claim.cancel_requested and self.settings.account(claim.account) is None:
            return stages.give_up(claim, clients)
        clients = self._account_clients(claim, lease, view)
        if claim.account_blocked:
            # The batch that was refused may not be fit to prove that the key works again.
            clients.together.check_key()
        try:
            return self._functions.batches[stage](claim, clients)
        except Unreachable as error:
            return stages.weigh(claim, error, clients)

    def _is_fault(self, error: Exception) -> bool:
        """Whether an error is one of the row or of the code, so that it will come again.

        A missing blob is. That Postgres, the blob storage or the scratch space are away is not.
        """
        if isinstance(error, FileNotFoundError):
            in_scratch = str(error.filename or "").startswith(str(self._scratch))
            return not in_scratch and self.blobs.is_there()
        return not (is_unavailable(error) or isinstance(error, (OSError, *STORAGE_ERRORS)))

    def _give_up(self, claim: Claim, lease: HeldLease) -> Outcome:
        """Return the outcome of a row whose workers all died; park what Together may hold."""
        reason = f"{claim.tries} workers died or were lost over this stage"
        if isinstance(claim, JobClaim):
            return Fail(reason) if claim.state is JobState.ACCEPTED else Park(reason)
        if claim.provider_batch_id is not None or claim.create_deadline is not None:
            return Park(reason)
        return stages.refuse(claim, self._clients(lease), "stage_failed", reason)

    def _clients(self, lease: HeldLease) -> stages.Clients:
        return stages.Clients(
            blobs=self.blobs,
            lease=lease,
            scratch=self._scratch,
            settings=self.settings,
            parts=cache(partial(self._parts, lease)),
        )

    def _parts(self, lease: HeldLease) -> tuple[PartClaim, ...]:
        """Read the parts of a batch. Retries for as long as the lease lasts if Postgres is away."""
        claim = lease.claim
        for attempt in while_lasts(lease.remaining):
            with attempt:
                parts = parts_of(self.db, claim) if isinstance(claim, BatchClaim) else ()
        return parts

    def _job_clients(self, claim: JobClaim, lease: HeldLease) -> stages.Clients:
        clients = self._clients(lease)
        if claim.enqueued is None and claim.input is None:
            return clients
        return replace(clients, permissions=permissions_for(self.db, claim.producer, self.settings))

    def _account_clients(
        self, claim: BatchClaim, lease: HeldLease, view: stages.Lookup | None
    ) -> stages.AccountClients:
        together = self.together(claim.account)
        show = together.batch if view is None else partial(view.show, together)
        return stages.AccountClients(**vars(self._clients(lease)), together=together, show=show)

    def together(self, name: str) -> Together:
        """The client of an account. Raises AccountBlocked if the settings have no key for it."""
        account = self.settings.account(name)
        if account is None:
            raise AccountBlocked(f"account {name!r} has no key in the settings")
        if self._gate is None:
            return Together(self._pool, account.base_url, account.key)
        # A claim waits a quarter of its lease at most, so that enough of the lease is left.
        gate = self._gate(name, self._quarter)
        return Together(self._pool, account.base_url, account.key, gate=gate)

    def _finish(self, claim: Claim, lease: HeldLease, outcome: Outcome | None) -> bool:
        """Apply the outcome. Return whether a batch advanced; going back to queued does not count.

        Retries for as long as the lease lasts if Postgres is away.
        """
        if outcome is None:
            return False
        began = time.monotonic()
        try:
            for attempt in while_lasts(lease.remaining):
                with attempt:
                    apply(
                        self.db,
                        claim,
                        outcome,
                        retry_base=self.settings.retry_base_seconds,
                        probe=self.settings.probe_seconds,
                        company=self.settings.retry_pack_seconds,
                        rest=self.settings.rest_seconds,
                    )
        except StaleLease:
            log.warning("lease_lost", outcome=type(outcome).__name__)
            return False
        except Exception as error:
            if is_unavailable(error):
                raise
            # One row that cannot be stored must not stop the page. If it never can, it is parked.
            log.exception("outcome_not_stored", outcome=type(outcome).__name__)
            if not isinstance(outcome, Retry):
                words = f"the outcome {type(outcome).__name__} cannot be stored: {error}"
                self._finish(claim, lease, Retry(words.split("\n", 1)[0], fault=True))
            return False
        report(outcome)
        OUTCOMES.count(type(outcome).__name__.lower())
        if isinstance(outcome, Settle):
            SETTLE_SECONDS.took(time.monotonic() - began)
        reached(CrashPoint.WORKER_APPLIED)
        return isinstance(outcome, Advance) and outcome.to is not BatchState.QUEUED
