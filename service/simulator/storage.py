"""The simulator's state on disk: rows in SQLite, contents as plain files beside it.

Every change is one transaction, so that killing the simulator loses nothing that was answered.
Connections belong to threads; the event loop reads through its own and writes through a thread.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import msgspec

from service.simulator.rows import BatchRow, BatchStatus, FileRow, LineBooking
from service.simulator.scenario import BatchRule, Scenario

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, account TEXT NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL,
    file_type TEXT NOT NULL, role TEXT NOT NULL, bytes INTEGER NOT NULL, checksum TEXT,
    created_at REAL NOT NULL, state TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS files_by_checksum ON files (account, checksum);
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, account TEXT NOT NULL,
    input_file_id TEXT NOT NULL, endpoint TEXT NOT NULL, model_id TEXT, status TEXT NOT NULL,
    seconds REAL NOT NULL, rule TEXT NOT NULL, created_at REAL NOT NULL, started_at REAL,
    canceling_at REAL, completed_at REAL, share REAL NOT NULL DEFAULT 1, error TEXT,
    output_file_id TEXT, error_file_id TEXT, terminal_reads INTEGER NOT NULL DEFAULT 0,
    file_size_bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS batches_by_account ON batches (account);
CREATE INDEX IF NOT EXISTS batches_by_input ON batches (input_file_id);
CREATE TABLE IF NOT EXISTS lines (
    account TEXT NOT NULL, custom_id TEXT NOT NULL, executed INTEGER NOT NULL,
    succeeded INTEGER NOT NULL, failed INTEGER NOT NULL,
    PRIMARY KEY (account, custom_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

_Row = TypeVar("_Row", FileRow, BatchRow)


class Storage:
    """Rows and contents under one directory. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        """Open, and create what is missing."""
        self._root = root
        self._contents = root / "files"
        self._contents.mkdir(parents=True, exist_ok=True)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._connection().executescript(SCHEMA)
        known = {str(row["id"]) for row in self.query("SELECT id FROM files")}
        for content in self._contents.iterdir():
            if content.name not in known:  # half-made when it was killed
                content.unlink()

    def close(self) -> None:
        """Close every connection. Nothing may be called afterwards."""
        for connection in self._connections:
            connection.close()

    def path(self, file_id: str) -> Path:
        """Where the content of a file lies."""
        return self._contents / file_id

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self._root / "simulator.db",
                isolation_level=None,
                timeout=60,
                check_same_thread=False,
            )
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction of this thread."""
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def query(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """Read rows outside any transaction."""
        return self._connection().execute(sql, values).fetchall()

    # Files

    def add_file(self, row: FileRow) -> None:
        """Store a file's row; its content must lie at `path` already unless it is pending."""
        with self.transaction() as connection:
            _insert(connection, "files", row)

    def store_content(self, file_id: str, size: int) -> None:
        """The content of a pending file is complete."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE files SET state = 'stored', bytes = ? WHERE id = ? AND state != 'deleted'",
                (size, file_id),
            )

    def file(self, file_id: str, *, account: str | None = None) -> FileRow | None:
        """One file that was not deleted, of this account only if one is given."""
        rows = self.query("SELECT * FROM files WHERE id = ? AND state != 'deleted'", file_id)
        found = [_typed(row, FileRow) for row in rows]
        return next((row for row in found if account in (None, row.account)), None)

    def files(self, account: str) -> list[FileRow]:
        """All files of an account that were not deleted."""
        rows = self.query(
            "SELECT * FROM files WHERE account = ? AND state != 'deleted' ORDER BY created_at",
            account,
        )
        return [_typed(row, FileRow) for row in rows]

    def file_with_checksum(self, account: str, checksum: str) -> str | None:
        """The id of a stored file that was announced with this checksum."""
        rows = self.query(
            "SELECT id FROM files WHERE account = ? AND checksum = ? AND state = 'stored' LIMIT 1",
            account,
            checksum,
        )
        return str(rows[0]["id"]) if rows else None

    def delete_file(self, file_id: str) -> None:
        """Forget a file. Its content stays as long as a validated batch still works on it."""
        with self.transaction() as connection:
            connection.execute("UPDATE files SET state = 'deleted' WHERE id = ?", (file_id,))
        self.drop_unused(file_id)

    def drop_unused(self, file_id: str) -> None:
        """Remove the content of a deleted file once no batch works on it."""
        rows = self.query(
            "SELECT (SELECT count(*) FROM batches WHERE input_file_id = files.id"
            " AND started_at IS NOT NULL AND completed_at IS NULL) AS users"
            " FROM files WHERE id = ? AND state = 'deleted'",
            file_id,
        )
        if rows and rows[0]["users"] == 0:
            self.path(file_id).unlink(missing_ok=True)

    # Batches

    def add_batch(
        self,
        *,
        id: str,  # noqa: A002 - the column's name
        account: str,
        input_file_id: str,
        endpoint: str,
        model_id: str | None,
        file_size_bytes: int,
        seconds: float,
        rules: Iterable[tuple[BatchRule, bool]],
    ) -> BatchRow:
        """Create a batch under the first rule that applies to it.

        `rules` are those that could, with whether the batch's file and account fit; what is left
        to see here, inside the transaction, is the batch's number and how often the rule applied.
        """
        with self.transaction() as connection:
            seq = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM batches").fetchone()[0]
            rule = next(
                (rule for rule, fits in rules if fits and _applies(connection, rule, seq)),
                BatchRule(),
            )
            connection.execute(
                "INSERT INTO batches (seq, id, account, input_file_id, endpoint, model_id, status,"
                " seconds, rule, file_size_bytes, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, 'VALIDATING', ?, ?, ?, ?)",
                (
                    seq,
                    id,
                    account,
                    input_file_id,
                    endpoint,
                    model_id,
                    seconds if rule.seconds is None else rule.seconds,
                    _encoded(rule),
                    file_size_bytes,
                    time.time(),
                ),
            )
            row = connection.execute("SELECT * FROM batches WHERE id = ?", (id,)).fetchone()
        return _typed(row, BatchRow)

    def batch(self, batch_id: str, *, account: str | None = None) -> BatchRow | None:
        """One batch, of this account only if one is given."""
        rows = self.query("SELECT * FROM batches WHERE id = ?", batch_id)
        found = [_typed(row, BatchRow) for row in rows]
        return next((row for row in found if account in (None, row.account)), None)

    def batches(self, account: str) -> list[BatchRow]:
        """All batches of an account, oldest first."""
        rows = self.query("SELECT * FROM batches WHERE account = ? ORDER BY seq", account)
        return [_typed(row, BatchRow) for row in rows]

    def unfinished(self) -> list[str]:
        """The ids of all batches that have not ended."""
        rows = self.query("SELECT id FROM batches WHERE completed_at IS NULL ORDER BY seq")
        return [str(row["id"]) for row in rows]

    def start_batch(self, batch_id: str, *, at: float) -> None:
        """A batch passed validation."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE batches SET status = 'IN_PROGRESS', started_at = ?"
                " WHERE id = ? AND status = 'VALIDATING'",
                (at, batch_id),
            )

    def cancel_batch(self, batch_id: str, *, at: float, share: float) -> bool:
        """Begin to cancel a batch. False if it has ended, or is being cancelled already."""
        with self.transaction() as connection:
            changed = connection.execute(
                "UPDATE batches SET status = 'CANCELING', canceling_at = ?, share = ?"
                " WHERE id = ? AND completed_at IS NULL AND canceling_at IS NULL",
                (at, share, batch_id),
            )
            return changed.rowcount == 1

    def end_batch(
        self,
        batch: BatchRow,
        *,
        status: BatchStatus,
        at: float,
        share: float,
        error: str | None = None,
        files: Iterable[FileRow] = (),
        bookings: Iterable[LineBooking] = (),
    ) -> bool:
        """End a batch, with its files and the books of its lines, all or nothing.

        False, and nothing changes, if meanwhile it ended, was cancelled or is gone.
        """
        with self.transaction() as connection:
            by_role = {row.role: row for row in files}
            ids = {role: row.id for role, row in by_role.items()}
            changed = connection.execute(
                "UPDATE batches SET status = ?, completed_at = ?, share = ?, error = ?,"
                " output_file_id = ?, error_file_id = ?"
                " WHERE id = ? AND completed_at IS NULL AND canceling_at IS ?",
                (
                    status,
                    at,
                    share,
                    error,
                    ids.get("output"),
                    ids.get("error"),
                    batch.id,
                    batch.canceling_at,
                ),
            )
            if changed.rowcount == 0:
                return False
            for row in by_role.values():
                _insert(connection, "files", row)
            connection.executemany(
                "INSERT INTO lines VALUES (?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET"
                " executed = executed + 1, succeeded = succeeded + excluded.succeeded,"
                " failed = failed + excluded.failed",
                ((batch.account, *booking) for booking in bookings),
            )
        return True

    def count_terminal_read(self, batch_id: str) -> int:
        """Count a look at an ended batch. Returns how many there were before."""
        with self.transaction() as connection:
            row = connection.execute(
                "UPDATE batches SET terminal_reads = terminal_reads + 1 WHERE id = ?"
                " RETURNING terminal_reads",
                (batch_id,),
            ).fetchone()
        return int(row[0]) - 1

    def executions(self, account: str, custom_id: str) -> int:
        """How often a custom_id was executed in an account."""
        rows = self.query(
            "SELECT executed FROM lines WHERE account = ? AND custom_id = ?", account, custom_id
        )
        return int(rows[0]["executed"]) if rows else 0

    # All of it

    def saved_scenario(self) -> Scenario | None:
        """The scenario that was last saved here."""
        rows = self.query("SELECT value FROM settings WHERE name = 'scenario'")
        return msgspec.json.decode(rows[0]["value"], type=Scenario) if rows else None

    def save_scenario(self, scenario: Scenario) -> None:
        """Keep a scenario for the next start."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO settings VALUES ('scenario', ?)", (_encoded(scenario),)
            )

    def clear(self) -> None:
        """Forget everything."""
        with self.transaction() as connection:
            for table in ("files", "batches", "lines", "settings"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
        for content in self._contents.iterdir():
            with suppress(FileNotFoundError):
                content.unlink()


def _applies(connection: sqlite3.Connection, rule: BatchRule, seq: int) -> bool:
    if rule.nth not in (None, seq):
        return False
    if rule.times is None:
        return True
    applied = connection.execute(
        "SELECT count(*) FROM batches WHERE rule = ?", (_encoded(rule),)
    ).fetchone()
    return int(applied[0]) < rule.times


def _insert(connection: sqlite3.Connection, table: str, row: FileRow) -> None:
    values = msgspec.structs.asdict(row)
    columns = ", ".join(values)
    marks = ", ".join("?" * len(values))
    connection.execute(
        f"INSERT INTO {table} ({columns}) VALUES ({marks})",  # noqa: S608 - our own names
        tuple(values.values()),
    )


def _typed(row: sqlite3.Row, kind: type[_Row]) -> _Row:
    values: dict[str, object] = dict(row)
    if "rule" in values:
        values["rule"] = _rule(str(values["rule"]))
    return msgspec.convert(values, kind)


@cache
def _rule(encoded: str) -> BatchRule:
    """Most batches share the rule that says nothing."""
    return msgspec.json.decode(encoded, type=BatchRule)


def _encoded(value: BatchRule | Scenario) -> str:
    return msgspec.json.encode(value).decode()
