"""`haulier usage`: tokens by day and model, and their estimated cost."""

from typing import Annotated

import typer

from service.cli.arguments import CLIENT, AsJson, Columns
from service.cli.documents import Spent, UsageRow
from service.cli.screen import clean, output, usd
from service.cli.session import connected
from service.cli.tables import Column

COUNTS = {"batches": 4, "succeeded": 3, "dead": 3, "prompt": 2, "completion": 2}
"""Columns of numbers, with their ranks."""


app = typer.Typer()


@app.command(rich_help_panel=CLIENT)
def usage(
    since: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="Default: 29 days before --to.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="DAY", help="The last day (UTC); default: today.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="The rows: some of day, model, producer, account.")
    ] = "day,model",
    json: AsJson = False,
    columns: Columns = None,
) -> None:
    """Show the tokens that were used, and an estimate of what they cost."""
    with connected() as api:
        document = api.usage(since=since, until=until, by=by)
    screen = output()
    if json:
        screen.line(document.line)
        return
    report, keys = document.value, by.split(",")
    screen.table(
        (
            *(Column(key, rank=0) for key in keys),
            *(Column(name, number=True, rank=rank) for name, rank in COUNTS.items()),
            Column("cost (USD)", number=True, rank=0),
        ),
        [
            *((*_keys(row, keys), *_numbers(row)) for row in report.data),
            ("total", *[""] * (len(keys) - 1), *_numbers(report.total)),
        ],
        columns,
    )
    screen.line(f"{report.first} to {report.last}, days in UTC; costs are estimates.")
    if report.total.unknown_models:
        names = ", ".join(map(clean, report.total.unknown_models))
        screen.line(f"No price in HAULIER_PRICES of the API for: {names}")


def _keys(row: UsageRow, keys: list[str]) -> tuple[object, ...]:
    return tuple(getattr(row, key, None) for key in keys)


def _numbers(row: Spent) -> tuple[object, ...]:
    return (
        *(row.batches, row.succeeded, row.dead, row.prompt_tokens, row.completion_tokens),
        "unknown" if row.estimated_cost is None else usd(row.estimated_cost),
    )
