"""Result lines become answers, whatever their shape."""

import csv
import io
import json
from pathlib import Path

import pytest
import typer

from service.cli.show.answers import Answer, answer, answers, write_csv
from service.cli.show.results import Form, Wanted, _write

CHAT = (
    b'{"custom_id":"a","response":{"status_code":200,"body":{"choices":[{"finish_reason":"stop",'
    b'"message":{"content":"one\\ntwo"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}}}'
)
DEAD = b'{"custom_id":"b","error":{"code":"invalid","message":"no, \\"never\\""},"attempts":1}'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (CHAT, Answer("a", "one\ntwo", None, 3, 2, "stop")),
        (
            DEAD,
            Answer(
                *("b", None, 'invalid: no, "never"', None, None, None),
                error_code="invalid",
                attempts=1,
            ),
        ),
        (
            b'{"custom_id":"c","response":{"body":{"text":"heard"}}}',
            Answer("c", "heard", None, None, None, None),
        ),
        (
            b'{"custom_id":"d","response":{"body":{"choices":[{"message":{"content":null}}]}}}',
            Answer("d", "", None, None, None, None),
        ),
        (
            b'{"custom_id":"e","response":{"body":{"choices":[{"message":{"content":"x\\ud83d"}}]}}}',
            Answer("e", "x\N{REPLACEMENT CHARACTER}", None, None, None, None),
        ),
        (
            b'{"custom_id":"t","response":{"body":{"choices":[{"finish_reason":"tool_calls",'
            b'"message":{"content":null,"tool_calls":[{"id":"t","function":{"name":"f"}}]}}]}}}',
            Answer(
                *("t", "", None, None, None, "tool_calls"),
                tool_calls='[{"id": "t", "function": {"name": "f"}}]',
            ),
        ),
        (
            b'{"custom_id":"u","response":{"body":{"choices":[{"message":{"content":"Let me see",'
            b'"function_call":{"name":"f"}}}]}}}',
            Answer(
                *("u", "Let me see", None, None, None, None),
                tool_calls='[{"type": "function", "function": {"name": "f"}}]',
            ),
        ),
        (
            b'{"custom_id":"r","response":{"body":{"choices":[{"message":'
            b'{"content":null,"tool_calls":[],"refusal":"No."}}]}}}',
            Answer("r", "No.", None, None, None, None),
        ),
        (
            b'{"custom_id":"p","response":{"body":{"choices":[{"message":{"content":'
            b'[{"type":"text","text":"one "},{"type":"text","text":"two"}]}}]}}}',
            Answer("p", "one two", None, None, None, None),
        ),
        (
            b'{"custom_id":"n","response":{"status_code":200,"body":{"usage":{}}}}',
            Answer("n", "", None, None, None, None),
        ),
        (b'{"custom_id":"f","response":[]}', Answer("f", "", None, None, None, None)),
        (b'{"custom_id":"g","error":"bad"}', Answer("g", None, "bad", None, None, None)),
    ],
)
def test_a_result_line_is_an_answer(line: bytes, expected: Answer) -> None:
    assert answer(line) == expected


def test_a_table_of_answers_reads_back_as_it_was() -> None:
    content = CHAT + b"\n" + DEAD + b"\n"
    file = io.BytesIO()
    blocks = (content[n : n + 9] for n in range(0, len(content), 9))
    assert write_csv(answers(blocks), file) == 2
    rows = list(csv.DictReader(io.StringIO(file.getvalue().decode(), newline="")))
    assert rows[0]["text"] == "one\ntwo"
    assert rows[0]["prompt_tokens"] == "3"
    assert (rows[1]["custom_id"], rows[1]["error"]) == ("b", 'invalid: no, "never"')
    assert (rows[1]["error_code"], rows[1]["attempts"]) == ("invalid", "1")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("x", Form.LINES), ("x.jsonl", Form.LINES), ("x.ndjson", Form.LINES)),
        *(("x.json", Form.ARRAY), ("x.CSV", Form.CSV), ("x.tsv", Form.TSV)),
    ],
)
def test_a_file_is_what_its_name_says(tmp_path: Path, name: str, form: Form) -> None:
    assert Wanted.of(tmp_path / name).form is form


@pytest.mark.parametrize("name", ["x.xlsx", "x.txt", "x.csv.gz", "x.jsonl.gz"])
def test_an_ending_that_is_not_known_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"\.jsonl, .*\.parquet"):
        Wanted.of(tmp_path / name)
    assert Wanted.of(tmp_path / name, text=True).form is Form.TEXT


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_are_an_array_of_the_lines_as_they_came(tmp_path: Path, count: int) -> None:
    file = io.BytesIO()
    blocks = [CHAT + b"\n"] * count
    assert _write(blocks, Wanted.of(tmp_path / "x.json"), file) == count
    assert json.loads(file.getvalue()) == [json.loads(CHAT)] * count
    assert file.getvalue().count(CHAT) == count


def test_a_byte_order_mark_stands_before_the_table() -> None:
    file = io.BytesIO()
    write_csv(answers([CHAT]), file, bom=True)
    assert file.getvalue().startswith(b"\xef\xbb\xbfcustom_id,text,")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1|cmd", "'+1|cmd"),
        ("-1+cmd", "'-1+cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\N{FULLWIDTH EQUALS SIGN}1", "'\N{FULLWIDTH EQUALS SIGN}1"),
        ("- a list", "'- a list"),
        ("-12.5e3", "-12.5e3"),
        ("+3", "+3"),
        ("-", "'-"),
        ("a=1", "a=1"),
        ("", ""),
    ],
)
def test_a_spreadsheet_gets_text_for_formulas_and_numbers_for_numbers(text: str, cell: str) -> None:
    found = Answer(text, text, text, -3, None, text, text, text, 2)
    for raw, expected in ((False, cell), (True, text)):
        file = io.BytesIO()
        write_csv([found], file, raw=raw)
        (row,) = list(csv.reader(io.StringIO(file.getvalue().decode(), newline="")))[1:]
        numbers = ("-3", "")
        assert row == [*[expected] * 3, *numbers, *[expected] * 3, "2"]
