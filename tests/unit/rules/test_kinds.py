"""What an input is that is no JSONL: one line that names it, and what to do."""

import json
from pathlib import Path

import pytest

from service.rules.kinds import HEAD, delimiter_of, kind_of
from tests.factories import chat_line, chat_request

TWO = [chat_request("a"), chat_request("b")]
LINES = b"".join(chat_line(custom_id) + b"\n" for custom_id in "ab")

# (the beginning of an input, what it is called, what to do about it)
KINDS = {
    "array": (json.dumps(TWO).encode(), "a JSON array", "one JSON object a line"),
    "pretty array": (json.dumps(TWO, indent=1).encode(), "a JSON array", "jq -c '.[]'"),
    "pretty object": (json.dumps(TWO[0], indent=1).encode(), "pretty-printed JSON", "jq -c ."),
    "pretty objects": (
        b"\n".join(json.dumps(one, indent=4).encode() for one in TWO),
        "pretty-printed JSON",
        "jq -c .",
    ),
    "long pretty object": (
        json.dumps(chat_request("a", pad="x" * 2 * HEAD), indent=1).encode(),
        "pretty-printed JSON",
        "jq -c .",
    ),
    "spec": (json.dumps({"endpoint": "e", "requests": TWO}).encode(), "a whole batch", "--spec"),
    "spec in many lines": (
        json.dumps({"endpoint": "e", "requests": TWO}, indent=1).encode(),
        "a whole batch spec",
        "--spec",
    ),
    "spec with its line feed": (b'{"input": "s3://b/k"}\n', "a whole batch spec", "--spec"),
    "commas": (LINES.replace(b"}\n", b"},\n"), "JSON objects with commas", "leave the commas out"),
    "no line feeds": (LINES.replace(b"\n", b""), "JSON objects one behind", "end each with a line"),
    "CR alone": (LINES.replace(b"\n", b"\r"), "text whose lines end in CR", "end them with LF"),
    "Python": (repr(TWO[0]).encode() + b"\n", "Python's way to print", "json.dumps"),
    "encoded twice": (json.dumps(json.dumps(TWO[0])).encode(), "JSON within", "encode each"),
    "UTF-16": (LINES.decode().encode("utf-16"), "UTF-16, not UTF-8", "save it as UTF-8"),
    "UTF-16 BE": (b"\xfe\xff" + LINES.decode().encode("utf-16-be"), "UTF-16", "iconv -f UTF-16 "),
    "UTF-16 without a mark": (LINES.decode().encode("utf-16-le"), "UTF-16", "iconv -f UTF-16LE"),
    "UTF-16 BE without": (LINES.decode().encode("utf-16-be"), "UTF-16", "iconv -f UTF-16BE"),
    "UTF-32": (LINES.decode().encode("utf-32"), "UTF-32", "iconv -f UTF-32"),
    "Windows-1252": (
        b"".join(chat_line(one, text="é").decode().encode("cp1252") + b"\n" for one in "abc"),
        "text in another encoding than UTF-8",
        "save it as UTF-8",
    ),
    "CSV": (b"id,text\n1,a\n2,b\n", "a table, separated by commas", "--format csv"),
    "semicolons": (b"id;text\n1;a, b\n2;b\n", "separated by semicolons", "--delimiter ';'"),
    "tabs": (b"id\ttext\r\n1\ta\r\n", "separated by tabs", "--delimiter '\\t'"),
    "quoted CSV": (b'"id","text"\n"1","a\nb"\n', "separated by commas", "--format csv"),
    "CSV with a mark": (b"\xef\xbb\xbfid,text\n1,a\n", "separated by commas", "--format csv"),
    "HTML": (b"<!DOCTYPE html>\n<html><body>Sign in", "an HTML page", "one JSON object a line"),
    "XML": (b"<?xml version='1.0'?><a/>", "XML", "one JSON object a line"),
    "zip": (b"PK\x03\x04\x14\0\0\0a.jsonl", "a zip archive", "unpack it"),
    "xlsx": (b"PK\x03\x04\x14\0[Content_Types].xml", "an Excel workbook", "save it as CSV"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel workbook", "save it as CSV"),
    "Parquet": (b"PAR1\x15\0", "Parquet", "--format parquet"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04", "compressed with zstd", "unpack it"),
    "bzip2": (b"BZh91AY", "compressed with bzip2", "compress it with gzip"),
    "xz": (b"\xfd7zXZ\0", "compressed with xz", "unpack it"),
    "gzip twice": (b"\x1f\x8b\x08", "gzip within gzip", "unpack it once"),
    "tar": (b"a.jsonl".ljust(257, b"\0") + b"ustar\0", "a tar archive", "unpack it"),
    "zeros": (bytes(1000), "binary, not text", "one JSON object a line"),
}


@pytest.mark.parametrize(("data", "name", "mend"), KINDS.values(), ids=KINDS)
def test_what_is_no_jsonl_is_named_with_what_to_do(data: bytes, name: str, mend: str) -> None:
    words = kind_of(data[:HEAD])
    assert words is not None
    assert words.startswith(name) or f"a table, {name}" in words
    assert mend in words
    assert "\n" not in words


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n \n",
        LINES,
        b"\xef\xbb\xbf" + LINES,
        b"\n\n" + LINES,
        LINES.replace(b"\n", b"\r\n"),
        chat_line("a"),
        chat_line("a", pad="x" * 2 * HEAD),
        chat_line("a", text='"requests": "input"') + b"\n",
        b"hello\n" + LINES,
        b"hello, world\n" + LINES,
        # a line feed within a string is the fault of one line
        b'{"custom_id": "a", "body": {"text": "one\ntwo"}}\n' + LINES,
        b"{" * 5000,
        LINES + b'{"custom_id": "\xff"}\n',
        LINES + b'{"custom_id": "\xff"}\n' + chat_line("\u00e9") + b"\n",
    ],
    ids=range(15),
)
def test_what_may_be_jsonl_has_no_other_name(data: bytes) -> None:
    assert kind_of(data[:HEAD]) is None


def test_a_table_has_the_same_number_of_cells_in_each_row(tmp_path: Path) -> None:
    assert delimiter_of(b"a;b\n1;2\n") == ";"
    assert delimiter_of(b"a,b;c\n1,2;3\n") == ","  # the first of two that would do
    assert delimiter_of(b"a;b\n1\n") is None
    assert delimiter_of(b"one\ntwo\n") is None
