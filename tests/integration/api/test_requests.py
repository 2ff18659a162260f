"""GET …/requests/{custom_id}: one request, its outcome, and every attempt."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec
import pytest

from service.payloads import request_index
from service.payloads.results import LinesWriter
from service.rules.outcomes import Changes, DeadLetter, RetryPart, Settle, Settlement
from service.rules.states import BatchState, Stage
from service.rules.work import Entry
from service.stages.dead_letters import result_line
from service.store.parts import manifest_of
from tests.api import Api, post_lines, problem
from tests.factories import chat_line

ODD = ["a/b", "/", "..", "a//b/", "with space", "50%", "%2F", "ü/ß 🙂", "q?x=1#y", "a+b", "results"]


def shown(api: Api, job_id: UUID, custom_id: str) -> dict[str, Any]:
    # Clients take dots for steps in the path, unless they are written otherwise.
    escaped = quote(custom_id, safe="").replace(".", "%2E")
    answer = api.http.get(f"/v1/jobs/{job_id}/requests/{escaped}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def split(api: Api, job_id: UUID) -> list[UUID]:
    api.harness.let_in()
    return api.harness.open_batches(job_id)


def answer_line(custom_id: str) -> bytes:
    body = b'{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7},"choices":[]}'
    name = msgspec.json.encode(custom_id)
    return b'{"custom_id": %s, "response": {"status_code": 200, "body": %s}}' % (name, body)


def settle(
    api: Api, batch_id: UUID, *, dead: Sequence[str] = (), carried: Sequence[str] = ()
) -> None:
    """As fetch does it: all others have succeeded."""
    part = api.harness.part(batch_id)
    entries = api.blobs.get_manifest(manifest_of(part))
    api.harness.advance(batch_id, BatchState.ENDED)
    api.harness.due_now(batch_id)
    claim = api.harness.claim(batch_id, Stage.FETCH)
    letters: dict[str, DeadLetter] = {
        e.custom_id: DeadLetter(
            ordinal=e.ordinal, custom_id=e.custom_id, code="bad", message="no ü", attempts=1
        )
        for e in entries
        if e.custom_id in dead
    }
    final = [e for e in entries if e.custom_id not in carried]
    writer = LinesWriter(api.blobs, f"jobs/{part.job_id}/{batch_id}/{claim.lease}")
    with writer.open():
        for e in final:
            letter = letters.get(e.custom_id)
            writer.write(e.ordinal, result_line(letter) if letter else answer_line(e.custom_id))
    retries = [_retry(api, part.job_id, [e for e in entries if e.custom_id in carried])]
    done = Settlement(
        part=part.id,
        job_id=part.job_id,
        succeeded=len(final) - len(letters),
        dead=tuple(letters.values()),
        retries=tuple(retry for retry in retries if retry.requests),
        final_lines=writer.final_lines,
    )
    api.harness.apply(
        claim, Settle(BatchState.SETTLED, (done,), Changes(provider_status="COMPLETED"))
    )
    api.harness.let_in()


def _retry(api: Api, job_id: UUID, entries: list[Entry]) -> RetryPart:
    name = api.blobs.put_manifest(f"jobs/{job_id}/retry-{len(entries)}.manifest", entries)
    return RetryPart(manifest=name, requests=len(entries), bytes=1, delay=timedelta(0))


def assemble(api: Api, job_id: UUID) -> None:
    api.assemble(job_id)


def outcomes(found: dict[str, Any]) -> list[str]:
    return [attempt["outcome"] for attempt in found["attempts"]]


def test_a_request_of_a_job_that_waits_is_pending(api: Api) -> None:
    found = shown(api, api.submit("a", "b"), "b")

    assert (found["custom_id"], found["ordinal"], found["outcome"]) == ("b", 1, "pending")
    (attempt,) = found["attempts"]
    assert (attempt["state"], attempt["batch_id"]) == ("waiting", None)
    assert found["result"] is found["error"] is found["usage"] is None


@pytest.mark.parametrize("small", [0, 1000])
def test_every_attempt_of_a_request_is_told(
    api: Api, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_index, "SMALL", small)
    job_id = UUID(post_lines(api, b"\n".join(map(chat_line, "abcd"))).json()["id"])
    (first,) = split(api, job_id)
    assert outcomes(shown(api, job_id, "a")) == ["pending"]

    settle(api, first, carried=["b", "c"], dead=["d"])
    (second,) = api.harness.open_batches(job_id)

    a, b, d = (shown(api, job_id, custom_id) for custom_id in "abd")
    assert (a["outcome"], outcomes(a)) == ("succeeded", ["succeeded"])
    assert a["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert a["result"] == msgspec.json.decode(answer_line("a"))
    assert (b["outcome"], outcomes(b)) == ("pending", ["carried", "pending"])
    assert [attempt["batch_id"] for attempt in b["attempts"]] == [str(first), str(second)]
    assert [attempt["attempt"] for attempt in b["attempts"]] == [1, 2]
    assert b["attempts"][0]["provider_batch_id"] == f"provider-{first}"
    assert (d["outcome"], outcomes(d)) == ("failed", ["failed"])
    assert d["error"] == d["attempts"][0]["error"] == {"code": "bad", "message": "no ü"}
    assert d["result"]["error"] == d["error"]
    assert d["usage"] is None

    settle(api, second, dead=["c"])
    assert outcomes(shown(api, job_id, "b")) == ["carried", "succeeded"]
    assert outcomes(shown(api, job_id, "c")) == ["carried", "failed"]


def test_a_failure_that_was_run_again_is_among_the_attempts(api: Api) -> None:
    job_id = api.submit("a", "b")
    settle(api, split(api, job_id)[0], dead=["b"])
    assemble(api, job_id)
    assert api.http.post(f"/v1/jobs/{job_id}/retry").status_code == 202
    api.harness.let_in()

    again = shown(api, job_id, "b")
    assert (again["outcome"], outcomes(again)) == ("pending", ["failed", "pending"])
    assert again["error"] is again["result"] is None
    assert again["attempts"][0]["error"] == {"code": "bad", "message": "no ü"}

    settle(api, api.harness.open_batches(job_id)[0])
    again = shown(api, job_id, "b")
    assert (again["outcome"], outcomes(again)) == ("succeeded", ["failed", "succeeded"])


def test_a_request_is_found_in_whichever_shard_it_is(api: Api) -> None:
    lines = [chat_line(f"{model}{n}", model=model) for n in range(3) for model in "xyz"]
    job_id = UUID(post_lines(api, b"\n".join(lines)).json()["id"])
    for batch_id in split(api, job_id)[:2]:
        settle(api, batch_id)

    assert [shown(api, job_id, f"y{n}")["ordinal"] for n in range(3)] == [1, 4, 7]
    assert shown(api, job_id, "y2")["result"]["custom_id"] == "y2"
    assert shown(api, job_id, "z0")["outcome"] == "pending"


def test_a_custom_id_may_hold_anything_that_a_url_can_escape(api: Api) -> None:
    job_id = api.submit(*ODD)
    settle(api, split(api, job_id)[0])

    for ordinal, custom_id in enumerate(ODD):
        found = shown(api, job_id, custom_id)
        assert (found["custom_id"], found["ordinal"]) == (custom_id, ordinal)
        assert found["result"]["custom_id"] == custom_id


@pytest.mark.parametrize(
    "line", [b'{"custom_id": "a", "text": "\\ud83d"}', b'{"n": NaN}', b"\xff", b"[" * 5000]
)
def test_a_line_of_whatever_shape_is_shown(api: Api, line: bytes) -> None:
    job_id = api.submit("a")
    (batch_id,) = split(api, job_id)
    settle(api, batch_id)
    writer = LinesWriter(api.blobs, "odd")
    with writer.open():
        writer.write(0, line)
    odd = msgspec.json.encode(writer.final_lines).decode()
    api.harness.run("UPDATE haulier.parts SET final_lines = CAST(:odd AS jsonb)", odd=odd)

    found = shown(api, job_id, "a")

    assert found["outcome"] == "succeeded"
    assert found["result"] in ({"custom_id": "a", "text": "\ud83d"}, line.decode(errors="replace"))


@pytest.mark.parametrize("custom_id", ["x", "", "%00", "a%00", "A", "a/", "%FF", "y" * 9000])
def test_an_unknown_request_is_not_found(api: Api, custom_id: str) -> None:
    answer = api.http.get(f"/v1/jobs/{api.submit('a')}/requests/{custom_id}")

    assert problem(answer, 404)["detail"] == "the job has no request of this custom_id"
