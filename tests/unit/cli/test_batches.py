"""What a terminal shows of a job's batches, and what is said where Parquet is not installed."""

import io
import sys
from pathlib import Path

import pytest
import typer
from msgspec.structs import replace
from rich.console import Console

from service.cli.documents import Batch
from service.cli.show.batches import ROWS, Batches
from service.cli.show.results import Wanted
from service.cli.submit.asked import Asked, Table
from service.cli.submit.formats import Format


def batch(shard: int, state: str, *, progress: float | None = None, attempt: int = 1) -> Batch:
    return Batch(str(shard), state, shard, attempt, "m", 50_000, progress=progress)


def drawn(batches: list[Batch]) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as captured:
        console.print(Batches(batches).drawn())
    return captured.get().splitlines()


def test_what_is_under_way_stands_first_and_what_is_left_out_is_counted() -> None:
    settled = [batch(n, "settled") for n in range(ROWS)]
    lines = drawn([*settled, batch(10, "queued"), batch(11, "created", progress=62, attempt=12)])
    assert lines[0].split() == ["batch", "state", "progress", "requests", "succeeded", "dead"]
    assert lines[1].split() == ["11,", "try", "12", "created", "62", "%", "50,000", "0", "0"]
    assert lines[2].split()[:2] == ["10", "queued"]
    assert lines[-1].strip() == "and 2 more: 2 settled"
    assert max(map(len, lines)) <= 80
    assert len(lines) == ROWS + 2


def test_odd_answers_are_counted_once_for_each_batch() -> None:
    odd = {"truncated": 1, "empty": 2, "missing": 0, "later": "?"}
    shared = [replace(batch(n, "settled"), id="x", oddities=odd) for n in range(2)]
    other = replace(batch(2, "settled"), oddities={"empty": 1})
    told = "odd answers: 1 cut off before any content, 3 without choices or text"
    assert " ".join(line.strip() for line in drawn([*shared, other])[4:]) == told


def test_what_the_provider_has_done_counts_while_it_is_not_fetched() -> None:
    running = [batch(0, "created", progress=50), batch(1, "created"), batch(2, "settled")]
    assert Batches(running).under_way == 25_000


def test_without_the_extra_parquet_is_refused_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as Python knows what is not there
    with pytest.raises(typer.BadParameter, match=r"pip install 'haulier\[parquet\]'"):
        Wanted.of(tmp_path / "out.parquet")
    asked = Asked(
        file=Path("in.parquet"),
        spec=None,
        model="m",
        form=Format.PARQUET,
        table=Table(prompt_column="q"),
        endpoint=None,
        account=None,
        max_attempts=None,
        priority=None,
        metadata=None,
        check=None,
        canary=None,
        canary_failures=None,
        max_cost=None,
        deadline=None,
        on_deadline=None,
        idempotency_key=None,
    )
    with pytest.raises(typer.BadParameter, match=r"pip install 'haulier\[parquet\]'"):
        asked.recipe()
