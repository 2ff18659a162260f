"""What all tables share: the naming of constraints, column types, and leases."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Date,
    DateTime,
    Enum,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.rules.canary import Held
from service.rules.deadlines import OnDeadline
from service.rules.states import BatchState, JobState, LaneState, PartState
from service.rules.work import Ending

SCHEMA = "haulier"

_names = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
}


def _values(states: Any) -> list[str]:
    return [state.value for state in states]


class Base(DeclarativeBase):
    metadata = MetaData(schema=SCHEMA, naming_convention=_names)
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy declares it so
        date: Date,
        datetime: DateTime(timezone=True),
        bytes: LargeBinary,
        str: Text,
        int: BigInteger,
        # None is SQL's NULL, not JSON's.
        dict[str, Any]: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
        # Text and a CHECK, not a Postgres enum: a new state is then an ordinary migration.
        JobState: Enum(JobState, native_enum=False, length=16, values_callable=_values),
        PartState: Enum(PartState, native_enum=False, length=16, values_callable=_values),
        BatchState: Enum(BatchState, native_enum=False, length=16, values_callable=_values),
        LaneState: Enum(LaneState, native_enum=False, length=16, values_callable=_values),
        Held: Enum(Held, native_enum=False, length=16, values_callable=_values),
        OnDeadline: Enum(OnDeadline, native_enum=False, length=16, values_callable=_values),
        Ending: Enum(Ending, native_enum=False, length=16, values_callable=_values),
    }


def one_of(column: str, states: Any) -> str:
    return f"{column} IN ({', '.join(repr(str(s)) for s in sorted(states))})"


def table_of(entity: type[Base]) -> Table:
    """Return the table of an entity: to insert many rows into it costs half as much."""
    table = entity.__table__
    if not isinstance(table, Table):
        raise TypeError(f"{entity} is no table")
    return table


class Leased:
    """The columns of every row that workers lease."""

    lease: Mapped[UUID | None]
    leased_until: Mapped[datetime | None]
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    dispatched_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(server_default="0")
    """Claims in a row that ended without an outcome."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """Transient errors in a row; they only make the pauses longer."""
    faults: Mapped[int] = mapped_column(server_default="0")
    """Equal faults of ours in a row; a few of them park the row."""
    last_error: Mapped[str | None]
    parked_at: Mapped[datetime | None]
    """Set if only an operator can help."""
