"""Databases that a test has used, made as good as new: a tenth of what a new one costs.

What TRUNCATE cannot make good is noticed: definitions, grants and statistics must be those of the
template.
"""

from dataclasses import dataclass, field

import psycopg
from psycopg import Connection, sql

_TABLES = """
    SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'haulier'::regnamespace
"""
_DEFINITIONS = """
    SELECT
        (SELECT md5(string_agg(concat_ws(' ', oid, relname, relowner, relacl::text,
                reloptions::text, relrowsecurity, relhastriggers), ',' ORDER BY oid))
            FROM pg_class WHERE oid >= 16384),
        (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_attribute),
        (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_constraint),
        (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_namespace),
        (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_proc),
        (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_trigger),
        (SELECT count(*) FROM pg_db_role_setting),
        (SELECT count(*) FROM pg_default_acl),
        (SELECT count(*) FROM pg_statistic WHERE starelid >= 16384)
"""


@dataclass(frozen=True)
class Template:
    """What a database must have again when a test is over."""

    definitions: tuple[object, ...]
    rows: dict[str, bytes] = field(default_factory=dict)
    """Of the tables that a migration fills, as COPY has them."""
    last: dict[str, int] = field(default_factory=dict)
    """Of the sequences that a migration used."""


def template(url: str) -> Template:
    """What stands in a database now."""
    with psycopg.connect(url) as connection:
        made = Template(_definitions(connection))
        for (table,) in connection.execute(_TABLES).fetchall():
            copied = sql.SQL("COPY haulier.{} TO STDOUT").format(sql.Identifier(table))
            with connection.cursor() as cursor, cursor.copy(copied) as copy:
                if rows := b"".join(copy):
                    made.rows[table] = rows
        used = "SELECT sequencename, last_value FROM pg_sequences WHERE last_value IS NOT NULL"
        made.last.update(connection.execute(used).fetchall())
        return made


def empty(url: str, wanted: Template) -> bool:
    """Make a database like its template; whether that can be done."""
    with psycopg.connect(url) as connection:
        if _definitions(connection) != wanted.definitions:
            return False
        connection.execute("SET LOCAL session_replication_role = replica")  # no triggers
        tables = [table for (table,) in connection.execute(_TABLES).fetchall()]
        there = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}, EXISTS (SELECT FROM haulier.{})").format(t, sql.Identifier(t))
            for t in tables
        )
        used = [sql.Identifier(t) for t, is_used in connection.execute(there).fetchall() if is_used]
        names = sql.SQL(", haulier.").join(used)
        connection.execute(sql.SQL("TRUNCATE haulier.{} RESTART IDENTITY CASCADE").format(names))
        for table, rows in wanted.rows.items():
            copied = sql.SQL("COPY haulier.{} FROM STDIN").format(sql.Identifier(table))
            with connection.cursor() as cursor, cursor.copy(copied) as copy:
                copy.write(rows)
        for name, last in wanted.last.items():
            connection.execute("SELECT setval(%s, %s)", [f"haulier.{name}", last])
        return True


def _definitions(connection: Connection) -> tuple[object, ...]:
    return connection.execute(_DEFINITIONS).fetchone() or ()
