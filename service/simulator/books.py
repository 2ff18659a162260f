"""The books: what was executed how often, and what of it is billed.

Only successful output lines are billed, whether or not the client ever sees them whole.
"""

import msgspec

from service.simulator.storage import Storage


class BatchBook(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that was created. Instants in Unix seconds."""

    id: str
    input_file_id: str
    filename: str | None
    endpoint: str
    status: str
    created_at: float
    started_at: float | None
    completed_at: float | None
    output_file_id: str | None
    error_file_id: str | None
    error: str | None


class LineBook(msgspec.Struct, frozen=True, kw_only=True):
    """Executions of one custom_id. Those that went missing neither succeeded nor failed."""

    executed: int
    succeeded: int
    failed: int


class AccountBook(msgspec.Struct, frozen=True, kw_only=True):
    """One account's part of the books."""

    batches: list[BatchBook]
    batches_by_input_file: dict[str, int]
    lines: dict[str, LineBook]


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Over all accounts. `duplicate_successes`: lines billed though they had succeeded before."""

    batches_created: int
    lines_executed: int
    lines_billed: int
    lines_failed: int
    duplicate_successes: int
    files_uploaded: int
    files_deleted: int


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. Accounts go by `account_of(key)`; `lines` may have been left out."""

    accounts: dict[str, AccountBook]
    totals: Totals


def read(storage: Storage, *, lines: bool = True) -> Books:
    """Draw up the books; `lines` False leaves out what is as long as all inputs together."""
    names = storage.query(
        "SELECT account FROM files UNION SELECT account FROM batches ORDER BY account"
    )
    accounts = {str(row[0]): _account(storage, str(row[0]), lines=lines) for row in names}
    return Books(accounts=accounts, totals=_totals(storage))


def _account(storage: Storage, account: str, *, lines: bool) -> AccountBook:
    batches = storage.query(
        "SELECT batches.id, input_file_id, filename, endpoint, status, batches.created_at,"
        " started_at, completed_at, output_file_id, error_file_id, error FROM batches"
        " LEFT JOIN files ON files.id = input_file_id WHERE batches.account = ? ORDER BY seq",
        account,
    )
    by_input = storage.query(
        "SELECT input_file_id, count(*) FROM batches WHERE account = ? GROUP BY input_file_id",
        account,
    )
    per_line = storage.query(
        "SELECT custom_id, executed, succeeded, failed FROM lines WHERE account = ? AND ?",
        account,
        lines,
    )
    return AccountBook(
        batches=[msgspec.convert(dict(row), BatchBook) for row in batches],
        batches_by_input_file={str(row[0]): int(row[1]) for row in by_input},
        lines={
            str(row[0]): LineBook(executed=row[1], succeeded=row[2], failed=row[3])
            for row in per_line
        },
    )


def _totals(storage: Storage) -> Totals:
    row = storage.query(
        "SELECT (SELECT count(*) FROM batches) AS batches_created,"
        " coalesce(sum(executed), 0) AS lines_executed,"
        " coalesce(sum(succeeded), 0) AS lines_billed,"
        " coalesce(sum(failed), 0) AS lines_failed,"
        " coalesce(sum(max(succeeded - 1, 0)), 0) AS duplicate_successes,"
        " (SELECT count(*) FROM files WHERE role = 'input' AND bytes > 0) AS files_uploaded,"
        " (SELECT count(*) FROM files WHERE state = 'deleted') AS files_deleted"
        " FROM lines"
    )[0]
    return msgspec.convert(dict(row), Totals)
