"""The demo runs, and its checks find what they are there to find."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from service.cli.documents import Failure, Job
from service.simulator.books import AccountBook, Books, LineBook, Totals
from tests.acceptance.demo import Outcome, ResultLine, check, custom_ids, trouble
from tests.acceptance.demo_calls import Calls

IDS = custom_ids(100)


def test_the_demo_ends_well_and_leaves_nothing_but_the_results(tmp_path: Path) -> None:
    options = ["--requests", "2500", "--small", "40", "--output", str(tmp_path / "results.jsonl")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.demo", *options],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "HAULIER_POLL_SECONDS": "of no concern to the demo"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing bought twice" in done.stdout
    assert re.search(r"small jobs +40\n", done.stdout)
    taken = re.search(r"batches they took +(\d+)", done.stdout)
    assert taken is not None
    assert int(taken[1]) < 20
    assert len((tmp_path / "results.jsonl").read_bytes().splitlines()) == 2500
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


@pytest.mark.slow
def test_the_demo_of_calls_ends_well(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.demo", "--calls", "60"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Checked: each call has its own answer, and nothing was bought twice." in done.stdout
    assert re.search(r"calls +60\n", done.stdout)
    taken = re.search(r"batches bought +(\d+)", done.stdout)
    assert taken is not None
    assert int(taken[1]) < 20


def perfect() -> Outcome:
    """What the demo sees when all is well."""
    results, failures, lines = [], [], {}
    for custom_id in IDS:
        meant = trouble(custom_id)
        executed, dead = (meant.executed, meant.dead) if meant else (1, False)
        lines[custom_id] = LineBook(
            executed=executed, succeeded=int(not dead), failed=executed - int(not dead)
        )
        results.append(ResultLine(custom_id, {"code": "x"} if dead else None))
        if dead:
            failures.append(Failure(custom_id, "x", "x", executed))
    served = len(IDS) - len(failures)
    account = AccountBook(batches=[], batches_by_input_file={"file": 1}, lines=lines)
    totals = Totals(
        batches_created=1,
        lines_executed=0,
        lines_billed=served,
        lines_failed=0,
        duplicate_successes=0,
        files_uploaded=1,
        files_deleted=0,
    )
    job = Job(
        id="",
        state="completed",
        endpoint="",
        account="",
        producer="",
        total=len(IDS),
        succeeded=served,
        failed=len(failures),
        pending=0,
        attempts=1,
        created_at=datetime.now(UTC),
    )
    return Outcome(job, results, failures, Books(accounts={"a": account}, totals=totals), 1.0)


def with_totals(outcome: Outcome, **totals: int) -> Outcome:
    books = outcome.books
    changed = msgspec.structs.replace(books.totals, **totals)
    return replace(outcome, books=msgspec.structs.replace(books, totals=changed))


PERFECT = perfect()
CALLS = Calls(
    calls=PERFECT.books.totals.lines_billed,
    wrong=0,
    books=PERFECT.books,
    cost=Decimal(1),
    took=1,
)
(ACCOUNT,) = PERFECT.books.accounts.values()


def with_account(**fields: object) -> Outcome:
    account = msgspec.structs.replace(ACCOUNT, **fields)
    return replace(PERFECT, books=msgspec.structs.replace(PERFECT.books, accounts={"a": account}))


def test_nothing_is_wrong_where_all_is_well() -> None:
    assert check(PERFECT, IDS) == []


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (replace(PERFECT, results=PERFECT.results[:-1]), "1 requests have none"),
        (replace(PERFECT, results=[*PERFECT.results, PERFECT.results[0]]), "101 result lines"),
        (replace(PERFECT, results=PERFECT.results[::-1]), "input order"),
        (replace(PERFECT, results=[ResultLine(i) for i in IDS]), "other requests failed"),
        (replace(PERFECT, failures=PERFECT.failures[1:]), "list of failures"),
        (replace(PERFECT, job=msgspec.structs.replace(PERFECT.job, pending=1)), "the job says"),
        (with_totals(PERFECT, duplicate_successes=2), "2 requests were bought twice"),
        (with_totals(PERFECT, lines_billed=7), "7 requests were bought"),
        (with_account(batches_by_input_file={"file": 2}), "two batches"),
        (with_account(lines={}), f"{IDS[0]} was executed 0 times"),
    ],
)
def test_what_is_wrong_is_found(outcome: Outcome, words: str) -> None:
    assert words in "\n".join(check(outcome, IDS))


@pytest.mark.parametrize(
    ("played", "problems"),
    [
        (CALLS, []),
        (replace(CALLS, wrong=2), ["2 calls have other answers than they should"]),
        (replace(CALLS, calls=4), [f"{CALLS.calls} calls were bought, 4 made"]),
        (
            replace(CALLS, books=with_totals(PERFECT, duplicate_successes=1).books),
            ["1 calls were bought twice"],
        ),
    ],
)
def test_what_is_wrong_with_calls_is_found(played: Calls, problems: list[str]) -> None:
    assert list(played.problems()) == problems
