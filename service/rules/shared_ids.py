"""Custom_ids in batches that several jobs share, where their own would clash.

A request is called `<job id, base64url>-<ordinal>` there, in every attempt. So a double purchase
shows, and whose a line is can be told from the line alone. The producer's own custom_id is put back
into each result line. Every other byte of a line stays as it is.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from uuid import UUID

import msgspec

_line = msgspec.json.Decoder(dict[str, msgspec.Raw])


def shared_ids(job_id: UUID, ordinals: Iterable[int]) -> list[str]:
    """Return what requests of a job are called in a shared batch: at most 31 characters each."""
    prefix = prefix_of(job_id)
    return [f"{prefix}{ordinal}" for ordinal in ordinals]


def prefix_of(job_id: UUID) -> str:
    """Return what the names of a job's requests begin with."""
    return f"{urlsafe_b64encode(job_id.bytes).decode().rstrip('=')}-"


def renamed(line: bytes, custom_id: str, to: str) -> bytes:
    """Return a JSON line, which has this custom_id, with another one, and a line feed at its end.

    Raises ValueError if the line does not have it.
    """
    line = line.rstrip(b"\r\n")
    old, new = msgspec.json.encode(custom_id), msgspec.json.encode(to)
    if line.count(_KEY) == 1:
        # In a string, another backslash would stand before the quotation mark that ends the key.
        for colon in (b":", b": "):
            place = _KEY + colon + old
            if place in line:
                return line.replace(place, _KEY + colon + new) + b"\n"
    # Written in another way, or with the same words elsewhere in it.
    try:
        fields = _line.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Almost JSON, such as with NaN in it.
        if old not in line:
            raise ValueError(f"custom_id {custom_id!r} does not stand in the line") from None
        return line.replace(old, new, 1) + b"\n"
    fields["custom_id"] = msgspec.Raw(new)
    return msgspec.json.encode(fields) + b"\n"


_KEY = b'"custom_id"'
