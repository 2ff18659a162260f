"""`haulier usage`: what was used, and what it is thought to have cost."""

from service.cli.documents import Spent, UsageRow
from service.cli.screen import Column, output
from service.cli.session import connected

COUNTS = ("batches", "succeeded", "dead", "prompt", "completion")


def usage(*, since: str | None, until: str | None, by: str, as_json: bool) -> None:
    """The command: a row for each of the keys in `by`, and the total."""
    with connected() as client:
        document = client.usage(since=since, until=until, by=by)
    screen = output()
    if as_json:
        screen.line(document.line)
        return
    report, keys = document.value, by.split(",")
    screen.table(
        (
            *map(Column, keys),
            *(Column(name, number=True) for name in (*COUNTS, "cost (USD)")),
        ),
        [
            *((*_keys(row, keys), *_numbers(row)) for row in report.data),
            (f"{report.first} to {report.last}", *[""] * (len(keys) - 1), *_numbers(report.total)),
        ],
    )
    if report.total.unknown_models:
        names = ", ".join(report.total.unknown_models)
        screen.line(f"No price in HAULIER_PRICES of the API for: {names}")


def _keys(row: UsageRow, keys: list[str]) -> tuple[object, ...]:
    return tuple(getattr(row, key, None) for key in keys)


def _numbers(row: Spent) -> tuple[object, ...]:
    return (
        *(row.batches, row.succeeded, row.dead, row.prompt_tokens, row.completion_tokens),
        "unknown" if row.estimated_cost is None else row.estimated_cost,
    )
