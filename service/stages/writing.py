"""Write what a settled batch leaves: final lines, answers that failed, and what goes again."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import chain, islice
from typing import IO

from service.payloads.results import LinesWriter
from service.rules.crashpoints import CrashPoint, reached
from service.rules.outcomes import RetryPart, Settlement
from service.rules.retry import backoff, outage_pause
from service.rules.shared_ids import renamed
from service.rules.work import BatchClaim, Entry, FinalLines
from service.stages.checking import line_at
from service.stages.clients import AccountClients
from service.stages.dead_letters import blob_prefix, result_line
from service.stages.judging import Judged
from service.stages.kept import keep_answers, kept_answers
from service.stages.poison import Delay
from service.stages.reconcile import BLOCK, Answers, Group, Place
from service.together.said import body_of


def settlements_of(
    batch: BatchClaim,
    clients: AccountClients,
    files: list[IO[bytes]],
    answers: Answers,
    judged: Sequence[Judged],
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
    judged: Judged,
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
        kept = kept_answers(clients.blobs, _earlier(some, answers))
        for number, entry, name, place in some:
            if place is None:
                letter = judged.verdicts.dead[entry.ordinal]
                unfit = answers.unfit.get(number)
                answer = (
                    kept.get(entry.answer or "")
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


def _earlier(
    some: Iterable[tuple[int, Entry, str, Place | None]], answers: Answers
) -> list[str | None]:
    """Return where the answers of dead requests are that were kept in an earlier attempt."""
    return [
        entry.answer
        for number, entry, _, place in some
        if place is None and number not in answers.unfit
    ]


def _keep_unfit(
    batch: BatchClaim,
    clients: AccountClients,
    files: list[IO[bytes]],
    answers: Answers,
    judged: Sequence[Judged],
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
    places = list(chain.from_iterable(carried))
    bodies = ((place, body_of(line_at(descriptors, place))) for place in places)
    kept = keep_answers(clients.blobs, name, bodies, clients.lease.keep) if places else {}
    for each, found in zip(judged, unfit, strict=True):
        each.verdicts.name_answers(
            {ordinal: kept[place] for ordinal, place in found.items() if place in kept}
        )


def _retries(batch: BatchClaim, clients: AccountClients, judged: Judged) -> Iterator[RetryPart]:
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
