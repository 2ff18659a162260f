"""Reads producers' messages: their producer, job id, spec, signature and compression."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import msgspec
from kombu import compression

from service.rules.errors import BadInput, Problem
from service.rules.signatures import is_signed
from service.rules.spec import SPEC_BYTES
from service.store.models import Producer

PRODUCER = "haulier-producer"
TIMESTAMP = "haulier-timestamp"
SIGNATURE = "haulier-signature"


def producer_of(message: Any) -> str:
    """Return the producer that a message names. `check_signature` tells whether that is true."""
    return _storable((message.headers or {}).get(PRODUCER) or "default")[:255]


def job_id_of(task_id: object) -> UUID:
    """Return the task id as the job's id, or a UUID made from it if it is not one."""
    text = _storable(task_id or uuid4())
    try:
        return UUID(text)
    except ValueError:
        return uuid5(NAMESPACE_URL, text)


def task_id_of(message: Any) -> object:
    """Return the task id as the message has it, which may be anything."""
    return (message.headers or {}).get("id") or message.properties.get("correlation_id")


def stray_id_of(message: Any, job_id: UUID) -> UUID:
    """Return an id for the rejected job of a message whose sender is not proven.

    It is not the id that the message asks for: a forged message must not take the true one's place.
    """
    return uuid5(job_id, sha256(body_of(message)).hexdigest())


def spec_of(message: Any) -> bytes:
    """Return the JSON of a task message's `spec` argument, byte for byte. Raises BadInput."""
    if message.content_type != "application/json":
        kind = _storable(message.content_type)
        raise BadInput([Problem(f"the message is {kind}, not application/json")])
    try:
        arguments = msgspec.json.decode(
            body_of(message), type=tuple[list[Any], dict[str, msgspec.Raw], Any]
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput([Problem(f"the message is not a Celery task message: {error}")]) from None
    positional, named, _ = arguments
    if positional or set(named) != {"spec"}:
        raise BadInput([Problem('send the spec as the one keyword argument: kwargs={"spec": {…}}')])
    return bytes(named["spec"])


def needs_proof(message: Any, *, always: bool) -> bool:
    """Return whether to check a message's signature: always, or if it has one."""
    return always or SIGNATURE in (message.headers or {})


def check_signature(message: Any, spec: bytes, producer: Producer) -> None:
    """Raise BadInput unless the producer has signed the message."""
    headers = message.headers or {}
    task_id = _storable(task_id_of(message))
    if SIGNATURE not in headers:
        words = "the message is not signed, and HAULIER_QUEUE_SIGNED is set"
    elif is_signed(
        spec.decode(errors="replace"),
        message_id=task_id,
        timestamp=str(headers.get(TIMESTAMP)),
        signatures=_storable(headers[SIGNATURE]),
        by=producer.signing_secrets,
    ):
        return
    else:
        words = f"{SIGNATURE} is not a signature of {producer.name!r}"
    raise BadInput([Problem(f"{words}; its task id is {task_id}")])


def check_size(spec: bytes, producer: Producer) -> None:
    """Raise BadInput if the spec is larger than the producer's limit."""
    if producer.body_bytes is not None and len(spec) > producer.body_bytes:
        words = f"the spec has {len(spec):,} bytes; the limit is {producer.body_bytes:,} bytes"
        raise BadInput([Problem(words)])


def _storable(header: object) -> str:
    """Return a header as text that Postgres takes, without NULs and lone surrogates."""
    return str(header).replace("\x00", "").encode(errors="replace").decode()


def body_of(message: Any) -> bytes:
    """Return a message's body as bytes. Someone who writes to Redis directly may send a number."""
    body = message.body
    return body if isinstance(body, bytes) else str(body).encode(errors="replace")


# --- compressed messages -----------------------------------------------------------------------

UNPACKED_BYTES = 2 * SPEC_BYTES
"""The most bytes of a message after it is unpacked."""

_UNPACKERS: dict[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}


def bound_unpacking() -> None:
    """Let kombu in this process unpack no more than UNPACKED_BYTES of a compressed message.

    A few kilobytes may unpack to gigabytes. A message that is refused becomes a rejected job.
    """
    for content_type in compression.encoders():
        encoder, _ = compression.get_encoder(content_type)
        compression.register(encoder, _bounded(_UNPACKERS.get(content_type)), content_type)


def _bounded(unpacker: Callable[[], Any] | None) -> Callable[[bytes], bytes]:
    def unpack(body: bytes) -> bytes:
        if unpacker is None:
            raise ValueError("the message must be compressed with gzip, bzip2 or lzma")
        unpacked: bytes = unpacker().decompress(body, UNPACKED_BYTES + 1)
        if len(unpacked) > UNPACKED_BYTES:
            raise ValueError(f"the unpacked message has more than {UNPACKED_BYTES:,} bytes")
        return unpacked

    return unpack
