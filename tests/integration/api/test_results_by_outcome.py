"""GET …/results?only=…: the lines of one outcome, in input order."""

import gzip
from collections.abc import Collection
from uuid import UUID

import pytest

from service.payloads import selection
from service.payloads.blobs import packed
from service.rules.outcomes import DeadLetter
from service.stages.dead_letters import result_line
from tests.api import Api, problem
from tests.factories import entry, final_lines, settlement


def line(ordinal: int, dead: Collection[int]) -> bytes:
    if ordinal not in dead:
        return b'{"custom_id": "r%d", "response": "%s"}\n' % (ordinal, b"x" * (ordinal % 7))
    letter = DeadLetter(
        ordinal=ordinal, custom_id=f"r{ordinal}", code="error", message="no", attempts=1
    )
    return result_line(letter) + b"\n"


def settle(api: Api, batch_id: UUID, ordinals: Collection[int], dead: Collection[int]) -> None:
    lines = final_lines(api.blobs, f"lines/{batch_id}", [(n, line(n, dead)) for n in ordinals])
    buried = [n for n in ordinals if n in dead]
    done = settlement(len(ordinals) - len(buried), dead=buried, final_lines=lines)
    api.harness.settle(batch_id, done)


def assemble(api: Api, job_id: UUID) -> None:
    api.assemble(job_id)


DEAD = {0, 3, 4, 11, 12, 13, 19}


def expected(*, failed: bool) -> bytes:
    return b"".join(line(n, DEAD) for n in range(20) if (n in DEAD) is failed)


@pytest.fixture
def path(api: Api) -> str:
    """Results of three batches, two of them mingled: of each, some have failed."""
    parts = (range(10), range(10, 20, 2), range(11, 20, 2))
    batch_ids = api.harness.split(10, 5, 5)
    job_id = api.harness.job_of(batch_ids[0]).id
    for batch_id, ordinals in zip(batch_ids, parts, strict=True):
        # What the retry of a dead letter reads.
        manifest = api.harness.part(batch_id).manifest_blob or ""
        api.blobs.put(manifest, packed([*map(entry, ordinals)]))
        settle(api, batch_id, ordinals, DEAD)
    assemble(api, job_id)
    return f"/v1/jobs/{job_id}/results"


@pytest.mark.parametrize("block", [1, selection.BLOCK])
def test_the_lines_of_one_outcome_come_in_input_order(
    api: Api, path: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "BLOCK", block)
    for only, failed in [("failed", True), ("succeeded", False)]:
        answer = api.http.get(path, params={"only": only})
        assert answer.status_code == 200
        assert answer.content == expected(failed=failed)
        assert answer.headers["accept-ranges"] == "none"


def test_a_selection_has_an_etag_of_its_own(api: Api, path: str) -> None:
    tags = set()
    for query in ({}, {"only": "failed"}, {"only": "succeeded"}):
        for coding in ("identity", "gzip"):
            headers = {"Accept-Encoding": coding}
            etag = api.http.get(path, params=query, headers=headers).headers["etag"]
            tags.add(etag)
            known = {**headers, "If-None-Match": etag}
            assert api.http.get(path, params=query, headers=known).status_code == 304
    assert len(tags) == 6


def test_a_selection_comes_compressed_but_never_in_ranges(api: Api, path: str) -> None:
    headers = {"Accept-Encoding": "gzip", "Range": "bytes=0-9"}

    with api.http.stream("GET", path, params={"only": "failed"}, headers=headers) as answer:
        packed = b"".join(answer.iter_raw())

    assert answer.status_code == 200
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed) == expected(failed=True)


def test_nothing_failed_is_an_empty_answer(api: Api) -> None:
    batch_id = api.harness.queued(3)
    settle(api, batch_id, range(3), ())
    job_id = api.harness.job_of(batch_id).id
    assemble(api, job_id)

    answer = api.http.get(f"/v1/jobs/{job_id}/results", params={"only": "failed"})

    assert (answer.status_code, answer.content) == (200, b"")


def test_a_selection_before_the_end_holds_what_is_final_so_far(api: Api) -> None:
    first, second = api.harness.split(3, 3)
    path = f"/v1/jobs/{api.harness.job_of(first).id}/results"

    def partial(only: str) -> bytes:
        answer = api.http.get(path, params={"only": only, "partial": "true"})
        assert answer.status_code == 200
        assert "etag" not in answer.headers
        return answer.content

    assert partial("failed") == partial("succeeded") == b""
    settle(api, second, range(3, 6), {4})
    assert partial("failed") == line(4, {4})
    assert partial("succeeded") == line(3, ()) + line(5, ())
    document = problem(api.http.get(path, params={"only": "failed"}), 409)
    assert document["type"] == "urn:haulier:problem:not-finished"


def test_what_is_run_again_has_neither_outcome_until_it_has_one_anew(api: Api, path: str) -> None:
    retried = api.http.post(
        path.replace("results", "retry"), json={"custom_ids": ["r3", "r4", "r13"]}
    )
    assert retried.status_code == 202, retried.text

    def partial(only: str) -> bytes:
        return api.http.get(path, params={"only": only, "partial": "true"}).content

    left = DEAD - {3, 4, 13}
    assert partial("failed") == b"".join(line(n, DEAD) for n in sorted(left))
    assert partial("succeeded") == expected(failed=False)
    problem(api.http.get(path, params={"only": "failed"}), 409)
    assert api.http.get(path).status_code == 200  # the old results, as a whole
    job_id = UUID(path.split("/")[3])
    api.harness.let_in()
    for batch_id, ordinals in zip(api.harness.open_batches(job_id), ([3, 4], [13]), strict=True):
        settle(api, batch_id, ordinals, {4})
    assemble(api, job_id)
    dead = left | {4}
    answer = api.http.get(path, params={"only": "failed"})
    assert answer.content == b"".join(line(n, dead) for n in sorted(dead))
    answer = api.http.get(path, params={"only": "succeeded"})
    assert answer.content == b"".join(line(n, dead) for n in range(20) if n not in dead)


def test_an_outcome_that_does_not_exist_is_refused(api: Api, path: str) -> None:
    problem(api.http.get(path, params={"only": "pending"}), 422)
