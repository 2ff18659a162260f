"""Blobs that no row names go after a day; what is named, or may be named yet, stays."""

from datetime import UTC, datetime, timedelta
from itertools import chain
from uuid import uuid4

import pytest

from service.payloads.blobs import Blobs
from service.rules.errors import HandedBack
from service.rules.outcomes import Assembled, Settle
from service.rules.states import BatchState, Stage
from service.rules.work import FinalLines, Segment
from service.store import chores
from service.store.parts import parts_of
from service.store.submit import Submission
from service.upkeep.sweep import DAY, sweep
from tests.factories import (
    final_lines,
    mingled,
    settlement,
    spec,
    submit,
)
from tests.retention import OldJobs

NOW = timedelta(0)


def _swept(old_jobs: OldJobs) -> set[str]:
    """The names that a sweep takes away."""
    before = old_jobs.names()
    number = sweep(old_jobs.harness.db, old_jobs.blobs)
    gone = before - old_jobs.names()
    assert number == len(gone)
    return gone


def test_blobs_of_a_job_that_does_not_exist_go_after_a_day(old_jobs: OldJobs) -> None:
    prefix = f"jobs/{uuid4()}/{uuid4()}"
    old = {old_jobs.blob(f"{prefix}/{name}") for name in ("input-0.jsonl", "shard-0.manifest")}
    young = old_jobs.blob(f"jobs/{uuid4()}/{uuid4()}/input-0.jsonl", ago=DAY - timedelta(minutes=1))

    assert _swept(old_jobs) == old

    assert old_jobs.names() == {young}
    assert not (old_jobs.folder / prefix).parent.exists()


def test_a_job_that_is_being_taken_in_keeps_its_first_blobs(old_jobs: OldJobs) -> None:
    prefix = f"jobs/{uuid4()}/{uuid4()}"
    old_jobs.blob(f"{prefix}/shard-0.manifest")
    old_jobs.blob(f"{prefix}/shard-1.manifest", ago=NOW)

    assert _swept(old_jobs) == set()


def test_the_half_written_blob_of_a_dead_writer_goes(old_jobs: OldJobs) -> None:
    staged = old_jobs.blob(f"jobs/{uuid4()}/input-0.jsonl")
    (old_jobs.folder / staged).rename(old_jobs.folder / f"{staged}#1")

    assert _swept(old_jobs) == {f"{staged}#1"}


def test_a_waiting_job_keeps_what_its_parts_name(old_jobs: OldJobs) -> None:
    job_id = old_jobs.harness.submitted(3)
    old_jobs.harness.run(
        "UPDATE haulier.parts SET input_blob = :input, manifest_blob = :manifest",
        input=old_jobs.blob(f"jobs/{job_id}/a/input-0.jsonl"),
        manifest=f"{old_jobs.blob(f'jobs/{job_id}/a/manifests')}@100+20",
    )
    unnamed = old_jobs.blob(f"jobs/{job_id}/b/input-0.jsonl")

    assert _swept(old_jobs) == {unnamed}


def test_a_job_with_an_input_to_be_read_names_nothing_yet(old_jobs: OldJobs) -> None:
    job_id = uuid4()
    submit(old_jobs.harness.db, [Submission(id=job_id, producer="default", spec=spec("a"))])
    unnamed = old_jobs.blob(f"jobs/{job_id}/{uuid4()}/input-0.jsonl")

    assert _swept(old_jobs) == {unnamed}


def test_a_job_keeps_what_its_batches_and_results_name(old_jobs: OldJobs) -> None:
    batch_id, other = old_jobs.harness.split(3, 3)
    job_id = old_jobs.harness.part(batch_id).job_id
    inside = f"jobs/{job_id}"
    old_jobs.harness.run(
        "UPDATE haulier.parts SET input_blob = :input, manifest_blob = :manifest",
        input=old_jobs.blob(f"{inside}/a/input-0.jsonl"),
        manifest=f"{old_jobs.blob(f'{inside}/a/shard-0.manifest')}@0+10",
    )
    lines = final_lines(old_jobs.blobs, f"batches/{batch_id}/lease", [(0, b"{}")])
    old_jobs.harness.settle(batch_id, settlement(3, final_lines=lines))
    old_jobs.harness.settle(other, settlement(3, final_lines=mingled()))
    merged = Segment(blob=f"{inside}/c.jsonl", index_blob=f"{inside}/c.index", bytes=1, requests=1)
    claim = old_jobs.harness.claim_job(job_id, Stage.ASSEMBLE)
    old_jobs.harness.apply(claim, Assembled((merged,)))
    for name in (lines.blob, lines.index_blob, merged.blob, merged.index_blob):
        old_jobs.blob(name)
    assert len(old_jobs.names()) == 6
    unnamed = old_jobs.blob(f"{inside}/{batch_id}/stale.jsonl")
    stale = old_jobs.blob(f"batches/{batch_id}/stale.jsonl")
    nobodys = old_jobs.blob(f"batches/{uuid4()}/lease.jsonl")

    assert _swept(old_jobs) == {unnamed, stale, nobodys}


def test_a_shared_batch_keeps_what_the_jobs_in_it_name(old_jobs: OldJobs) -> None:
    harness = old_jobs.harness
    batch_id, jobs = harness.share(1, 1)
    blob, index = (old_jobs.blob(f"batches/{batch_id}/lease.{end}") for end in ("jsonl", "index"))
    harness.advance(batch_id, BatchState.ENDED)
    harness.due_now(batch_id)
    claim = harness.claim(batch_id, Stage.FETCH)
    done = tuple(
        settlement(
            1,
            part=part.id,
            job_id=part.job_id,
            final_lines=FinalLines(
                blob=f"{blob}@{n}+1",
                index_blob=f"{index}@{n}+1",
                first_ordinal=0,
                last_ordinal=0,
                bytes=1,
                requests=1,
            ),
        )
        for n, part in enumerate(parts_of(harness.db, claim))
    )
    harness.apply(claim, Settle(BatchState.SETTLED, done))
    assert _swept(old_jobs) == set()
    harness.run("DELETE FROM haulier.jobs WHERE id = :id", id=jobs[0])
    assert _swept(old_jobs) == set()
    harness.run("DELETE FROM haulier.jobs WHERE id = :id", id=jobs[1])
    assert _swept(old_jobs) == {blob, index}


def test_a_page_stays_as_long_as_one_job_names_it(old_jobs: OldJobs) -> None:
    page, other = f"pages/{uuid4()}", f"pages/{uuid4()}"
    young = f"pages/{uuid4()}"
    blobs = {old_jobs.blob(f"{page}.jsonl"), old_jobs.blob(f"{page}.manifests")}
    unnamed = {old_jobs.blob(f"{other}.jsonl"), old_jobs.blob(f"{other}-0/input.jsonl")}
    old_jobs.blob(f"{young}.jsonl", ago=NOW)
    first, second = old_jobs.finished(page_blob=page), old_jobs.finished(page_blob=page)

    assert _swept(old_jobs) >= unnamed
    for forgotten in (first, second):
        assert blobs <= old_jobs.names()
        old_jobs.harness.run("DELETE FROM haulier.jobs WHERE id = :id", id=forgotten)
    assert _swept(old_jobs) >= blobs

    assert old_jobs.names() == {f"{young}.jsonl"}


@pytest.mark.parametrize("ending", [".jsonl", ".", "/"])
def test_a_page_may_be_named_by_any_beginning_of_its_blobs(old_jobs: OldJobs, ending: str) -> None:
    page = f"pages/{uuid4()}"
    blob = old_jobs.blob(f"{page}{ending}" if ending == ".jsonl" else f"{page}{ending}x")
    old_jobs.finished(page_blob=f"{page}{ending}", ago=NOW)

    assert blob not in _swept(old_jobs)


def test_what_is_not_named_as_we_name_is_left_alone(old_jobs: OldJobs) -> None:
    strange = ["mine.txt", "jobs/readme", f"jobs/x{uuid4()}/a", f"jobs/{uuid4()}", "pages/a.jsonl"]
    for name in strange:
        old_jobs.blob(name)

    assert _swept(old_jobs) == set()


def test_more_blobs_than_a_page_of_the_listing_go(
    old_jobs: OldJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.payloads.blobs.LIST_PAGE", 7)
    names = {old_jobs.blob(f"jobs/{uuid4()}/{uuid4()}/{n}") for n in range(3) for _ in range(9)}

    assert _swept(old_jobs) == names
    assert list(old_jobs.folder.rglob("*")) == [old_jobs.folder / "jobs"]


# --- an object store ------------------------------------------------------------------------------


@pytest.fixture
def bucket() -> Blobs:
    """What lies in a bucket has no folders; its listing and deleting is that of S3."""
    blobs = Blobs("memory:///")
    blobs._target = blobs._store  # each opening of it is a memory of its own
    for n in range(5):
        blobs.put(f"jobs/{n % 2}/{n}", b"x")
    return blobs


def test_blobs_under_a_prefix_of_a_bucket_are_deleted(
    bucket: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.payloads.blobs.LIST_PAGE", 2)
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


def test_a_sweep_that_is_to_stop_stops_and_is_due_again(old_jobs: OldJobs) -> None:
    blob = old_jobs.blob(f"jobs/{uuid4()}/{uuid4()}/input-0.jsonl")
    with pytest.raises(HandedBack):
        sweep(old_jobs.harness.db, old_jobs.blobs, stopping=lambda: True)
    assert blob in old_jobs.names()

    db = old_jobs.harness.db
    chores.begin(db, "sweep_blobs", every=DAY)
    assert not chores.begin(db, "sweep_blobs", every=DAY)
    chores.give_back(db, "sweep_blobs", every=DAY)
    assert chores.begin(db, "sweep_blobs", every=DAY)
