"""GET …/results with zstd and gzip: which coding is taken, and what else changes with it."""

import gzip
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from uuid import UUID

import httpx
import pytest
from backports import zstd

from service.api.compression import Coding, acceptable, compressed
from tests.api import Api, problem
from tests.factories import final_lines, settlement

UNPACKED: dict[str, Callable[[bytes], bytes]] = {"zstd": zstd.decompress, "gzip": gzip.decompress}
LINES = [(n, b'{"custom_id": "r%d", "response": "%s"}\n' % (n, b"x" * 90)) for n in range(20_000)]
CONTENT = b"".join(line for _, line in LINES)


def settle(api: Api, batch_id: UUID, lines: Sequence[tuple[int, bytes]]) -> None:
    stored = final_lines(api.blobs, f"lines/{batch_id}", lines)
    api.harness.settle(batch_id, settlement(len(lines), final_lines=stored))


@pytest.fixture
def running(api: Api) -> UUID:
    """A job of which the second half has its results."""
    first, second = api.harness.split(10_000, 10_000)
    settle(api, second, LINES[10_000:])
    return first


@pytest.fixture
def finished(api: Api, running: UUID) -> str:
    """The path of the results of a finished job."""
    settle(api, running, LINES[:10_000])
    job_id = api.harness.job_of(running).id
    api.assemble(job_id)
    return f"/v1/jobs/{job_id}/results"


def get(api: Api, path: str, accept: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """An answer, and its body as it came over the wire."""
    asked = {"Accept-Encoding": accept, **headers}
    with api.http.stream("GET", path, headers=asked) as answer:
        return answer, b"".join(answer.iter_raw())


def test_whole_results_come_in_the_coding_that_the_client_takes(api: Api, finished: str) -> None:
    plain = api.http.get(finished)

    for coding, unpack in UNPACKED.items():
        answer, body = get(api, finished, coding)

        assert answer.headers["content-encoding"] == coding
        assert unpack(body) == plain.content == CONTENT
        assert len(body) < len(CONTENT) / 5
        assert "content-length" not in answer.headers
        assert answer.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
        assert answer.headers["etag"] == plain.headers["etag"][:-1] + f'-{coding}"'


def test_partial_results_are_compressed_too(api: Api, running: UUID) -> None:
    path = f"/v1/jobs/{api.harness.job_of(running).id}/results?partial=true"

    answer, body = get(api, path, "gzip, zstd")

    assert answer.headers["content-encoding"] == "zstd"
    assert zstd.decompress(body) == b"".join(line for _, line in LINES[10_000:])
    assert answer.headers["vary"] == "Accept-Encoding"
    assert "etag" not in answer.headers


def test_results_without_a_line_are_a_whole_stream_in_any_coding(api: Api) -> None:
    path = f"/v1/jobs/{api.submit()}/results?partial=true"

    for coding, unpack in UNPACKED.items():
        assert unpack(get(api, path, coding)[1]) == b""


def test_a_range_is_one_of_the_lines_whatever_the_client_takes(api: Api, finished: str) -> None:
    answer, body = get(api, finished, "zstd, gzip", Range="bytes=5-99")

    assert (answer.status_code, body) == (206, CONTENT[5:100])
    assert "content-encoding" not in answer.headers
    assert answer.headers["etag"] == api.http.get(finished).headers["etag"]


def test_a_range_for_a_client_that_must_have_it_compressed_becomes_the_whole(
    api: Api, finished: str
) -> None:
    answer, body = get(api, finished, "gzip, identity;q=0", Range="bytes=5-99")

    assert answer.status_code == 200
    assert gzip.decompress(body) == CONTENT


def test_a_compressed_copy_cannot_be_carried_on_with_a_range(api: Api, finished: str) -> None:
    etag = get(api, finished, "gzip")[0].headers["etag"]

    answer, body = get(api, finished, "gzip", Range="bytes=5-99", **{"If-Range": etag})

    assert (answer.status_code, body) == (200, CONTENT)


def test_results_that_the_client_has_in_any_coding_are_not_sent_again(
    api: Api, finished: str
) -> None:
    for had, asked in product(Coding, Coding):
        etag = get(api, finished, had)[0].headers["etag"]

        answer, body = get(api, finished, asked, **{"If-None-Match": etag})

        assert (answer.status_code, body, answer.headers["etag"]) == (304, b"", etag)
        assert answer.headers["vary"] == "Accept-Encoding"


def test_a_client_that_takes_nothing_that_is_spoken_here_is_told_so(
    api: Api, finished: str
) -> None:
    answer = api.http.get(finished, headers={"Accept-Encoding": "br, identity;q=0"})

    assert "zstd, gzip, identity" in problem(answer, 406)["detail"]


def test_an_accept_encoding_header_may_come_in_pieces(api: Api, finished: str) -> None:
    pieces = [("Accept-Encoding", "br"), ("Accept-Encoding", "gzip")]

    with api.http.stream("GET", finished, headers=pieces) as answer:
        assert answer.headers["content-encoding"] == "gzip"


def test_storage_that_does_not_work_is_said_before_anything_is_sent(
    api: Api, finished: str
) -> None:
    api.harness.run("UPDATE haulier.segments SET blob = 'gone' WHERE position = 0")

    answer = api.http.get(finished, headers={"Accept-Encoding": "zstd"})

    assert problem(answer, 503)["type"] == "urn:haulier:problem:storage-unavailable"


@pytest.mark.parametrize(
    ("header", "codings"),
    [
        ("", "identity"),
        ("identity", "identity"),
        ("gzip", "gzip identity"),
        ("x-gzip", "gzip identity"),
        ("gzip, deflate, br, zstd", "zstd gzip identity"),
        ("GZIP ; Q=0.5 , zstd;q=0.4", "gzip zstd identity"),
        ("gzip;q=0.001", "gzip identity"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0.5, identity", "identity gzip"),
        ("gzip, identity;q=0", "gzip"),
        ("identity;q=0", ""),
        ("br", "identity"),
        ("br, *;q=0", ""),
        ("*", "zstd gzip identity"),
        ("*;q=0.1, gzip", "gzip zstd identity"),
        ("zstd;q=0, *", "gzip identity"),
        ("gzip, *;q=0", "gzip"),
        ("identity;q=0.1, *;q=0", "identity"),
        ("gzip;q=much, zstd;q=nan", "identity"),
        (",, ;, =", "identity"),
    ],
)
def test_an_accept_encoding_header_means_codings_in_an_order(header: str, codings: str) -> None:
    assert " ".join(acceptable(header)) == codings


@pytest.mark.parametrize("coding", list(Coding))
def test_results_are_compressed_while_they_come(coding: Coding) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield CONTENT[:1_000_000]

    assert len(list(islice(compressed(endless(), coding), 10))) == 10
    assert taken < 50
