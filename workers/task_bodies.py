"""Reads the body of a Celery task message: `[args, kwargs, embed]`, or an object in protocol 1.

All is kept as it was written, since little of it is needed and it may be large.
"""

import msgspec

from workers.envelopes import bad

_NULL = msgspec.Raw(b"null")

EMPTY = frozenset({b"null", b"[]", b"{}", b'""', b"false", b"0"})
"""What clients write where there is nothing."""
_SHORT = 200


class Task(msgspec.Struct):
    """The parts of a body in protocol 1. Protocol 2 has some of them in the body's third part, and
    the others in headers."""

    id: msgspec.Raw = _NULL
    args: msgspec.Raw = _NULL
    kwargs: msgspec.Raw = _NULL
    eta: msgspec.Raw = _NULL
    expires: msgspec.Raw = _NULL
    timelimit: msgspec.Raw = _NULL
    callbacks: msgspec.Raw = _NULL
    errbacks: msgspec.Raw = _NULL
    chain: msgspec.Raw = _NULL
    chord: msgspec.Raw = _NULL

    @property
    def named(self) -> str | int | None:
        """The task id, which stands in the body in protocol 1."""
        try:
            return msgspec.json.decode(self.id, type=str | int | None)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def has(self, part: str) -> bool:
        """Return whether a part says anything."""
        written = memoryview(getattr(self, part))
        return written.nbytes > _SHORT or bytes(written) not in EMPTY

    def short(self, part: str) -> object:
        """Return a part that is to be short, or its beginning. None if it says nothing."""
        if not self.has(part):
            return None
        written = bytes(memoryview(getattr(self, part))[:_SHORT])
        try:
            return msgspec.json.decode(written)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return written.decode(errors="replace")

    def spec(self) -> bytes:
        """Return the JSON of the spec, byte for byte. Raises BadInput."""
        try:
            if not self.has("args"):
                return bytes(msgspec.json.decode(self.kwargs, type=_Arguments).spec)
            if not self.has("kwargs"):
                (spec,) = msgspec.json.decode(self.args, type=tuple[msgspec.Raw])
                if bytes(memoryview(spec)[:1]) == b"{":
                    return bytes(spec)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        raise bad('send the spec as the one keyword argument: kwargs={"spec": {…}}')


class _Arguments(msgspec.Struct, forbid_unknown_fields=True):
    spec: msgspec.Raw


class _Embedded(msgspec.Struct):
    callbacks: msgspec.Raw = _NULL
    errbacks: msgspec.Raw = _NULL
    chain: msgspec.Raw = _NULL
    chord: msgspec.Raw = _NULL


def read_task(body: bytes) -> Task:
    """Return the parts of a body. Raises BadInput."""
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    try:
        if body[:1] == b"{":
            return msgspec.json.decode(body, type=Task)
        args, kwargs, embedded = _parts(body)
        is_object = bytes(memoryview(embedded)[:1]) == b"{"
        asked = msgspec.json.decode(embedded, type=_Embedded) if is_object else _Embedded()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad(f"the message is not a Celery task message: {error}") from None
    return Task(
        args=args,
        kwargs=kwargs,
        callbacks=asked.callbacks,
        errbacks=asked.errbacks,
        chain=asked.chain,
        chord=asked.chord,
    )


def _parts(body: bytes) -> tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]:
    """Return the parts of protocol 2. Some clients leave out the third."""
    try:
        return msgspec.json.decode(body, type=tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw])
    except msgspec.ValidationError:
        args, kwargs = msgspec.json.decode(body, type=tuple[msgspec.Raw, msgspec.Raw])
        return args, kwargs, _NULL
