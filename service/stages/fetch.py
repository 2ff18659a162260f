"""Download what Together made of a batch, and account for every request."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import accumulate, chain, islice
from typing import IO

from service.payloads.results import LinesWriter
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import Missing
from service.rules.outcomes import Changes, Outcome, RetryPart, Settle, Settlement, Wait
from service.rules.retry import OwnTexts, backoff, outage_pause, own_texts
from service.rules.shared_ids import prefix_of, renamed
from service.rules.states import BatchState, LaneState, PartState
from service.rules.work import BatchClaim, Entry, FinalLines, PartClaim
from service.stages.checking import check_answers, keep_answers, line_at
from service.stages.clients import AccountClients
from service.stages.dead_letters import (
    blob_prefix,
    kept_answer,
    names_of,
    open_parts,
    result_line,
)
from service.stages.poison import Delay, divide, divisions
from service.stages.poll import when_not_there
from service.stages.reconcile import (
    BLOCK,
    Answers,
    FailurePolicy,
    Group,
    Verdicts,
    is_trouble,
    judge,
    read_answers,
)
from service.stages.settling import Look, illegible, look_again
from service.stages.signs import is_common_outage, signs_of
from service.together.said import body_of


def fetch(batch: BatchClaim, clients: AccountClients) -> Outcome:
    """Download both files and settle the batch.

    The status does not matter: a cancelled or expired batch may have output that is paid for.
    """
    try:
        return _fetch(batch, clients)
    except Missing as error:
        return when_not_there(batch, error, clients)


@dataclass(frozen=True)
class _Judged:
    """A part with its requests, what they are called in the batch, and what became of them.

    `first` is the number of its first request among those of all open parts.
    """

    part: PartClaim
    entries: list[Entry]
    names: Sequence[str]
    first: int
    verdicts: Verdicts

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + len(self.entries))

    @property
    def missing(self) -> Iterator[int | str]:
        """What is missing: by ordinal, or by name where other jobs have the same ordinals."""
        ordinals = set(self.verdicts.missing)
        if not ordinals:
            return
        for entry, name in zip(self.entries, self.names, strict=True):
            if entry.ordinal in ordinals:
                yield name

    @property
    def is_served(self) -> bool:
        return self.verdicts.succeeded == len(self.entries)

    @property
    def is_carried(self) -> bool:
        """Whether all of it goes again."""
        return len(self.verdicts.carried) == len(self.entries)


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
        texts = _texts(clients)
        is_ill = partial(is_trouble, texts=texts)
        outage = is_common_outage(batch.requests, answers, failed_before, is_ill)
        decide = _policies(batch, clients, parts, outage, texts)
        judged = [
            _Judged(part, found, called, first, judge(found, answers, decide(part), first))
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
        settlements = _settlements(batch, clients, files, answers, judged)
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


def _texts(clients: AccountClients) -> OwnTexts:
    return own_texts(
        permanent=clients.settings.permanent_errors,
        retryable=clients.settings.retryable_errors,
    )


def _is_borne(batch: BatchClaim, part: PartClaim, patience: timedelta) -> bool:
    """Whether what an ill lane does to a part's requests is no attempt. It has an end."""
    if batch.lane_state is LaneState.HEALTHY:
        return False
    return part.outage_since is None or batch.now - part.outage_since < patience


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
    judged: Sequence[_Judged],
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


def _policies(
    batch: BatchClaim,
    clients: AccountClients,
    parts: Sequence[PartClaim],
    outage: bool,
    texts: OwnTexts,
) -> Callable[[PartClaim], FailurePolicy]:
    """Return what makes the policy of each part."""
    patience = timedelta(hours=clients.settings.outage_hours)

    def is_borne(part: PartClaim) -> bool:
        return _is_borne(batch, part, patience)

    by_parts = divisions(batch, parts, is_borne) if len(parts) > 1 else None

    def policy(part: PartClaim) -> FailurePolicy:
        return FailurePolicy(
            max_attempts=part.max_attempts,
            cancelled=part.cancelled,
            provider_status=batch.provider_status or "",
            provider_error=batch.provider_error,
            own_texts=texts,
            divide=partial(divide, batch, is_borne=is_borne(part))
            if by_parts is None
            else partial(by_parts, part),
            outage=outage,
            is_ill=batch.lane_state is not LaneState.HEALTHY,
            is_borne=is_borne(part),
        )

    return policy


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


def _settlements(
    batch: BatchClaim,
    clients: AccountClients,
    files: list[IO[bytes]],
    answers: Answers,
    judged: Sequence[_Judged],
) -> tuple[Settlement, ...]:
    """Write the final lines of the parts, and the manifests of what goes again."""
    writer = LinesWriter(clients.blobs, blob_prefix(batch), shared=batch.parts > 1)
    places: list[FinalLines | None] = []
    if not all(each.is_carried for each in judged):
        descriptors = [file.fileno() for file in files]
        with writer.open():
            for each in judged:
                _write(writer, descriptors, answers, each, clients)
                places.append(writer.end_part())
    else:
        places = [None] * len(judged)
    reached(CrashPoint.FETCH_WRITTEN)
    _keep_unfit(batch, clients, files, answers, judged)
    retries = [tuple(_retries(batch, clients, each)) for each in judged]
    if any(retries):
        reached(CrashPoint.FETCH_CARRIED)
    return tuple(
        Settlement(
            part=each.part.id,
            job_id=each.part.job_id,
            succeeded=each.verdicts.succeeded,
            dead=tuple(each.verdicts.dead.values()),
            retries=again,
            final_lines=place,
            usage=answers.usage_of(each.numbers) if batch.parts > 1 else answers.usage,
        )
        for each, place, again in zip(judged, places, retries, strict=True)
    )


def _write(
    writer: LinesWriter,
    descriptors: Sequence[int],
    answers: Answers,
    judged: _Judged,
    clients: AccountClients,
) -> None:
    """Write a part's final lines in input order: the provider's lines and those of dead letters."""
    places = answers.places[judged.first : judged.numbers.stop]
    requests = zip(judged.numbers, judged.entries, judged.names, places, strict=True)
    again = {entry.ordinal for entry in judged.verdicts.carried}
    final = (request for request in requests if request[1].ordinal not in again)
    # A step fits in a block even if all its lines are as long as the longest one. A dead letter's
    # line takes a few kilobytes at most.
    step = min(256, max(1, BLOCK // (answers.longest + 1)))
    while some := list(islice(final, step)):
        lines = []
        for number, entry, name, place in some:
            if place is None:
                letter = judged.verdicts.dead[entry.ordinal]
                unfit = answers.unfit.get(number)
                answer = (
                    kept_answer(clients.blobs, entry.answer)
                    if unfit is None
                    else body_of(line_at(descriptors, unfit))
                )
                lines.append(result_line(letter, answer))
                continue
            line = line_at(descriptors, place)
            same = name == entry.custom_id
            lines.append(line if same else renamed(line, name, entry.custom_id))
        writer.write_all([entry.ordinal for _, entry, _, _ in some], lines)
        clients.lease.keep()


def _keep_unfit(
    batch: BatchClaim,
    clients: AccountClients,
    files: list[IO[bytes]],
    answers: Answers,
    judged: Sequence[_Judged],
) -> None:
    """Let the requests that go again name their answers that failed the check."""
    if not answers.unfit:
        return
    unfit = [
        {entry.ordinal: answers.unfit[number] for number, entry in each if number in answers.unfit}
        for each in (zip(each.numbers, each.entries, strict=True) for each in judged)
    ]
    carried = [
        [found[entry.ordinal] for entry in each.verdicts.carried if entry.ordinal in found]
        for each, found in zip(judged, unfit, strict=True)
    ]
    descriptors = [file.fileno() for file in files]
    name = f"{blob_prefix(batch)}-answers"
    kept = keep_answers(name, descriptors, list(chain.from_iterable(carried)), clients)
    for each, found in zip(judged, unfit, strict=True):
        each.verdicts.name_answers(
            {ordinal: kept[place] for ordinal, place in found.items() if place in kept}
        )


def _retries(batch: BatchClaim, clients: AccountClients, judged: _Judged) -> Iterator[RetryPart]:
    """Write a manifest for each new part that the carried requests go into."""
    for number, group in enumerate(judged.verdicts.groups):
        name = f"{blob_prefix(batch)}-{judged.part.id}-{number}.manifest"
        yield RetryPart(
            manifest=clients.blobs.put_manifest(name, list(group.entries)),
            requests=len(group.entries),
            bytes=sum(entry.length for entry in group.entries),
            delay=_delay(group, judged.part.attempt, clients.settings.retry_base_seconds),
            poison=group.poison,
            company=group.company,
            outage=group.delay is Delay.OUTAGE,
        )


def _delay(group: Group, attempt: int, base: timedelta) -> timedelta:
    match group.delay:
        case Delay.NONE:
            return timedelta(0)
        case Delay.OUTAGE:
            return outage_pause(max(entry.lost for entry in group.entries), base)
        case Delay.BACKOFF:
            return backoff(attempt, base, 1.0)
