"""The whole pipeline on this machine, against the simulator: `python -m tests.acceptance.demo`.

Starts `haulier up --simulate` in a home of its own, makes Together answer badly in every plain
way, submits a large job and a swarm of small ones, and checks the results against the input and
against the simulator's books. With `--calls`, a script makes ordinary calls instead.
"""

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from uuid import UUID

import msgspec
from haulier_client import HaulierError
from together import TogetherError

from service.cli.api import Api, Envelope
from service.cli.documents import Failure, Job
from service.cli.screen import Screen, length, output
from service.cli.show.watch import shown
from service.rules.requests import CHAT
from service.simulator.books import Books, LineBook
from tests.acceptance import demo_calls
from tests.acceptance.demo_console import console
from tests.acceptance.demo_instance import Instance, running
from tests.acceptance.demo_swarm import Swarm, play
from tests.simulator import Simulator
from tests.virtual_time.week import Wanted
from tests.virtual_time.world import BusyError

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
MAX_ATTEMPTS = 3

LONGEST_SECONDS = 300
"""What takes longer than this will not come to an end."""


@dataclass(frozen=True, eq=False)
class Trouble:
    """What the simulator does to the requests whose custom_id ends so, and what is to come of it.

    `executed`: how often such a request must have run in the end.
    """

    ending: str
    words: str
    rule: dict[str, object]
    executed: int
    dead: bool


TROUBLES = (
    Trouble(
        "13",
        "refused for good",
        {
            "effect": "error",
            "code": "context_length_exceeded",
            "message": "This model's maximum context length is 8193 tokens",
        },
        executed=1,
        dead=True,
    ),
    Trouble(
        "66", "failing at every attempt", {"effect": "error"}, executed=MAX_ATTEMPTS, dead=True
    ),
    Trouble("27", "failing once", {"effect": "error", "times": 1}, executed=2, dead=False),
    Trouble("42", "missing once", {"effect": "missing", "times": 1}, executed=2, dead=False),
)


def trouble(custom_id: str) -> Trouble | None:
    return next((t for t in TROUBLES if custom_id.endswith(t.ending)), None)


def custom_ids(requests: int) -> list[str]:
    return [f"question-{number:06}" for number in range(requests)]


def input_lines(ids: list[str]) -> bytes:
    lines = (
        {
            "custom_id": custom_id,
            "body": {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"What is {custom_id} about?"}],
            },
        }
        for custom_id in ids
    )
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


class ResultLine(msgspec.Struct):
    """A request's line of results, as far as the demo looks at it."""

    custom_id: str
    error: dict[str, str] | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Outcome:
    """All there is to check."""

    job: Job
    results: list[ResultLine]
    failures: list[Failure]
    books: Books
    took: float
    """Seconds."""
    swarm: Swarm | None = None

    def book(self, custom_id: str) -> LineBook:
        nothing = LineBook(executed=0, succeeded=0, failed=0)
        accounts = list(self.books.accounts.values())
        return accounts[0].lines.get(custom_id, nothing) if accounts else nothing


def main(arguments: list[str] | None = None) -> int:
    """Run it all. Gives the exit status: 0, or 1 with what is wrong on the screen."""
    asked = _arguments(arguments)
    screen = output()
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(0 if asked.console else LONGEST_SECONDS)
    try:
        if asked.console:
            console(screen, Wanted(asked.days, faults=asked.faults))
        problems, checked = _calls(screen, asked) if asked.calls else _jobs(screen, asked)
    except KeyboardInterrupt:
        return 130
    except (AssertionError, BusyError, HaulierError, TogetherError, OSError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    for problem in problems:
        screen.line(f"WRONG: {problem}")
    if not problems:
        screen.line(f"Checked: {checked}.")
    return 1 if problems else 0


def _jobs(screen: Screen, asked: argparse.Namespace) -> tuple[list[str], str]:
    """A large job and a swarm. Returns what is wrong, and what was checked."""
    with running(screen, keep=asked.keep) as instance:
        outcome = _played(screen, instance, asked.requests, asked.output, asked.small)
    _summarize(screen, outcome, asked.output)
    problems = check(outcome, custom_ids(asked.requests))
    return problems, "complete, each request once, in input order, and nothing bought twice"


def _calls(screen: Screen, asked: argparse.Namespace) -> tuple[list[str], str]:
    """Ordinary calls. Returns the same."""
    with running(screen, keep=asked.keep, HAULIER_PRICES=demo_calls.PRICES) as instance:
        played = demo_calls.play(screen, instance, asked.calls)
    played.summarize(screen)
    return list(played.problems()), "each call has its own answer, and nothing was bought twice"


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description="Haulier, all of it, for a minute.")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--small", type=int, default=1000, help="small jobs of the swarm")
    parser.add_argument(
        "--calls",
        type=int,
        nargs="?",
        const=1000,
        help="instead of jobs: so many ordinary calls at once, by Together's SDK",
    )
    parser.add_argument(
        "--console",
        action="store_true",
        help="instead: a service with a week of history, to look at until Ctrl-C",
    )
    parser.add_argument("--days", type=float, default=7.0, help="of the history")
    parser.add_argument("--faults", action="store_true", help="end the history with five faults")
    parser.add_argument("--output", type=Path, default=Path("demo-results.jsonl"))
    parser.add_argument("--keep", action="store_true", help="keep the instance's data and logs")
    return parser.parse_args(arguments)


def _give_up(_number: int, _frame: FrameType | None) -> None:
    signal.alarm(0)
    raise AssertionError(f"it has not come to an end within {LONGEST_SECONDS} s")


def _played(screen: Screen, instance: Instance, requests: int, target: Path, small: int) -> Outcome:
    place, simulator = instance.place, instance.simulator
    _make_trouble(screen, simulator, requests)
    with Api(place) as api:
        job = _submitted(screen, api, requests)
        seen = shown(api, job, screen, as_json=False)
        _save(api, job, target)
        books, took = simulator.books(), time.monotonic() - instance.started
        swarm = play(screen, place, simulator, small) if small else None
        return Outcome(
            job=seen,
            results=_read(target),
            failures=[document.value for document in api.failures(job)],
            books=books,
            took=took,
            swarm=swarm,
        )


def _make_trouble(screen: Screen, simulator: Simulator, requests: int) -> None:
    simulator.rule(lines=[{"pattern": f".*{t.ending}", **t.rule} for t in TROUBLES])
    simulator.fault("put", "status", status=503, body="html")
    simulator.fault("create", "lost", after_commit=True)
    simulator.fault("content", "cut", fraction=0.5)
    met = Counter(map(trouble, custom_ids(requests)))
    counts = ", ".join(f"{met[t]} {t.words}" for t in TROUBLES)
    screen.line(f"Trouble ahead for {requests:,} requests:")
    screen.line(f"  {counts};")
    screen.line("  one upload refused, the answer to one create lost, one download cut short")


def _submitted(screen: Screen, api: Api, requests: int) -> UUID:
    body = input_lines(custom_ids(requests))
    envelope = Envelope(endpoint=CHAT, max_attempts=MAX_ATTEMPTS, metadata='{"made_by":"demo"}')
    job = api.submit_lines([body], envelope, length=len(body)).job.value
    screen.line(f"Submitted as job {job.id}")
    return job.uuid


def _save(api: Api, job: UUID, target: Path) -> None:
    with target.open("wb") as file:
        file.writelines(api.results(job))


def _read(target: Path) -> list[ResultLine]:
    return [msgspec.json.decode(line, type=ResultLine) for line in target.open("rb")]


def check(outcome: Outcome, ids: list[str]) -> list[str]:
    """What is wrong, in words; nothing if all is well."""
    swarm = outcome.swarm.problems() if outcome.swarm is not None else []
    return [*_wrong_results(outcome, ids), *_wrong_purchases(outcome, ids), *swarm]


def _wrong_results(outcome: Outcome, ids: list[str]) -> Iterator[str]:
    job = outcome.job
    dead = [i for i in ids if (t := trouble(i)) is not None and t.dead]
    expected = ("completed", len(ids), len(ids) - len(dead), len(dead), 0)
    shown_by_job = (job.state, job.total, job.succeeded, job.failed, job.pending)
    if shown_by_job != expected:
        yield f"the job says {shown_by_job}, and should say {expected}"
    came = [line.custom_id for line in outcome.results]
    if sorted(came) != sorted(ids):
        lost = len(set(ids) - set(came))
        yield f"{len(came)} result lines for {len(ids)} requests; {lost} requests have none"
    elif came != ids:
        yield "the results are not in input order"
    if [line.custom_id for line in outcome.results if line.error] != dead:
        yield "other requests failed than should have"
    if [failure.custom_id for failure in outcome.failures] != dead:
        yield "the list of failures is not that of the failed results"
    for failure in outcome.failures:
        meant = trouble(failure.custom_id)
        if meant is not None and failure.attempts != meant.executed:
            yield f"{failure.custom_id} failed after {failure.attempts} attempts: {meant.words}"


def _wrong_purchases(outcome: Outcome, ids: list[str]) -> Iterator[str]:
    totals = outcome.books.totals
    if totals.duplicate_successes:
        yield f"{totals.duplicate_successes} requests were bought twice"
    if totals.lines_billed != outcome.job.succeeded:
        yield f"{totals.lines_billed} requests were bought, {outcome.job.succeeded} delivered"
    for account in outcome.books.accounts.values():
        if any(count > 1 for count in account.batches_by_input_file.values()):
            yield "two batches were created from the same file"
    for custom_id in ids:
        meant = trouble(custom_id)
        executed = outcome.book(custom_id).executed
        if executed != (meant.executed if meant else 1):
            yield f"{custom_id} was executed {executed} times"


def _summarize(screen: Screen, outcome: Outcome, target: Path) -> None:
    job, totals = outcome.job, outcome.books.totals
    took = job.finished_at and length(job.finished_at - job.created_at)
    retried = sum(outcome.book(line.custom_id).executed > 1 for line in outcome.results)
    screen.line("")
    screen.fields(
        [
            ("requests", job.total),
            ("succeeded", job.succeeded),
            ("retried", retried),
            ("dead", job.failed),
            ("tokens", job.usage.total_tokens),
            ("batches bought", totals.batches_created),
            ("the job took", took),
            ("up to here", f"{outcome.took:.1f} s"),
            ("results", target),
        ]
    )
    swarm = outcome.swarm
    if swarm is not None:
        screen.line("")
        screen.fields(
            [
                ("small jobs", swarm.jobs),
                ("batches they took", swarm.batches),
                ("their results after", f"{swarm.took:.1f} s"),
            ]
        )
    screen.line("")


if __name__ == "__main__":
    sys.exit(main())
