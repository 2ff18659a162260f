"""What the answers of a batch say of its lane."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from service.rules.alike import alike
from service.rules.lanes import EVIDENCE_LINES, KEPT_JOBS, Signs, Trouble
from service.rules.retry import BatchFault, batch_fault
from service.rules.work import BatchClaim, PartClaim
from service.stages.reconcile import Answers, Failure, is_trouble

Judge = Callable[[Failure], bool]


def common_trouble(
    answers: Answers, failed_before: Collection[int] = (), judge: Judge = is_trouble
) -> tuple[str, list[int]]:
    """Return the text with which most requests met trouble at Together, and their numbers.

    Requests that had `failed_before`, at an attempt that counted, prove nothing: they are in this
    batch because they fail.
    """
    words: dict[Failure, str | None] = {}
    numbers: dict[str, list[int]] = {}
    for number, failure in answers.failures.items():
        if answers.places[number] is not None or number in failed_before:
            continue
        if failure not in words:
            words[failure] = alike(failure.message) if judge(failure) else None
        text = words[failure]
        if text is not None:
            numbers.setdefault(text, []).append(number)
    return max(numbers.items(), key=lambda found: len(found[1]), default=("", []))


def is_common_outage(
    requests: int,
    answers: Answers,
    failed_before: Collection[int] = (),
    judge: Judge = is_trouble,
) -> bool:
    """Whether most requests of a batch failed alike with trouble at Together.

    A few lines prove nothing: at least EVIDENCE_LINES must have failed.
    """
    _, numbers = common_trouble(answers, failed_before, judge)
    most = len(numbers)
    return most >= EVIDENCE_LINES and most * 2 > requests - len(failed_before)


def signs_of(
    batch: BatchClaim,
    answers: Answers,
    parts: Sequence[tuple[PartClaim, range]],
    failed_before: Collection[int],
    judge: Judge = is_trouble,
) -> Signs | None:
    """Return what a batch says of its lane, or None if it says nothing.

    `parts` come with the numbers of their requests.
    """
    requests = sum(len(numbers) for _, numbers in parts)
    served = Counter({part.job_id: 0 for part, _ in parts})
    for part, numbers in parts:
        served[part.job_id] += sum(answers.places[number] is not None for number in numbers)
    if served.total() * 2 > requests:
        return Signs(jobs=tuple(job for job, count in served.items() if count), well=True)
    if batch.provider_status == "FAILED" and not answers.failures:
        error = batch.provider_error or ""
        if batch_fault(error) is not BatchFault.OUTAGE:
            return None
        jobs = tuple(dict.fromkeys(part.job_id for part, _ in parts))
        return Signs(
            jobs=jobs[:KEPT_JOBS], trouble=Trouble.BATCHES, text=alike(error), lines=requests
        )
    # A probe was chosen to find out, whatever it met with before.
    before = () if batch.probe is not None else failed_before
    text, found = common_trouble(answers, before, judge)
    if not found or len(found) * 2 <= requests - len(before):
        return None
    ill = set(found)
    jobs = tuple(
        dict.fromkeys(
            part.job_id
            for part, numbers in parts
            if sum(number in ill for number in numbers) * 2 > len(numbers)
        )
    )
    return Signs(jobs=jobs[:KEPT_JOBS], trouble=Trouble.LINES, text=text, lines=len(found))
