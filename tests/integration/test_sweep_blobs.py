"""Blobs that no row names go after a day; what is named, or may be named yet, stays."""

from datetime import UTC, datetime, timedelta
from itertools import chain
from uuid import uuid4

import msgspec
import pytest

from service.blobs import Blobs
from service.states import Stage
from service.store.submit import Submission, submit
from service.sweep import DAY, sweep
from service.work import Assembled, Segment
from tests.factories import final_lines, settlement, spec
from tests.retention import Attic

NOW = timedelta(0)


def _swept(attic: Attic) -> set[str]:
    """The names that a sweep takes away."""
    before = attic.names()
    number = sweep(attic.house.db, attic.blobs)
    gone = before - attic.names()
    assert number == len(gone)
    return gone


def test_blobs_of_a_job_that_does_not_exist_go_after_a_day(attic: Attic) -> None:
    prefix = f"jobs/{uuid4()}/{uuid4()}"
    old = {attic.blob(f"{prefix}/{name}") for name in ("input-0.jsonl", "shard-0.manifest")}
    young = attic.blob(f"jobs/{uuid4()}/{uuid4()}/input-0.jsonl", ago=DAY - timedelta(minutes=1))

    assert _swept(attic) == old

    assert attic.names() == {young}
    assert not (attic.folder / prefix).parent.exists()


def test_a_job_that_is_being_taken_in_keeps_its_first_blobs(attic: Attic) -> None:
    prefix = f"jobs/{uuid4()}/{uuid4()}"
    attic.blob(f"{prefix}/shard-0.manifest")
    attic.blob(f"{prefix}/shard-1.manifest", ago=NOW)

    assert _swept(attic) == set()


def test_the_half_written_blob_of_a_dead_writer_goes(attic: Attic) -> None:
    staged = attic.blob(f"jobs/{uuid4()}/input-0.jsonl")
    (attic.folder / staged).rename(attic.folder / f"{staged}#1")

    assert _swept(attic) == {f"{staged}#1"}


def test_an_accepted_job_keeps_what_its_plan_names(attic: Attic) -> None:
    job_id = attic.house.submitted(3, 4)
    planned = {
        "input_blob": attic.blob(f"jobs/{job_id}/a/input-0.jsonl"),
        "manifest_blob": f"{attic.blob(f'jobs/{job_id}/a/manifests')}@100+20",
    }
    attic.set_job(job_id, plan=msgspec.json.encode([{**planned, "requests": 7}]).decode())
    unnamed = attic.blob(f"jobs/{job_id}/b/input-0.jsonl")

    assert _swept(attic) == {unnamed}


def test_a_job_with_an_input_to_be_read_names_nothing_yet(attic: Attic) -> None:
    job_id = uuid4()
    submit(attic.house.db, [Submission(id=job_id, producer="default", spec=spec("a"))])
    unnamed = attic.blob(f"jobs/{job_id}/{uuid4()}/input-0.jsonl")

    assert _swept(attic) == {unnamed}


def test_a_job_keeps_what_its_batches_and_results_name(attic: Attic) -> None:
    batch_id = attic.house.ended()
    job_id = attic.house.batch(batch_id).job_id
    inside = f"jobs/{job_id}"
    attic.house.run(
        "UPDATE haulier.batches SET input_blob = :input, manifest_blob = :manifest",
        input=attic.blob(f"{inside}/a/input-0.jsonl"),
        manifest=f"{attic.blob(f'{inside}/a/shard-0.manifest')}@0+10",
    )
    lines = final_lines(attic.blobs, f"{inside}/{batch_id}/lease", [(0, b"{}")])
    attic.house.settle(batch_id, settlement(3, outcome=lines))
    merged = Segment(blob=f"{inside}/c.jsonl", index_blob=f"{inside}/c.index", bytes=1, requests=1)
    claim = attic.house.claim_job(job_id, Stage.ASSEMBLE)
    attic.house.apply(claim, Assembled((merged,)))
    for name in (lines.blob, lines.index_blob, merged.blob, merged.index_blob):
        attic.blob(name)
    assert len(attic.names()) == 6
    unnamed = attic.blob(f"{inside}/{batch_id}/stale.jsonl")

    assert _swept(attic) == {unnamed}


def test_a_page_stays_as_long_as_one_job_names_it(attic: Attic) -> None:
    page, other = f"pages/{uuid4()}", f"pages/{uuid4()}"
    young = f"pages/{uuid4()}"
    blobs = {attic.blob(f"{page}.jsonl"), attic.blob(f"{page}.manifests")}
    unnamed = {attic.blob(f"{other}.jsonl"), attic.blob(f"{other}-0/input.jsonl")}
    attic.blob(f"{young}.jsonl", ago=NOW)
    first, second = attic.finished(page_blob=page), attic.finished(page_blob=page)

    assert _swept(attic) >= unnamed
    for forgotten in (first, second):
        assert blobs <= attic.names()
        attic.house.run("DELETE FROM haulier.jobs WHERE id = :id", id=forgotten)
    assert _swept(attic) >= blobs

    assert attic.names() == {f"{young}.jsonl"}


@pytest.mark.parametrize("ending", [".jsonl", ".", "/"])
def test_a_page_may_be_named_by_any_beginning_of_its_blobs(attic: Attic, ending: str) -> None:
    page = f"pages/{uuid4()}"
    blob = attic.blob(f"{page}{ending}" if ending == ".jsonl" else f"{page}{ending}x")
    attic.finished(page_blob=f"{page}{ending}", ago=NOW)

    assert blob not in _swept(attic)


def test_what_is_not_named_as_we_name_is_left_alone(attic: Attic) -> None:
    strange = ["mine.txt", "jobs/readme", f"jobs/x{uuid4()}/a", f"jobs/{uuid4()}", "pages/a.jsonl"]
    for name in strange:
        attic.blob(name)

    assert _swept(attic) == set()


def test_more_blobs_than_a_page_of_the_listing_go(
    attic: Attic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.blobs.LIST_PAGE", 7)
    names = {attic.blob(f"jobs/{uuid4()}/{uuid4()}/{n}") for n in range(3) for _ in range(9)}

    assert _swept(attic) == names
    assert list(attic.folder.rglob("*")) == [attic.folder / "jobs"]


# --- an object store ------------------------------------------------------------------------------


@pytest.fixture
def bucket() -> Blobs:
    """What lies in a bucket has no folders; its listing and deleting is that of S3."""
    blobs = Blobs("memory:///")
    for n in range(5):
        blobs.put(f"jobs/{n % 2}/{n}", b"x")
    return blobs


def test_blobs_under_a_prefix_of_a_bucket_are_deleted(
    bucket: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.blobs.LIST_PAGE", 2)
    later = datetime.now(UTC) + timedelta(minutes=1)

    bucket.delete_under("jobs/0/", datetime.now(UTC) - timedelta(minutes=1))
    assert len([*bucket.older("jobs/", later)]) == 3

    bucket.delete_under("jobs/0/", later)
    assert sorted(chain.from_iterable(bucket.older("jobs/", later))) == ["jobs/1/1", "jobs/1/3"]
    assert bucket.holds_younger("jobs/1/", later - timedelta(minutes=2))
    bucket.delete(["jobs/1/1", "jobs/1/gone"])
    assert sorted(chain.from_iterable(bucket.older("jobs/", later))) == ["jobs/1/3"]


@pytest.mark.parametrize("prefix", ["", "/", "jobs"])
def test_only_a_folder_can_be_emptied(bucket: Blobs, prefix: str) -> None:
    with pytest.raises(ValueError, match="folder"):
        bucket.delete_under(prefix, datetime.now(UTC))
