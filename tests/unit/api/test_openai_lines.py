"""Result lines in OpenAI's shape."""

import json
from uuid import UUID

import pytest

from service.api.dropin.openai.lines import in_openais_shape

JOB = UUID(int=7)
BODY = '{"usage":{"total_tokens":1e0},  "choices":[],"x":"\\u2028\\ud83d\\ude00 \u2028ö"}'


def shown(*lines: str, block: int = 1000) -> list[str]:
    data = "".join(f"{line}\n" for line in lines).encode()
    blocks = [data[at : at + block] for at in range(0, len(data), block)]
    return b"".join(in_openais_shape(blocks, JOB)).decode().split("\n")[:-1]


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_a_line_has_every_field_and_the_body_stays_as_it_came(block: int) -> None:
    answers = shown(
        f'{{"id":"br_1","custom_id":"a","response":{{"status_code":200,"body":{BODY}}}}}',
        f'{{ "response": {{"body":{BODY}}}, "custom_id": "b", "more": 1 }}',
        block=block,
    )
    assert [answer.count(BODY) for answer in answers] == [1, 1]
    first, second = map(json.loads, answers)
    assert list(first) == ["id", "custom_id", "response", "error"]
    assert list(first["response"]) == ["status_code", "request_id", "body"]
    assert (first["id"], first["response"]["request_id"]) == ("br_1", "br_1")
    assert second["id"] == second["response"]["request_id"] == f"batch_req_{JOB.hex}_1"
    assert (second["response"]["status_code"], second["error"]) == (200, None)


def test_a_dead_request_has_its_error_and_its_attempts() -> None:
    (answer,) = shown('{"custom_id":"a","error":{"code":"x","message":"y"},"attempts":3}')
    assert json.loads(answer) == {
        "id": f"batch_req_{JOB.hex}_0",
        "custom_id": "a",
        "response": None,
        "error": {"code": "x", "message": "y"},
        "attempts": 3,
    }


@pytest.mark.parametrize(
    "line",
    ["{}", "[1]", "no JSON", '{"custom_id":1}', '{"custom_id":"a","response":[]}', "", "{" * 9000],
)
def test_a_line_of_another_shape_is_shown_as_it_is(line: str) -> None:
    after = '{"custom_id":"z"}'
    found = shown(line, after)
    assert found[0] == line
    assert json.loads(found[1])["custom_id"] == "z"


def test_nothing_is_made_of_nothing() -> None:
    assert shown() == []
