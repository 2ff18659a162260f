"""Pages: small specs in one blob, each of them exactly as if it stood alone."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from config.settings import Settings
from service.payloads.blobs import STORAGE_ERRORS, Blobs
from service.payloads.bundles import BUNDLE_BYTES, SMALL_BYTES, is_small, take_in_together
from service.payloads.duplicates import RUN, Hashes
from service.payloads.intake import Taken, take_in
from service.rules.errors import BadInput
from service.rules.permissions import Permissions
from service.rules.spec import Spec, read_spec, request_lines
from service.stages.upload import joined
from tests.factories import CHAT, chat_request, spec

SETTINGS = Settings(shard_requests=2)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "blobs").as_uri())


def stored(tmp_path: Path) -> list[str]:
    """The names of all blobs."""
    root = tmp_path / "blobs"
    return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())


def together(blobs: Blobs, specs: Sequence[Spec]) -> list[Taken | BadInput | None]:
    return take_in_together([(uuid4(), one) for one in specs], blobs, SETTINGS)


def uploads(blobs: Blobs, taken: Taken) -> list[bytes]:
    """What would be uploaded of each shard."""
    return [
        b"".join(
            block
            for offset, length in joined(blobs.get_manifest(shard.manifest))
            for block in blobs.stream(shard.input_blob, offset, length)
        )
        for shard in taken.shards
    ]


def mixed(name: str, **fields: object) -> Spec:
    """Requests of two models in turn, which makes several shards of each."""
    requests = [chat_request(f"{name}-{n}", model="mn"[n % 2]) for n in range(7)]
    content = {"endpoint": CHAT, "requests": requests, **fields}
    return read_spec(msgspec.json.encode(content), Permissions())


def padded(size: int) -> Spec:
    """A spec of one request with that many bytes of request lines."""
    bare = len(msgspec.json.encode(chat_request("a", pad="")))
    requests = [chat_request("a", pad="x" * (size - bare))]
    return read_spec(msgspec.json.encode({"endpoint": CHAT, "requests": requests}), Permissions())


def test_many_small_specs_are_one_blob(blobs: Blobs, tmp_path: Path) -> None:
    taken = together(blobs, [spec(f"a{n}", f"b{n}") for n in range(50)])

    pages = {one.bundle_blob for one in taken if isinstance(one, Taken)}
    assert len(taken) == 50
    assert stored(tmp_path) == sorted(map(str, pages))
    assert len(pages) == 1


def test_each_spec_on_a_page_uploads_exactly_what_it_would_alone(blobs: Blobs) -> None:
    specs = [mixed("x"), spec("ö"), mixed("y", idempotency_key="k"), spec("z", idempotency_key="l")]

    for one, taken in zip(specs, together(blobs, specs), strict=True):
        alone = take_in(one, blobs, f"jobs/{uuid4()}", SETTINGS)
        assert isinstance(taken, Taken)
        assert isinstance(alone, Taken)
        assert uploads(blobs, taken) == uploads(blobs, alone)
        assert (taken.total, taken.sha256) == (alone.total, alone.sha256)
        for shard, twin in zip(taken.shards, alone.shards, strict=True):
            assert (shard.model, shard.requests, shard.bytes) == (
                twin.model,
                twin.requests,
                twin.bytes,
            )
            assert [
                (entry.custom_id, entry.ordinal) for entry in blobs.get_manifest(shard.manifest)
            ] == [(entry.custom_id, entry.ordinal) for entry in blobs.get_manifest(twin.manifest)]


def test_a_bad_spec_costs_the_others_nothing_and_leaves_nothing(blobs: Blobs) -> None:
    specs = [spec(f"a{n}") for n in range(50)]
    specs[20] = spec("twice", "twice")

    taken = together(blobs, specs)

    bad = taken.pop(20)
    assert isinstance(bad, BadInput)
    assert [problem.line for problem in bad.problems] == [2]
    good = [one for one in taken if isinstance(one, Taken)]
    assert [uploads(blobs, one) for one in good] == [
        [line + b"\n" for line in request_lines(one)] for n, one in enumerate(specs) if n != 20
    ]
    assert b"twice" not in blobs.get(good[0].bundle_blob or "")


def test_a_page_of_bad_specs_alone_is_no_blob(blobs: Blobs, tmp_path: Path) -> None:
    assert isinstance(together(blobs, [spec("a", "a")])[0], BadInput)
    assert stored(tmp_path) == []


def test_a_spec_beyond_the_size_goes_its_own_way(blobs: Blobs) -> None:
    small, big = together(blobs, [padded(SMALL_BYTES), padded(SMALL_BYTES + 1)])

    assert isinstance(small, Taken)
    assert isinstance(big, Taken)
    assert small.bundle_blob == small.shards[0].input_blob
    assert big.bundle_blob is None
    assert big.shards[0].input_blob.startswith("jobs/")


def test_a_spec_with_an_input_is_still_to_be_read(blobs: Blobs, tmp_path: Path) -> None:
    unread = Spec(endpoint=CHAT, input="file:///a")

    assert is_small(unread)
    assert together(blobs, [unread]) == [None]
    assert stored(tmp_path) == []


def test_a_full_page_is_followed_by_another(blobs: Blobs, tmp_path: Path) -> None:
    count = BUNDLE_BYTES // SMALL_BYTES + 10

    taken = together(blobs, [padded(SMALL_BYTES)] * count)

    pages = [one.bundle_blob for one in taken if isinstance(one, Taken)]
    assert len(set(pages)) == len(stored(tmp_path)) == 2
    assert pages == sorted(pages, key=pages.index)
    assert all(blobs.size(page or "") < BUNDLE_BYTES + 2 * SMALL_BYTES for page in set(pages))
    last = taken[-1]
    assert isinstance(last, Taken)
    assert len(uploads(blobs, last)[0]) == SMALL_BYTES + 1


def test_nothing_is_taken_in_where_storage_fails(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "blobs" / "pages").write_bytes(b"in the way")

    with pytest.raises((OSError, *STORAGE_ERRORS)):
        take_in_together([(UUID(int=1), spec("a"))], blobs, SETTINGS)


@pytest.fixture
def no_umask() -> Iterator[None]:
    umask = os.umask(0)
    yield
    os.umask(umask)


@pytest.mark.usefixtures("no_umask")
def test_payloads_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    blobs = Blobs((tmp_path / "a" / "blobs").as_uri())
    blobs.put("jobs/x/y/small", b"x")
    with blobs.writer("jobs/x/z/large") as writer:
        writer.write(b"x")
    hashes = Hashes(tmp_path / "a" / "scratch" / "here")
    hashes.add(map(str, range(RUN + 1)))
    hashes.close()
    assert (tmp_path / "a" / "scratch" / "here").is_dir()
    for path in (tmp_path / "a").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
