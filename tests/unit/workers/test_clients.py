"""Messages as clients of Celery write them, in Python and in other languages."""

import base64
import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from backports import zstd

from service.rules.errors import BadInput
from workers.messages import Message, open_message

SPEC = {"endpoint": "/v1/x", "metadata": {"ö": "\u2028"}}
KWARGS = {"spec": SPEC}
LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=5)


def written(body: object, /, **parts: Any) -> bytes:
    """A message with this body: base64, as most clients write it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = {
        "body": base64.b64encode(content).decode(),
        "headers": {},
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "properties": {"body_encoding": "base64", "correlation_id": "me", "delivery_tag": "t"},
        **parts,
    }
    return json.dumps({name: part for name, part in made.items() if part is not ...}).encode()


def task(**more: Any) -> dict[str, Any]:
    """A body of protocol 1."""
    return {"id": "me", "task": "haulier.submit", "args": [], "kwargs": KWARGS, **more}


V2 = [[], KWARGS, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
TEXT = json.dumps(V2)

READ: dict[str, bytes] = {
    # Go: an object of protocol 1, with every field of its own.
    "gocelery": written(task(retries=0, eta=None, expires=None)),
    "gocelery, no headers": written(task(args=None), headers=...),
    # PHP: an empty list for every empty array.
    "celery-php": written(task(), headers=[], **{"content-encoding": "binary"}),
    "celery-php, all defaults": written(
        task(eta="", expires=None, taskset=None, timelimit=[None, None], callbacks=[], errbacks=[])
    ),
    # Node: protocol 1 and 2, no embed or an empty one, the content type in the properties.
    "node-celery": written(task(expires=f"{LATER:%Y-%m-%dT%H:%M:%S.000}")),
    "celery-node": written([[], KWARGS, {}], headers={"lang": "js", "task": "x", "id": "me"}),
    "no embed": written([[], KWARGS]),
    "null embed": written([None, KWARGS, None]),
    "list embed": written([{}, KWARGS, []]),
    "type in properties": written(
        V2,
        properties={"content_type": "application/json", "correlation_id": "me"},
        **{"content-type": ..., "content-encoding": ...},
    ),
    "positional": written([[SPEC], {}, {}]),
    "positional, PHP": written([[SPEC], [], []]),
    "positional, 1": written(task(args=[SPEC], kwargs={})),
    # Bodies
    "text": written(b"", body=TEXT, properties={"body_encoding": "utf-8", "correlation_id": "me"}),
    "text unsaid": written(b"", body=f" {TEXT}", properties={"correlation_id": "me"}),
    "base64 unsaid": written(V2, properties={"correlation_id": "me"}),
    "base64 in capitals": written(
        V2, properties={"body_encoding": "BASE64", "correlation_id": "me"}
    ),
    "byte order mark": written(b"\xef\xbb\xbf" + TEXT.encode()),
    "charset": written(V2, **{"content-type": 'Application/JSON; charset="UTF-8"'}),
    "latin": written(
        TEXT.replace("\\u00f6", "ö").encode("latin-1"),
        **{"content-type": "application/json; charset=iso-8859-1"},
    ),
    "utf-16": written(TEXT.encode("utf-16"), **{"content-encoding": "UTF-16"}),
    # Options that change nothing
    "options": written(
        V2,
        headers={
            "id": "me",
            "retries": 3,
            "group": "g",
            "shadow": "s",
            "ignore_result": False,
            "timelimit": [None, None],
            "eta": None,
            "expires": (LATER).isoformat(),
            "stamps": {},
        },
    ),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": zlib.compress,
    "gzip": gzip.compress,
    "application/x-bz2": bz2.compress,
    "application/x-lzma": lzma.compress,
    "xz": lzma.compress,
    "application/zstd": zstd.compress,
    "zstd": zstd.compress,
}
for name, pack in PACKERS.items():
    packed = pack(TEXT.encode())
    READ[f"packed with {name}"] = written(packed, headers={"id": "me", "compression": name})
READ["packed as encoding"] = written(gzip.compress(TEXT.encode()), **{"content-encoding": "gzip"})


def opened(raw: bytes) -> Message:
    message = open_message(raw)
    assert message.task_id == "me"
    return message


@pytest.mark.parametrize("name", READ)
def test_what_clients_write_is_read(name: str) -> None:
    message = opened(READ[name])
    assert json.loads(message.sent()) == SPEC
    assert message.not_before is None


@pytest.mark.parametrize(
    "eta",
    [LATER.isoformat(), f"{LATER:%Y-%m-%dT%H:%M:%SZ}", f"{LATER:%Y-%m-%dT%H:%M:%S.000}"],
    ids=["zone", "z", "none"],
)
def test_an_eta_is_kept_in_both_protocols(eta: str) -> None:
    for raw in (written(V2, headers={"eta": eta}), written(task(eta=eta))):
        assert opened(raw).not_before == LATER


PAST = (LATER - timedelta(days=1)).isoformat()
FAR = (LATER + timedelta(days=400)).isoformat()
LINK = {"task": "after", "args": []}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (written([[], KWARGS, {"callbacks": [LINK]}]), ("`link`", "`notify`")),
        (written([[], KWARGS, {"errbacks": [LINK]}]), ("`link_error`",)),
        (written([[], KWARGS, {"chain": [LINK]}]), ("chain",)),
        (written([[], KWARGS, {"chord": LINK}]), ("chord",)),
        (written([[], KWARGS, {"chain": [LINK] * 99, "chord": LINK}]), ("chain", "chord")),
        (written(task(callbacks=[LINK], chord=LINK)), ("`link`", "chord")),
        (written(V2, headers={"timelimit": [None, 60]}), ("`time_limit`",)),
        (written(task(timelimit=[60, None])), ("`time_limit`",)),
        (written(V2, headers={"eta": FAR}), ("`eta`", "more than a year")),
        (written(V2, headers={"eta": "soon"}), ("`eta` is 'soon'",)),
        (written(V2, headers={"eta": 1790000000}), ("`eta` is '1790000000'",)),
        (written(V2, headers={"eta": {"a": [1] * 999}}), ("`eta`",)),
        (written(task(eta="x" * 999)), ("`eta`",)),
        (written(V2, headers={"expires": PAST}), ("expired at",)),
        (written(task(expires=PAST)), ("expired at",)),
        (written(V2, headers={"eta": FAR[:10], "expires": 5}), ("`expires` is '5'",)),
        (
            written(V2, headers={"eta": LATER.isoformat(), "expires": LATER.isoformat()}),
            ("before its `eta`",),
        ),
        (written(V2, headers={"compression": "application/x-brotli"}), ("x-brotli", "zstd")),
        (written(V2, **{"content-type": "application/x-yaml"}), ("application/x-yaml",)),
        (written(V2, **{"content-encoding": "punycode"}), ("charset 'punycode'",)),
        (written(V2, **{"content-encoding": "ebcdic-9"}), ("charset 'ebcdic-9'",)),
        (written(b"\xff" + TEXT.encode(), **{"content-encoding": "utf-16"}), ("utf-16",)),
        (written([[SPEC], KWARGS, {}]), ("one keyword argument",)),
        (written([[SPEC, SPEC], {}, {}]), ("one keyword argument",)),
        (written([["text"], {}, {}]), ("one keyword argument",)),
        (written([[], {}, {}, {}]), ("not a Celery task message",)),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_words_that_name_it(
    raw: bytes, words: tuple[str, ...]
) -> None:
    with pytest.raises(BadInput) as refused:
        opened(raw).sent()
    said = "; ".join(problem.message for problem in refused.value.problems)
    assert all(word in said for word in words), said
