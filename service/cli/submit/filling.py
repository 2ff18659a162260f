"""Naming the model in request lines that name none."""

from collections.abc import Iterable, Iterator

import msgspec

from service.rules.encoding import BOM
from service.rules.requests import LineSplitter


class _Body(msgspec.Struct, gc=False):
    model: msgspec.Raw | None = None


class _Line(msgspec.Struct, gc=False):
    body: _Body


_look = msgspec.json.Decoder(_Line)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def filled(blocks: Iterable[bytes], model: str) -> Iterator[bytes]:
    """Lines of JSONL; those that have a model stay as they are, byte for byte."""
    splitter = LineSplitter()
    for block in blocks:
        if lines := splitter.feed(block):
            yield b"".join(_filled(line, model) + b"\n" for line in lines)
    for line in splitter.end():
        yield _filled(line, model)


def _filled(line: bytes, model: str) -> bytes:
    """What cannot be read is left alone: the API names what is wrong with it, and where."""
    line = line.removeprefix(BOM)
    try:
        named = _look.decode(line).body.model
        if named is not None and bytes(named) != b"null":
            return line
        members = _members.decode(line)
        body = _members.decode(members["body"])
        body["model"] = msgspec.Raw(msgspec.json.encode(model))
        members["body"] = msgspec.Raw(msgspec.json.encode(body))
        return msgspec.json.encode(members)
    except (msgspec.DecodeError, RecursionError):
        return line
