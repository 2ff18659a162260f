"""What a file is if it is no JSONL, by its beginning: one line that names it, and what to do."""

import csv
import json
import re
from itertools import islice

import msgspec

from service.rules.encoding import BOM

HEAD = 1 << 16
"""How many bytes of a file are enough to tell."""

_JSONL = "send one JSON object a line, each with `custom_id` and `body`"
_TABLE = "`haulier submit` makes requests of its rows"
_UTF8 = "save it as UTF-8 (iconv -f {} -t UTF-8)"

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip within gzip: unpack it once"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it, or compress it with gzip instead"),
    (b"BZh", "compressed with bzip2: unpack it, or compress it with gzip instead"),
    (b"\xfd7zXZ\0", "compressed with xz: unpack it, or compress it with gzip instead"),
    (b"\x04\x22\x4d\x18", "compressed with lz4: unpack it, or compress it with gzip instead"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7-zip archive: unpack it, and {_JSONL}"),
    (b"Rar!", f"a RAR archive: unpack it, and {_JSONL}"),
    (b"PAR1", f"Parquet: {_TABLE} (--format parquet)"),
    (b"ARROW1", f"Arrow or Feather, not JSONL: save it as Parquet, and {_TABLE}"),
    (b"\xd0\xcf\x11\xe0", f"an old Excel workbook (xls): save it as CSV in UTF-8, and {_TABLE}"),
    (b"SQLite format 3\0", f"an SQLite database, not JSONL: {_JSONL}"),
    (b"%PDF-", f"a PDF document, not JSONL: {_JSONL}"),
    (b"\xff\xfe\0\0", f"UTF-32, not UTF-8: {_UTF8.format('UTF-32')}"),
    (b"\0\0\xfe\xff", f"UTF-32, not UTF-8: {_UTF8.format('UTF-32')}"),
    (b"\xff\xfe", f"UTF-16, not UTF-8: {_UTF8.format('UTF-16')}"),
    (b"\xfe\xff", f"UTF-16, not UTF-8: {_UTF8.format('UTF-16')}"),
)
_ZIP = b"PK\x03\x04"
_XLSX = f"an Excel workbook (xlsx): save it as CSV in UTF-8, and {_TABLE}"
_CR_ONLY = re.compile(rb"[}\]]\s*\r\s*[{\[]")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What separates the cells of tables, and what it is called."""


def binary_kind(head: bytes) -> str | None:
    """Return what data is that is no text in UTF-8, and what to do. None: it may be text."""
    for magic, words in _MAGIC:
        if head.startswith(magic):
            return words
    if head.startswith(_ZIP):
        is_workbook = b"xl/" in head or b"[Content_Types].xml" in head
        return _XLSX if is_workbook else f"a zip archive: unpack it, and {_JSONL}"
    if head[257:262] == b"ustar":
        return f"a tar archive: unpack it, and {_JSONL}"
    return _wide_kind(head) if b"\0" in head[:512] else None


def _wide_kind(head: bytes) -> str:
    """Return what data is that has zeros in it: text without a mark, or none at all."""
    for name, zeros in (("UTF-16LE", head[1:256:2]), ("UTF-16BE", head[0:256:2])):
        if zeros.count(0) > 0.9 * len(zeros) and head.count(0) < 0.6 * len(head):
            return f"UTF-16, not UTF-8: {_UTF8.format(name)}"
    return f"binary, not text: {_JSONL}"


def kind_of(head: bytes) -> str | None:
    """Return what an input is that is no JSONL, and what to do about it, to stand behind "is".

    `head` is its beginning: HEAD bytes, or all. None: it is JSONL, or lines that are to be refused
    one by one.
    """
    if (binary := binary_kind(head)) is not None:
        return binary
    if _has_other_encoding(head):
        return f"text in another encoding than UTF-8: {_UTF8.format('WINDOWS-1252')}"
    text = head.removeprefix(BOM).lstrip()
    first, feed, _ = text.partition(b"\n")
    if feed and text.startswith(b"{") and _is_object(first):
        return _object_kind(first)
    if not feed and _CR_ONLY.search(text):
        return "text whose lines end in CR alone: end them with LF (tr '\\r' '\\n')"
    if text.startswith(b"["):
        return f"a JSON array: {_JSONL} (jq -c '.[]')"
    if text.startswith(b"<"):
        is_html = b"<html" in text[:1000].lower() or text[:9].lower() == b"<!doctype"
        return f"{'an HTML page' if is_html else 'XML'}, not JSONL: {_JSONL}"
    if text.startswith(b"{'"):
        return "Python's way to print a dictionary, not JSON: write each line with json.dumps"
    if text.startswith(b'"{'):
        return "JSON within a JSON string, encoded twice: encode each request once"
    if text.startswith(b"{"):
        return _written_otherwise(text, first)
    return _table_kind(text)


def _has_other_encoding(head: bytes) -> bool:
    """Whether no line with other characters than ASCII is UTF-8. A single one may be damaged."""
    lines = [] if head.isascii() else head.split(b"\n")
    if len(head) >= HEAD:
        lines = lines[:-1]  # it may be cut
    others = [line for line in lines if not line.isascii()]
    return len(others) > 1 and not any(map(_is_utf8, others))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def spec_kind(head: bytes) -> str | None:
    """Return what text is that is no batch spec, and what to do about it, as `kind_of` does."""
    text = head.removeprefix(BOM).lstrip()
    if text.startswith(b"["):
        return 'a JSON array: put it into an object, {"endpoint": …, "requests": […]}'
    first = text.partition(b"\n")[0]
    if b'"custom_id"' not in first or not _is_object(first):
        return None
    if "custom_id" not in msgspec.json.decode(first, type=dict[str, msgspec.Raw]):
        return None
    return "JSONL: send it as application/x-ndjson, with `endpoint` in the query"


def _is_object(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _object_kind(line: bytes) -> str | None:
    """Return what a JSON object is if it is no request."""
    if b'"requests"' not in line and b'"input"' not in line:
        return None
    members = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    is_spec = ("requests" in members or "input" in members) and "custom_id" not in members
    return _SPEC if is_spec else None


_SPEC = "a whole batch spec, not JSONL: send it as application/json (haulier submit --spec)"


def _written_otherwise(text: bytes, first: bytes) -> str | None:
    """Return how JSON objects are written that do not have one line each."""
    if _is_object(first.rstrip().removesuffix(b",")):
        if first.rstrip().endswith(b","):
            return "JSON objects with commas between them: leave the commas out, one object a line"
        return _object_kind(first)
    decoded = text.decode(errors="replace")
    try:
        found, end = json.JSONDecoder().raw_decode(decoded)
    except (ValueError, RecursionError):
        found, end = None, 0
    if end and "\n" not in decoded[:end]:
        if decoded[end:].lstrip(" \t\r").startswith("{"):
            return "JSON objects one behind the other: end each with a line feed"
        return None
    if not end and (first.strip() != b"{" or text.strip() == b"{"):
        return None
    if isinstance(found, dict) and "custom_id" not in found and {"requests", "input"} & set(found):
        return _SPEC
    return f"pretty-printed JSON, not JSONL: {_JSONL} (jq -c .)"


def _table_kind(text: bytes) -> str | None:
    delimiter = delimiter_of(text)
    if delimiter is None:
        return None
    option = "" if delimiter == "," else f" --delimiter '{_option(delimiter)}'"
    return (
        f"a table, separated by {DELIMITERS[delimiter]}, not JSONL: {_JSONL};"
        f" {_TABLE} (--format csv{option})"
    )


def _option(delimiter: str) -> str:
    return "\\t" if delimiter == "\t" else delimiter


def delimiter_of(text: bytes) -> str | None:
    """Return what separates the cells of a table, by its first lines. None: it is no table."""
    lines = text[:HEAD].decode(errors="replace").splitlines(keepends=True)
    if len(text) >= HEAD:
        lines = lines[:-1]  # it may be cut
    if len(lines) < 2 or any(line.startswith(("{", "[")) for line in lines):
        return None
    csv.field_size_limit(max(csv.field_size_limit(), HEAD))
    found: dict[str, int] = {}
    for delimiter in DELIMITERS:
        try:
            rows = [row for row in islice(csv.reader(lines, delimiter=delimiter), 10) if row]
        except csv.Error:
            continue
        widths = {len(row) for row in rows}
        if len(rows) > 1 and len(widths) == 1 and widths != {1}:
            found[delimiter] = widths.pop()
    return max(found, key=lambda one: found[one], default=None)
