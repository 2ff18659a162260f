"""Reads producers' messages: their task id, producer, signature, options and spec."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from service.rules.errors import BadInput, Disabled, Problem
from service.rules.names import trouble_with
from service.rules.signatures import is_signed
from service.store.models import Producer
from workers.envelopes import Unreadable, bad, read_envelope, storable
from workers.options import read_options
from workers.task_bodies import Task, read_task

PRODUCER = "haulier-producer"
TIMESTAMP = "haulier-timestamp"
SIGNATURE = "haulier-signature"


@dataclass(frozen=True)
class Message:
    """A message that has a task id. Its `spec` is JSON, or what is wrong with the message."""

    raw: bytes
    task_id: str
    headers: Mapping[str, Any]
    spec: bytes | BadInput
    not_before: datetime | None
    """When the work may begin, if it is not to begin at once."""
    size: int
    """Bytes of its body in the queue."""

    @property
    def producer(self) -> str | None:
        """The producer that it names, if any. `check_signature` tells whether that is true."""
        named = self.headers.get(PRODUCER)
        # A header of NULs alone names nobody.
        return (storable(named)[:255] or None) if named else None

    @property
    def job_id(self) -> UUID:
        """The task id, or a UUID made from it if it is not one."""
        return job_id_of(self.task_id)

    @property
    def stray_id(self) -> UUID:
        """An id for the rejected job of a message whose sender is not proven.

        It is not the id that it asks for: a forged message must not take the true one's place.
        """
        return uuid5(self.job_id, sha256(self.raw).hexdigest())

    def sent(self) -> bytes:
        """Return the JSON of the spec. Raises BadInput if the message holds none."""
        if isinstance(self.spec, BadInput):
            raise self.spec
        return self.spec

    def needs_proof(self, *, always: bool) -> bool:
        """Return whether to check the signature: always, or if there is one."""
        return always or SIGNATURE in self.headers

    def check_name(self, default: str, *, signed: bool) -> None:
        """Raise BadInput if it may not be of the producer that it names, or names none.

        `default` is the producer of messages that name none; empty where each must name one.
        """
        named = self.producer
        if named is None and not default and not signed:
            raise bad(
                f"the message names no producer in its header {PRODUCER}, and"
                f" HAULIER_QUEUE_DEFAULT_PRODUCER is empty; its task id is {self.task_id}"
            )
        if named == "default" != default and not signed:
            raise bad(
                "a message in the name of 'default' must be signed, because"
                f" HAULIER_QUEUE_DEFAULT_PRODUCER is {default!r}; its task id is {self.task_id}"
            )
        if trouble := trouble_with(named or ""):
            raise bad(f"header {PRODUCER}: {trouble}; its task id is {self.task_id}")
        # Of such a name no operator could see or disable the producer: URLs have no place for it.
        if named is not None and ("/" in named or named in {".", ".."}):
            raise bad(
                f"header {PRODUCER}: {named!r} holds a slash, or is a dot or two: use another name;"
                f" its task id is {self.task_id}"
            )

    def check_signature(self, spec: bytes, producer: Producer) -> None:
        """Raise BadInput unless the producer has signed the message."""
        if SIGNATURE not in self.headers:
            words = "the message is not signed, and HAULIER_QUEUE_SIGNED is set"
        elif is_signed(
            spec.decode(errors="replace"),
            message_id=self.task_id,
            timestamp=str(self.headers.get(TIMESTAMP)),
            signatures=storable(self.headers[SIGNATURE]),
            by=producer.signing_secrets,
        ):
            return
        else:
            words = f"{SIGNATURE} is not a signature of {producer.name!r}"
        raise bad(f"{words}; its task id is {self.task_id}")


def open_message(raw: bytes) -> Message:
    """Read a message. Raises Unreadable if it has no task id."""
    envelope = read_envelope(raw)
    task, problems = Task(), list[Problem]()
    try:
        task = read_task(envelope.content())
    except BadInput as error:
        problems = list(error.problems)
    ids = (envelope.headers.get("id"), task.named, envelope.properties.get("correlation_id"))
    task_id = next((str(i) for i in ids if i and isinstance(i, str | int)), None)
    if task_id is None:
        raise Unreadable("it has no task id")
    options = read_options(envelope.headers, task, datetime.now(UTC))
    spec: bytes | BadInput = b""
    try:
        spec = task.spec() if not problems else b""
    except BadInput as error:
        problems = list(error.problems)
    problems = [*problems, *options.problems]
    return Message(
        raw=raw,
        task_id=storable(task_id),
        headers=envelope.headers,
        spec=BadInput(problems) if problems else spec,
        not_before=options.not_before,
        size=envelope.size,
    )


def job_id_of(task_id: str) -> UUID:
    """Return the task id as the job's id, or a UUID made from it if it is not one."""
    try:
        return UUID(task_id)
    except ValueError:
        return uuid5(NAMESPACE_URL, task_id)


def check_enabled(producer: Producer) -> None:
    """Raise BadInput if the producer is disabled."""
    if producer.disabled_at is not None:
        raise bad(str(Disabled(producer.name)))


def check_size(spec: bytes, producer: Producer) -> None:
    """Raise BadInput if the spec is larger than the producer's limit."""
    if producer.body_bytes is not None and len(spec) > producer.body_bytes:
        raise bad(f"the spec has {len(spec):,} bytes; the limit is {producer.body_bytes:,} bytes")
