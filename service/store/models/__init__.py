"""The tables, one subject a file. Only `service.store` writes them."""

from service.store.models.accounts import Account, Lane
from service.store.models.audit import Audit
from service.store.models.base import SCHEMA, Base, Leased, table_of
from service.store.models.batches import Batch
from service.store.models.calls import Attendant, Call
from service.store.models.forecasts import Coverage, JobForecast
from service.store.models.jobs import DeadLetter, Enqueued, Event, Job, Segment
from service.store.models.notices import Delivery
from service.store.models.operations import (
    Chore,
    Counter,
    Heartbeat,
    Leftover,
    Measured,
    SchemaFloor,
    Tick,
    Usage,
)
from service.store.models.parts import Part
from service.store.models.producers import Credential, File, Producer, Upload
from service.store.models.sessions import ConsoleSession

__all__ = [
    "SCHEMA",
    "Account",
    "Attendant",
    "Audit",
    "Base",
    "Batch",
    "Call",
    "Chore",
    "ConsoleSession",
    "Counter",
    "Coverage",
    "Credential",
    "DeadLetter",
    "Delivery",
    "Enqueued",
    "Event",
    "File",
    "Heartbeat",
    "Job",
    "JobForecast",
    "Lane",
    "Leased",
    "Leftover",
    "Measured",
    "Part",
    "Producer",
    "SchemaFloor",
    "Segment",
    "Tick",
    "Upload",
    "Usage",
    "table_of",
]
