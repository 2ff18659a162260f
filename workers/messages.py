"""Reads producers' messages: their task id, producer, signature and spec.

The envelope is kombu's and the body is Celery's task message, protocol 1 or 2. Whoever can write to
the broker can write anything, so each part is read by itself, and what is wrong is told in words.
"""

import base64
import bz2
import json
import lzma
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

from service.rules.errors import BadInput, Disabled, Problem
from service.rules.names import trouble_with
from service.rules.signatures import is_signed
from service.rules.spec import ENVELOPE_BYTES, SPEC_BYTES
from service.store.models import Producer

PRODUCER = "haulier-producer"
TIMESTAMP = "haulier-timestamp"
SIGNATURE = "haulier-signature"

UNPACKED_BYTES = 2 * SPEC_BYTES
"""The most bytes of a message's body after it is unpacked."""
MESSAGE_BYTES = 2 * UNPACKED_BYTES
"""The most bytes of a message as it stands in the queue: a body may be base64."""


class Unreadable(Exception):
    """A message that nobody can be told about: it has no task id. Says why."""


@dataclass(frozen=True)
class Message:
    """A message that has a task id. Its `spec` is JSON, or what is wrong with the message."""

    raw: bytes
    task_id: str
    headers: Mapping[str, Any]
    spec: bytes | BadInput
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
            raise _bad(
                f"the message names no producer in its header {PRODUCER}, and"
                f" HAULIER_QUEUE_DEFAULT_PRODUCER is empty; its task id is {self.task_id}"
            )
        if named == "default" != default and not signed:
            raise _bad(
                "a message in the name of 'default' must be signed, because"
                f" HAULIER_QUEUE_DEFAULT_PRODUCER is {default!r}; its task id is {self.task_id}"
            )
        if trouble := trouble_with(named or ""):
            raise _bad(f"header {PRODUCER}: {trouble}; its task id is {self.task_id}")
        # Of such a name no operator could see or disable the producer: URLs have no place for it.
        if named is not None and ("/" in named or named in {".", ".."}):
            raise _bad(
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
        raise _bad(f"{words}; its task id is {self.task_id}")


def open_message(raw: bytes) -> Message:
    """Read a message. Raises Unreadable if it has no task id."""
    if len(raw) > MESSAGE_BYTES:
        raise Unreadable(f"it has {len(raw):,} bytes")
    try:
        envelope = _envelope(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Unreadable(f"it is not JSON: {error}") from None
    headers, properties = _mapping(envelope, "headers"), _mapping(envelope, "properties")
    body = envelope.get("body")
    task, problem = _Task(), None
    try:
        task = _task(_body(envelope, headers, properties))
    except BadInput as error:
        problem = error
    ids = (headers.get("id"), task.named, properties.get("correlation_id"))
    task_id = next((str(i) for i in ids if i and isinstance(i, str | int)), None)
    if task_id is None:
        raise Unreadable("it has no task id")
    return Message(
        raw=raw,
        task_id=storable(task_id),
        headers=headers,
        spec=problem or _spec(task),
        size=len(body) if isinstance(body, str) else 0,
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
        raise _bad(str(Disabled(producer.name)))


def check_size(spec: bytes, producer: Producer) -> None:
    """Raise BadInput if the spec is larger than the producer's limit."""
    if producer.body_bytes is not None and len(spec) > producer.body_bytes:
        raise _bad(f"the spec has {len(spec):,} bytes; the limit is {producer.body_bytes:,} bytes")


def storable(header: object) -> str:
    """Return a header as text that Postgres takes, without NULs and lone surrogates."""
    return str(header).replace("\x00", "").encode(errors="replace").decode()


def _bad(words: str) -> BadInput:
    return BadInput([Problem(words)])


def _mapping(envelope: dict[str, Any], name: str) -> dict[str, Any]:
    found = envelope.get(name)
    return found if isinstance(found, dict) else {}


# --- the body ----------------------------------------------------------------------------------


def _body(envelope: dict[str, Any], headers: dict[str, Any], properties: dict[str, Any]) -> bytes:
    """Return the body's bytes, decoded and unpacked. Raises BadInput."""
    kind = envelope.get("content-type")
    if not isinstance(kind, str) or kind.partition(";")[0].strip().lower() != "application/json":
        raise _bad(f"the message is {storable(kind)[:100]}, not application/json")
    body = envelope.get("body")
    if not isinstance(body, str):
        raise _bad("the message has no body, or one that is not text")
    encoding = properties.get("body_encoding")
    try:
        if encoding == "base64":
            data = base64.b64decode(body)
        elif encoding in (None, "utf-8"):
            data = body.encode()
        else:
            raise _bad(f"body_encoding is {storable(encoding)[:100]}, not base64 or utf-8")
    except ValueError as error:
        raise _bad(f"the body cannot be decoded: {error}") from None
    packed = headers.get("compression")
    return data if packed is None else _unpacked(data, packed)


_UNPACKERS: dict[str, Callable[[], Any]] = {
    "application/x-gzip": lambda: zlib.decompressobj(wbits=47),  # zlib's own frame, or gzip's
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}


def _unpacked(data: bytes, kind: object) -> bytes:
    """Return what is packed, if it has no more than UNPACKED_BYTES. Raises BadInput.

    A few kilobytes may unpack to gigabytes.
    """
    unpacker = _UNPACKERS.get(kind) if isinstance(kind, str) else None
    if unpacker is None:
        raise _bad("the message must be compressed with gzip, bzip2 or lzma")
    try:
        unpacked: bytes = unpacker().decompress(data, UNPACKED_BYTES + 1)
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _bad(f"the body cannot be unpacked: {error}") from None
    if len(unpacked) > UNPACKED_BYTES:
        raise _bad(f"the unpacked message has more than {UNPACKED_BYTES:,} bytes")
    return unpacked


# A few bytes of JSON can become an object of a hundred. So all is kept as it was written, but for
# what is known to be small: a message that filled the memory would come again to the next inbox.

_NULL = msgspec.Raw(b"null")


class _Written(msgspec.Struct):
    """The parts of a message."""

    body: msgspec.Raw = _NULL
    headers: msgspec.Raw = _NULL
    properties: msgspec.Raw = _NULL
    content_type: msgspec.Raw = msgspec.field(default=_NULL, name="content-type")


def _envelope(raw: bytes) -> dict[str, Any]:
    """Return the parts of a message. Raises Unreadable, ValueError and what msgspec raises."""
    if len(raw) <= ENVELOPE_BYTES:
        envelope = json.loads(raw)
        if not isinstance(envelope, dict):
            raise Unreadable("it is not a JSON object")
        return envelope
    written = msgspec.json.decode(raw, type=_Written)
    others = (written.headers, written.properties, written.content_type)
    if sum(memoryview(other).nbytes for other in others) > ENVELOPE_BYTES:
        raise Unreadable(f"it has more than {ENVELOPE_BYTES:,} bytes besides its body")
    headers, properties, kind = (json.loads(bytes(other)) for other in others)
    is_text = bytes(memoryview(written.body)[:1]) == b'"'
    return {
        "body": json.loads(bytes(written.body)) if is_text else None,
        "headers": headers,
        "properties": properties,
        "content-type": kind,
    }


class _Task(msgspec.Struct):
    """The parts of a body in protocol 1, of which protocol 2 has two."""

    id: msgspec.Raw = _NULL
    args: msgspec.Raw = _NULL
    kwargs: msgspec.Raw = _NULL

    @property
    def named(self) -> str | int | None:
        """The task id, which stands in the body in protocol 1."""
        try:
            return msgspec.json.decode(self.id, type=str | int | None)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class _Arguments(msgspec.Struct, forbid_unknown_fields=True):
    spec: msgspec.Raw


def _task(body: bytes) -> _Task:
    """Return the parts of the body: `[args, kwargs, embed]`, or an object in protocol 1."""
    try:
        if body.lstrip()[:1] == b"{":
            return msgspec.json.decode(body, type=_Task)
        args, kwargs, _ = msgspec.json.decode(
            body, type=tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]
        )
        return _Task(args=args, kwargs=kwargs)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(f"the message is not a Celery task message: {error}") from None


def _spec(task: _Task) -> bytes | BadInput:
    """Return the JSON of the `spec` argument, byte for byte."""
    try:
        msgspec.json.decode(task.args, type=tuple[()] | None)
        return bytes(msgspec.json.decode(task.kwargs, type=_Arguments).spec)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _bad('send the spec as the one keyword argument: kwargs={"spec": {…}}')
