"""Download what Together made of a batch, and account for every request."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import IO

from service.payloads.results import LinesWriter
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import Missing
from service.rules.retry import backoff, outage_pause, own_texts
from service.rules.states import BatchState
from service.rules.work import (
    BatchClaim,
    Changes,
    FinalLines,
    Outcome,
    RetryBatch,
    Settle,
    Settlement,
    Wait,
)
from service.stages.clients import AccountClients
from service.stages.dead_letters import result_line
from service.stages.poison import Delay, divide
from service.stages.poll import when_not_there
from service.stages.reconcile import (
    BLOCK,
    Answers,
    FailurePolicy,
    Group,
    Verdicts,
    judge,
    read_answers,
)
from service.stages.settling import Look, illegible, look_again


def fetch(batch: BatchClaim, clients: AccountClients) -> Outcome:
    """Download both files and settle the batch.

    The status does not matter: a cancelled or expired batch may have output that is paid for.
    """
    try:
        return _fetch(batch, clients)
    except Missing as error:
        return when_not_there(batch, error, clients)


def _fetch(batch: BatchClaim, clients: AccountClients) -> Outcome:
    batch, changes = _anew(batch, clients)
    if batch.state is not BatchState.ENDED:
        return Wait(clients.settings.poll_seconds, reason="Together shows the batch as unfinished")
    entries = clients.blobs.get_manifest(batch.manifest_blob)
    wanted = {entry.custom_id for entry in entries}
    with _downloads(batch, clients) as (files, whole):
        reached(CrashPoint.FETCH_DOWNLOADED)
        answers = read_answers(files, wanted, clients.lease.keep)
        verdicts = judge(entries, answers, _policy(batch, clients))
        look = _look(batch, answers, verdicts, files=len(files), whole=whole)
        settings = clients.settings
        again = look_again(batch, look, settings.settle_patience_seconds, settings.poll_seconds)
        if again is not None:
            return again
        parked = None if batch.cancel_requested else illegible(look)
        if parked is not None:
            return parked
        final = _write(batch, clients, files, answers, verdicts)
        reached(CrashPoint.FETCH_WRITTEN)
        retries = tuple(_retries(batch, clients, verdicts))
        if retries:
            reached(CrashPoint.FETCH_CARRIED)
        settlement = Settlement(
            succeeded=len(verdicts.successes),
            dead=tuple(verdicts.dead.values()),
            retries=retries,
            final_lines=final,
            usage=answers.usage,
            oddities=answers.oddities(missing=len(verdicts.missing)),
        )
    return Settle(BatchState.SETTLED, settlement, changes)


def _anew(batch: BatchClaim, clients: AccountClients) -> tuple[BatchClaim, Changes]:
    """Read the batch anew, since its files may show later than its status.

    A file id that was seen once is kept. The claim goes back to CREATED if the batch has not ended
    after all.
    """
    if batch.provider_batch_id is None:
        raise AssertionError("an ended batch has a provider batch id")
    job = clients.together.batch(batch.provider_batch_id)
    changes = Changes(
        provider_status=job.status,
        provider_error=job.error,
        output_file_id=job.output_file_id or batch.output_file_id,
        error_file_id=job.error_file_id or batch.error_file_id,
    )
    return (
        replace(
            batch,
            state=BatchState.ENDED if job.ended else BatchState.CREATED,
            provider_status=job.status,
            provider_error=job.error or batch.provider_error,
            output_file_id=changes.output_file_id,
            error_file_id=changes.error_file_id,
        ),
        changes,
    )


def _look(
    batch: BatchClaim, answers: Answers, verdicts: Verdicts, *, files: int, whole: bool
) -> Look:
    return Look(
        status=batch.provider_status or "",
        missing=verdicts.missing,
        requests=batch.requests,
        files=files,
        whole=whole,
        readable=answers.readable - answers.unknown,
        unreadable=answers.unreadable + answers.unknown,
    )


def _policy(batch: BatchClaim, clients: AccountClients) -> FailurePolicy:
    return FailurePolicy(
        max_attempts=batch.max_attempts,
        cancelled=batch.cancel_requested,
        provider_status=batch.provider_status or "",
        provider_error=batch.provider_error,
        own_texts=own_texts(
            permanent=clients.settings.permanent_errors,
            retryable=clients.settings.retryable_errors,
        ),
        divide=partial(divide, batch),
    )


@contextmanager
def _downloads(
    batch: BatchClaim, clients: AccountClients
) -> Iterator[tuple[list[IO[bytes]], bool]]:
    """Download the output and error files, if there are any, to local scratch space.

    Yields them, and whether they are whole.
    """
    with ExitStack() as stack:
        files: list[IO[bytes]] = []
        whole = True
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                file = stack.enter_context(
                    tempfile.TemporaryFile(buffering=BLOCK, dir=clients.scratch)
                )
                whole &= clients.together.download(file_id, file, clients.lease.keep)
                files.append(file)
        yield files, whole


def _write(
    batch: BatchClaim,
    clients: AccountClients,
    files: list[IO[bytes]],
    answers: Answers,
    verdicts: Verdicts,
) -> FinalLines | None:
    """Write the final lines in input order: the provider's lines and those of dead letters."""
    if not verdicts.final:
        return None
    writer = LinesWriter(clients.blobs, f"jobs/{batch.job_id}/{batch.id}/{batch.lease}")
    numbers = [file.fileno() for file in files]
    # A step fits in a block even if all its lines are as long as the longest one. A dead letter's
    # line takes a few kilobytes at most.
    step = min(256, max(1, BLOCK // (answers.longest + 1)))
    with writer.open():
        for start in range(0, len(verdicts.final), step):
            entries = verdicts.final[start : start + step]
            places = [answers.found.get(entry.custom_id) for entry in entries]
            lines = [
                os.pread(numbers[place[0]], place[2], place[1])
                if place is not None
                else result_line(verdicts.dead[entry.ordinal])
                for place, entry in zip(places, entries, strict=True)
            ]
            writer.write_all([entry.ordinal for entry in entries], lines)
            clients.lease.keep()
    return writer.final_lines


def _retries(
    batch: BatchClaim, clients: AccountClients, verdicts: Verdicts
) -> Iterator[RetryBatch]:
    """Write a manifest for each retry batch that the carried requests go into."""
    for number, group in enumerate(verdicts.groups):
        name = f"jobs/{batch.job_id}/{batch.id}/{batch.lease}-retry-{number}.manifest"
        clients.blobs.put_manifest(name, list(group.entries))
        yield RetryBatch(
            manifest_blob=name,
            requests=len(group.entries),
            bytes=sum(entry.length for entry in group.entries),
            delay=_delay(group, batch.attempt, clients.settings.retry_base_seconds),
            poison=group.poison,
        )


def _delay(group: Group, attempt: int, base: timedelta) -> timedelta:
    match group.delay:
        case Delay.NONE:
            return timedelta(0)
        case Delay.OUTAGE:
            return outage_pause(max(entry.lost for entry in group.entries), base)
        case Delay.BACKOFF:
            return backoff(attempt, base, 1.0)
