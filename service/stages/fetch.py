"""Download what Together made of a batch, and account for every request."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import accumulate, chain
from typing import IO

from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import Missing
from service.rules.outcomes import Changes, Outcome, Settle, Wait
from service.rules.shared_ids import prefix_of
from service.rules.states import BatchState, PartState
from service.rules.work import BatchClaim
from service.stages.checking import check_answers
from service.stages.clients import AccountClients
from service.stages.dead_letters import names_of, open_parts
from service.stages.judging import Judged, policies, texts_of
from service.stages.poll import when_not_there
from service.stages.reconcile import BLOCK, Answers, is_trouble, judge, read_answers
from service.stages.settling import Look, illegible, look_again
from service.stages.signs import is_common_outage, signs_of
from service.stages.writing import settlements_of


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
    parts = open_parts(clients)
    entries = [clients.blobs.get_manifest(part.manifest) for part in parts]
    names = [names_of(batch, part, found) for part, found in zip(parts, entries, strict=True)]
    firsts = list(accumulate(map(len, entries[:-1]), initial=0))
    with _downloads(batch, clients) as (files, whole):
        reached(CrashPoint.FETCH_DOWNLOADED)
        answers = read_answers(
            files,
            list(chain.from_iterable(names)),
            clients.lease.keep,
            by_request=batch.parts > 1,
            ignored=_of_settled_parts(batch, clients),
        )
        numbers = (
            range(first, first + len(found)) for first, found in zip(firsts, entries, strict=True)
        )
        check_answers(files, answers, list(zip(parts, numbers, strict=True)), clients)
        attempts = chain.from_iterable((entry.attempts for entry in found) for found in entries)
        failed_before = {number for number, count in enumerate(attempts) if count}
        texts = texts_of(clients)
        is_ill = partial(is_trouble, texts=texts)
        outage = is_common_outage(batch.requests, answers, failed_before, is_ill)
        decide = policies(batch, clients, parts, outage, texts)
        judged = [
            Judged(part, found, called, first, judge(found, answers, decide(part), first))
            for part, found, called, first in zip(parts, entries, names, firsts, strict=True)
        ]
        look = _look(batch, answers, judged, files=len(files), whole=whole)
        settings = clients.settings
        again = look_again(batch, look, settings.settle_patience_seconds, settings.poll_seconds)
        if again is not None:
            # What waits holds only its own part.
            judged = [each for each in judged if not any(each.missing)]
            judged = judged if whole else [each for each in judged if each.is_served]
            if not judged:
                return again
        else:
            parked = None if batch.cancel_requested else illegible(look)
            if parked is not None:
                return parked
        settlements = settlements_of(batch, clients, files, answers, judged)
        numbered = [(each.part, each.numbers) for each in judged]
        signs = signs_of(batch, answers, numbered, failed_before, is_ill)
    missing = len(look.missing)
    return Settle(
        BatchState.SETTLED,
        settlements,
        changes,
        oddities=answers.oddities(missing=missing),
        rest=again,
        signs=signs,
    )


def _of_settled_parts(batch: BatchClaim, clients: AccountClients) -> Callable[[str], bool]:
    """Return what tells the requests of parts that an earlier fetch has settled."""
    done = [part for part in clients.parts() if part.state is PartState.SETTLED]
    if batch.renamed:
        prefixes = {prefix_of(part.job_id) for part in done}
        return lambda name: name[: name.rfind("-") + 1] in prefixes
    known = {
        entry.custom_id for part in done for entry in clients.blobs.get_manifest(part.manifest)
    }
    return lambda name: name in known


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
    batch: BatchClaim,
    answers: Answers,
    judged: Sequence[Judged],
    *,
    files: int,
    whole: bool,
) -> Look:
    return Look(
        status=batch.provider_status or "",
        missing=tuple(name for each in judged for name in each.missing),
        requests=batch.requests,
        files=files,
        whole=whole,
        readable=answers.readable - answers.unknown,
        unreadable=answers.unreadable + answers.unknown,
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
                most = clients.settings.unpacked_bytes
                whole &= clients.together.download(file_id, file, clients.lease.keep, most)
                files.append(file)
        yield files, whole
