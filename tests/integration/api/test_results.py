"""GET …/results: whole, unchanged, in ranges, in part, and not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import pytest

from service.api.ranges import Span, Unsatisfiable, names, requested
from service.rules.errors import Problem
from service.rules.outcomes import Fail
from service.rules.states import Stage
from tests.api import Api, problem
from tests.factories import final_lines, settlement


def result(ordinal: int) -> bytes:
    return b'{"custom_id": "r%d", "response": "%s"}\n' % (ordinal, b"x" * ordinal)


@dataclass
class Finished:
    """A job with result lines of several batches."""

    id: UUID
    path: str
    content: bytes


def settle(api: Api, batch_id: UUID, ordinals: Sequence[int]) -> None:
    lines = final_lines(api.blobs, f"lines/{batch_id}", [(n, result(n)) for n in ordinals])
    api.harness.settle(batch_id, settlement(len(ordinals), final_lines=lines))


def assemble(api: Api, job_id: UUID) -> None:
    api.assemble(job_id)


@pytest.fixture
def finished(api: Api) -> Finished:
    """Three batches: the first by itself, the other two mingled, so two segments."""
    batch_ids = api.harness.split(10, 5, 5)
    for batch_id, ordinals in zip(
        batch_ids, [range(10), range(10, 20, 2), range(11, 20, 2)], strict=True
    ):
        settle(api, batch_id, ordinals)
    job_id = api.harness.job_of(batch_ids[0]).id
    assemble(api, job_id)
    assert len(api.harness.rows("SELECT position FROM haulier.segments")) == 2
    return Finished(job_id, f"/v1/jobs/{job_id}/results", b"".join(map(result, range(20))))


def test_results_are_whole_and_in_input_order(api: Api, finished: Finished) -> None:
    answer = api.http.get(finished.path)

    assert answer.status_code == 200
    assert answer.content == finished.content
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-length"] == str(len(finished.content))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"] == f'"{finished.id}-1"'


def test_partial_results_of_a_finished_job_are_the_whole(api: Api, finished: Finished) -> None:
    answer = api.http.get(finished.path, params={"partial": "true"})

    assert answer.content == finished.content
    assert "etag" in answer.headers


def test_results_that_the_client_has_are_not_sent_again(api: Api, finished: Finished) -> None:
    etag = api.http.get(finished.path).headers["etag"]

    for header in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = api.http.get(finished.path, headers={"If-None-Match": header})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
    assert api.http.get(finished.path, headers={"If-None-Match": '"x"'}).status_code == 200


def test_every_range_of_the_results_can_be_had(api: Api, finished: Finished) -> None:
    total = len(finished.content)
    border = len(b"".join(map(result, range(10))))  # where the second segment begins
    for start, last in [
        (0, 0),
        (0, 99),
        (border - 1, border),
        (border, border + 9),
        (17, total - 1),
        (total - 1, total - 1),
        (5, total + 1000),
    ]:
        answer = api.http.get(finished.path, headers={"Range": f"bytes={start}-{last}"})
        assert answer.status_code == 206
        assert answer.content == finished.content[start : last + 1]
        end = min(last, total - 1)
        assert answer.headers["content-range"] == f"bytes {start}-{end}/{total}"
        assert answer.headers["content-length"] == str(end - start + 1)
    tail = api.http.get(finished.path, headers={"Range": "bytes=-30"})
    assert tail.content == finished.content[-30:]
    rest = api.http.get(finished.path, headers={"Range": f"bytes={border}-"})
    assert rest.content == finished.content[border:]


def test_a_range_outside_the_results_is_refused(api: Api, finished: Finished) -> None:
    total = len(finished.content)

    answer = api.http.get(finished.path, headers={"Range": f"bytes={total}-"})

    problem(answer, 416)
    assert answer.headers["content-range"] == f"bytes */{total}"


def test_a_range_of_other_results_becomes_the_whole(api: Api, finished: Finished) -> None:
    etag = api.http.get(finished.path).headers["etag"]

    same = api.http.get(finished.path, headers={"Range": "bytes=0-9", "If-Range": etag})
    other = api.http.get(finished.path, headers={"Range": "bytes=0-9", "If-Range": '"old"'})

    assert (same.status_code, other.status_code) == (206, 200)
    assert other.content == finished.content


def test_results_before_the_end_are_refused_unless_partial_ones_will_do(api: Api) -> None:
    first, second = api.harness.split(3, 3)
    job_id = api.harness.job_of(first).id
    path = f"/v1/jobs/{job_id}/results"

    def partial() -> bytes:
        answer = api.http.get(path, params={"partial": "true"})
        assert answer.status_code == 200
        assert "etag" not in answer.headers
        return answer.content

    assert partial() == b""
    settle(api, second, range(3, 6))
    assert partial() == b"".join(map(result, range(3, 6)))
    document = problem(api.http.get(path), 409)
    assert document["type"] == "urn:haulier:problem:not-finished"
    assert "3 of 6 requests are pending" in document["detail"]
    settle(api, first, range(3))
    # Both are in order already, so that nothing is left to be merged.
    assert api.http.get(path).content == b"".join(map(result, range(6)))


def test_an_accepted_job_has_no_results_yet(api: Api) -> None:
    path = f"/v1/jobs/{api.submit()}/results"

    problem(api.http.get(path), 409)
    assert api.http.get(path, params={"partial": "1"}).content == b""


@pytest.mark.parametrize("rejected", [True, False])
@pytest.mark.parametrize("partial", ["true", "false"])
def test_a_job_that_never_ran_says_why_it_has_no_results(
    api: Api, *, rejected: bool, partial: str
) -> None:
    job_id = api.harness.unread()
    claim = api.harness.claim_job(job_id, Stage.SPLIT)
    found = Problem("is not JSON", 7)
    api.harness.apply(claim, Fail("the input is bad", rejected=rejected, problems=(found,)))

    document = problem(api.http.get(f"/v1/jobs/{job_id}/results", params={"partial": partial}), 409)

    assert document["type"] == "urn:haulier:problem:no-results"
    assert "the input is bad" in document["detail"]
    job = api.job(job_id)
    assert job["state"] == ("rejected" if rejected else "failed")
    assert job["error"] == "the input is bad"
    if rejected:
        assert job["problems"] == [{"line": 7, "message": "is not JSON"}]


def test_storage_that_does_not_work_is_said_before_anything_is_sent(
    api: Api, finished: Finished
) -> None:
    api.harness.run("UPDATE haulier.segments SET blob = 'gone' WHERE position = 0")

    answer = api.http.get(finished.path)

    assert problem(answer, 503)["type"] == "urn:haulier:problem:storage-unavailable"
    assert answer.headers["retry-after"]
    assert "gone" not in answer.text


# --- the rules of ranges -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("", None),
        ("bytes=0-", Span(0, 100)),
        ("bytes=0-0", Span(0, 1)),
        ("bytes = 5 - 9", Span(5, 10)),
        ("bytes=99-", Span(99, 100)),
        ("bytes=-1", Span(99, 100)),
        ("bytes=-500", Span(0, 100)),
        ("bytes=10-500", Span(10, 100)),
        ("bytes=5-3", None),
        ("bytes=-", None),
        ("bytes=0-1,5-9", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=0x1-5", None),
        ("bytes=1-99999999999999999999999999", None),
    ],
)
def test_a_range_header_means_a_span_or_the_whole(header: str | None, span: Span | None) -> None:
    assert requested(header, 100) == span


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_beyond_the_end_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        requested(header, 100)


def test_an_empty_header_names_no_etag() -> None:
    assert not names(None, '"a"')
    assert not names("", '"a"')
    assert not names('"ab"', '"a"')
