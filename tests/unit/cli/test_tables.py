"""CSV and Parquet rows become chat requests, or one clear word about what is wrong with them."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from service.cli.submit.filling import filled
from service.cli.submit.parquet import parquet_rows
from service.cli.submit.rows import Recipe, lines_of, params_of
from service.cli.submit.tables import BadInput, csv_rows
from service.cli.submit.template import BadTemplate, column, read_template
from service.rules.requests import LINE_BYTES


def made(content: bytes, recipe: Recipe, block: int = 7) -> list[dict[str, object]]:
    """The requests made of a CSV file that arrives in small blocks."""
    blocks = (content[n : n + block] for n in range(0, len(content), block))
    return [json.loads(line) for line in lines_of(csv_rows(blocks, recipe.columns), recipe)]


QUESTIONS = Recipe("m", column("q"))


def test_a_row_becomes_a_chat_request() -> None:
    recipe = Recipe(
        "m", read_template("{a} in {b c}"), system="Be brief", id_column="id", params={"n": 1}
    )
    assert made(b"id,a,b c\nx,1,2\n", recipe) == [
        {
            "custom_id": "x",
            "body": {
                "model": "m",
                "messages": [
                    {"role": "system", "content": "Be brief"},
                    {"role": "user", "content": "1 in 2"},
                ],
                "n": 1,
            },
        }
    ]


def test_rows_are_numbered_and_cells_keep_their_lines_and_characters() -> None:
    content = '\ufeffq,r\r\n"one\r\ntwo, ""three""",\r\n\r\nключ 🚚,x'.encode()
    (first, second) = made(content, QUESTIONS)
    assert (first["custom_id"], second["custom_id"]) == ("row-1", "row-2")
    assert '"one\\r\\ntwo, \\"three\\""' in json.dumps(first)
    assert "ключ 🚚" in json.dumps(second, ensure_ascii=False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"q\n", "no rows"),
        (b"a,b\n1,2\n", "no column 'q'; it has 'a', 'b'"),
        (b"q,q\n1,2\n", "more than once"),
        (b"q,r\n1,2\n3\n", r"row 2 \(line 3\) has 1 cells, and the header 2"),
        (b'q,r\n"1\n\n1",2\n3,4,5\n', r"row 2 \(line 5\) has 3 cells"),
        (b"q\nx\n\xff\n", r"row 2 \(line 3\): is not UTF-8 \(byte 1"),
        (b"\xff\xfeq\x00\n", "^is UTF-16, not UTF-8: save it as UTF-8"),
        (b"PK\x03\x04xl/", r"^is an Excel workbook \(xlsx\): save it as CSV"),
        (b"p;q\n1;2\n", r"no column 'q'; it has 'p;q': .* semicolons: --delimiter ';'"),
        (b"p\tq\n1\t2\n", r"no column 'q'; .* separated by tabs: --delimiter '\\t'"),
        (b"q\n1\x00\n", r"row 1 \(line 2\): holds a NUL"),
        (b'q\n"never closed\n', "closing quote"),
        (b'q\n"a"b\n', "twice"),
        (b"q\r1\r2", "LF"),
        (b"q\n \n", "prompt is empty"),
        (b'q\n"' + b"x\n" * LINE_BYTES, "closing quote"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_said_with_its_row(content: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        made(content, QUESTIONS, block=1 << 18)


def test_a_table_may_have_another_delimiter() -> None:
    rows = csv_rows([b'p;q\n"1;1";2,5\n'], ["q"], delimiter=";")
    assert [dict(row.cells) for row in rows] == [{"p": "1;1", "q": "2,5"}]
    with pytest.raises(BadInput, match="separated by commas: --delimiter ','"):
        list(csv_rows([b"p,q\n1,2\n"], ["q"], delimiter=";"))


@pytest.mark.parametrize("custom_id", ["", "x" * 65])
def test_an_id_that_is_none_is_refused(custom_id: str) -> None:
    with pytest.raises(BadInput, match=r"row 1 \(line 2\): the id"):
        made(f"id,q\n{custom_id},1\n".encode(), Recipe("m", column("q"), id_column="id"))


def test_a_template_looks_names_up_and_nothing_else() -> None:
    template = read_template("{{{a.__class__}}} {b[0]}")
    assert template.columns == ("a.__class__", "b[0]")
    assert template.filled({"a.__class__": "1", "b[0]": "2"}) == "{1} 2"


@pytest.mark.parametrize("text", ["plain", "{}", "{a!r}", "{a:>9}", "{a", "a}", ""])
def test_a_template_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadTemplate):
        read_template(text)


def test_params_are_json_or_else_text() -> None:
    assert params_of(["temperature=0", "stop=\\n", 'f={"a":[1]}', "x=a=b"]) == {
        "temperature": 0,
        "stop": "\\n",
        "f": {"a": [1]},
        "x": "a=b",
    }
    for pair in ("temperature", "=1", "model=x", "messages=[]"):
        with pytest.raises(ValueError, match=r"NAME=VALUE|other options"):
            params_of([pair])


def read(path: Path, *wanted: str) -> tuple[list[dict[str, str]], list[int | None]]:
    told: list[int | None] = []
    rows = parquet_rows(path, wanted, told.append, told.append)
    return [dict(row.cells) for row in rows], told


def test_parquet_is_read_page_by_page_and_by_its_columns(tmp_path: Path) -> None:
    numbers = list(range(2500))
    table = pa.table({"q": list(map(str, numbers)), "n": numbers, "x": [b""] * 2500})
    parquet.write_table(table, tmp_path / "a.parquet")
    rows, told = read(tmp_path / "a.parquet", "q", "n")
    assert rows[2499] == {"q": "2499", "n": "2499"}
    assert told == [2500, 1000, 1000, 500]


@pytest.mark.parametrize(
    ("values", "words"),
    [([[1]], "list"), ([b"x"], "bytes"), (["a\0"], "NUL"), ([None], "prompt is empty")],
)
def test_a_cell_that_is_no_text_is_named(tmp_path: Path, values: list[object], words: str) -> None:
    parquet.write_table(pa.table({"q": values}), tmp_path / "a.parquet")
    rows = parquet_rows(tmp_path / "a.parquet", ["q"], lambda _: None, lambda _: None)
    with pytest.raises(BadInput, match=f"row 1: .*{words}"):
        list(lines_of(rows, QUESTIONS))


def test_what_is_no_parquet_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"q\n1\n" * 10)
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        read(tmp_path / "a.parquet", "q")
    parquet.write_table(pa.table({"a": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(BadInput, match="no column 'q'"):
        read(tmp_path / "b.parquet", "q")


def test_the_model_is_filled_in_where_there_is_none_and_all_else_stays() -> None:
    lines = [
        b'{"custom_id":"a","body":{"messages":[ 1.0 ]}}',
        b'{ "custom_id": "b", "body": {"model": "own"} }',
        b'{"custom_id":"c","body":{"model":null,"n":12345678901234567890123}}',
        b"{no json",
        b'{"custom_id":"d"}',
        b"",
        b'{"custom_id":"\xff","body":{}}',
    ]
    content = b"\xef\xbb\xbf" + b"\n".join(lines)
    blocks = (content[n : n + 5] for n in range(0, len(content), 5))
    out = b"".join(filled(blocks, "m")).split(b"\n")
    assert out == [
        b'{"custom_id":"a","body":{"messages":[ 1.0 ],"model":"m"}}',
        lines[1],
        b'{"custom_id":"c","body":{"model":"m","n":12345678901234567890123}}',
        *lines[3:6],
        out[6],  # broken UTF-8 goes on as it is, to be refused
    ]
    assert b"\xff" in out[6]
