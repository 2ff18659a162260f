"""Old finished jobs are forgotten, with their rows, blobs and files; nothing else is."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from service.rules.errors import Conflict
from service.store import chores, leftovers
from service.store.cancel import cancel
from service.store.prune import prune_jobs
from service.store.revive import revive
from tests.retention import MONTH, OLD, OldJobs

TABLES = ("jobs", "batches", "events", "segments", "dead_letters", "deliveries", "leftovers")


def _deliver(old_jobs: OldJobs, job_id: UUID, delivered: str, parked: str) -> None:
    old_jobs.harness.run(
        "INSERT INTO haulier.deliveries"
        " (id, job_id, event, target, endpoint, delivered_at, parked_at)"
        f" VALUES (:id, :job, 'job.completed', '{{}}', 'e', {delivered}, {parked})",
        id=uuid4(),
        job=job_id,
    )


def test_an_old_job_goes_with_its_rows_blobs_and_files(old_jobs: OldJobs) -> None:
    job_id = old_jobs.finished()
    _deliver(old_jobs, job_id, "now()", "NULL")
    old_jobs.harness.run(
        "UPDATE haulier.batches SET spent_file_ids = to_jsonb(cast(:ids AS text[]))",
        ids=[old_jobs.file()],
    )
    assert len(old_jobs.files()) == 3

    assert old_jobs.prune() == 1
    old_jobs.discard()

    assert [t for t in TABLES if old_jobs.harness.rows(f"SELECT 1 FROM haulier.{t}")] == []
    assert old_jobs.files() == set()
    left = {path.name for path in old_jobs.folder.rglob("*")}
    assert left <= {"jobs", "batches"}


def test_a_young_job_stays_whole(old_jobs: OldJobs) -> None:
    old_jobs.finished(ago=MONTH - timedelta(minutes=1))
    before = (old_jobs.jobs(), old_jobs.names(), old_jobs.files())

    assert old_jobs.prune() == 0
    old_jobs.discard()

    assert (old_jobs.jobs(), old_jobs.names(), old_jobs.files()) == before


def _unfinished(old_jobs: OldJobs) -> UUID:
    return old_jobs.harness.job_of(old_jobs.harness.created()).id


def _undelivered(old_jobs: OldJobs) -> UUID:
    job_id = old_jobs.finished()
    _deliver(old_jobs, job_id, "NULL", "NULL")
    return job_id


def _leased(old_jobs: OldJobs) -> UUID:
    job_id = old_jobs.finished()
    old_jobs.harness.run("UPDATE haulier.jobs SET lease = gen_random_uuid(), leased_until = now()")
    return job_id


def _batch_leased(old_jobs: OldJobs) -> UUID:
    job_id = old_jobs.finished()
    old_jobs.harness.run(
        "UPDATE haulier.batches SET lease = gen_random_uuid(), leased_until = now()"
    )
    return job_id


def _batch_open(old_jobs: OldJobs) -> UUID:
    """What no code of ours brings about."""
    job_id = old_jobs.finished()
    old_jobs.harness.run(
        "UPDATE haulier.batches SET state = 'ended', finished_at = NULL, succeeded = 0, dead = 0"
    )
    return job_id


def _watched(old_jobs: OldJobs) -> UUID:
    """A batch may still turn up under a file that was given up."""
    job_id = old_jobs.finished()
    old_jobs.harness.run(
        "UPDATE haulier.batches SET spent_file_ids = '[\"file-1\"]', finished_at = now()"
    )
    return job_id


@pytest.mark.parametrize(
    "kept", [_unfinished, _undelivered, _leased, _batch_leased, _batch_open, _watched]
)
def test_what_is_not_over_stays(old_jobs: OldJobs, kept: Callable[[OldJobs], UUID]) -> None:
    job_id = kept(old_jobs)
    blobs, files = old_jobs.names(), old_jobs.files()

    assert old_jobs.prune() == 0
    old_jobs.discard()

    assert old_jobs.jobs() == {job_id}
    assert (old_jobs.names(), old_jobs.files()) == (blobs, files)


def test_a_delivery_that_was_given_up_keeps_nothing(old_jobs: OldJobs) -> None:
    _deliver(old_jobs, old_jobs.finished(), "NULL", "now()")

    assert old_jobs.prune() == 1


@pytest.mark.parametrize("state", ["cancelled", "rejected", "failed"])
def test_a_job_goes_however_it_ended(old_jobs: OldJobs, state: str) -> None:
    old_jobs.finished(error="no", state=state)

    assert old_jobs.prune() == 1


def test_a_job_that_somebody_holds_is_passed_over(old_jobs: OldJobs) -> None:
    held, _ = old_jobs.finished(), old_jobs.finished()

    with old_jobs.harness.db.begin() as session:
        session.connection().exec_driver_sql(
            f"SELECT 1 FROM haulier.jobs WHERE id = '{held}' FOR NO KEY UPDATE"
        )
        assert old_jobs.prune() == 1

    assert old_jobs.jobs() == {held}


def test_pages_go_oldest_first_and_a_big_job_goes_alone(old_jobs: OldJobs) -> None:
    third = old_jobs.finished()
    second = old_jobs.finished(ago=OLD * 2)
    old_jobs.finished(ago=OLD * 3)
    old_jobs.harness.run(
        "UPDATE haulier.jobs SET failed = 2000000, total = 2000002 WHERE id NOT IN (:a, :b)",
        a=second,
        b=third,
    )
    fourth = old_jobs.finished()
    left = []

    while prune_jobs(old_jobs.harness.db, older_than=MONTH, limit=2):
        left.append(old_jobs.jobs())

    assert left == [{second, third, fourth}, {fourth}, set()]


def test_a_job_that_was_forgotten_can_be_neither_retried_nor_cancelled(old_jobs: OldJobs) -> None:
    job_id = old_jobs.finished()
    old_jobs.prune()

    with pytest.raises(Conflict, match="forgotten"):
        revive(old_jobs.harness.db, job_id, [])
    with pytest.raises(Conflict, match="forgotten"):
        cancel(old_jobs.harness.db, job_id)


# --- what is left ---------------------------------------------------------------------------------


def test_a_crash_after_the_rows_are_gone_loses_nothing(old_jobs: OldJobs) -> None:
    old_jobs.finished()
    blobs, files = old_jobs.names(), old_jobs.files()

    prune_jobs(old_jobs.harness.db, older_than=MONTH, limit=10)

    assert old_jobs.jobs() == set()
    assert (old_jobs.names(), old_jobs.files()) == (blobs, files)
    assert old_jobs.leftovers() == 4
    old_jobs.discard()
    assert (old_jobs.names(), old_jobs.files(), old_jobs.leftovers()) == (set(), set(), 0)


def test_what_is_gone_already_is_no_trouble(old_jobs: OldJobs) -> None:
    old_jobs.finished()
    old_jobs.prune()
    for file_id in old_jobs.files():
        old_jobs.together.delete_file(file_id)
    old_jobs.blobs.delete(sorted(old_jobs.names()))

    old_jobs.discard()

    assert old_jobs.leftovers() == 0


def test_while_together_is_in_trouble_its_files_are_kept_in_mind(old_jobs: OldJobs) -> None:
    old_jobs.finished()
    old_jobs.prune()
    old_jobs.simulator.fault("delete", "status", status=503, times=2)

    old_jobs.discard()
    assert old_jobs.leftovers() == 2
    assert old_jobs.names() == set()

    old_jobs.harness.run("UPDATE haulier.leftovers SET not_before = now()")
    old_jobs.discard()
    assert len(old_jobs.files()) == 2
    assert old_jobs.harness.rows("SELECT sum(failures) FROM haulier.leftovers") == [2]

    old_jobs.harness.run("UPDATE haulier.leftovers SET not_before = now()")
    old_jobs.discard()
    assert (old_jobs.files(), old_jobs.leftovers()) == (set(), 0)


def test_a_file_that_together_refuses_to_delete_is_given_up(old_jobs: OldJobs) -> None:
    old_jobs.finished()
    old_jobs.prune()
    old_jobs.simulator.fault("delete", "status", status=400)

    old_jobs.discard()

    assert (len(old_jobs.files()), old_jobs.leftovers()) == (1, 0)


def test_what_one_claims_no_other_gets_until_the_claim_is_over(old_jobs: OldJobs) -> None:
    old_jobs.finished()
    old_jobs.prune()
    minute = timedelta(minutes=1)

    first = leftovers.claim(old_jobs.harness.db, "default", limit=1, claim_for=timedelta(0))
    second = leftovers.claim(old_jobs.harness.db, "default", limit=9, claim_for=minute)
    third = leftovers.claim(old_jobs.harness.db, "default", limit=9, claim_for=minute)

    assert (len(first), len(second), third) == (1, 2, [])


def test_accounts_with_something_due_are_known_and_paused_ones_wait(old_jobs: OldJobs) -> None:
    old_jobs.finished()
    old_jobs.harness.run("UPDATE haulier.batches SET account = 'other'")
    old_jobs.finished()
    accounts = ["default", "other", "third"]
    assert leftovers.owners(old_jobs.harness.db, accounts) == []

    old_jobs.prune()
    old_jobs.harness.run("INSERT INTO haulier.accounts VALUES ('other', now() + interval '1 hour')")

    assert leftovers.owners(old_jobs.harness.db, accounts) == [None, "default"]
    assert leftovers.owners(old_jobs.harness.db, ["third"]) == [None]


def test_a_new_job_under_a_forgotten_id_keeps_its_blobs(old_jobs: OldJobs) -> None:
    job_id = old_jobs.finished()
    old_jobs.prune()
    new = old_jobs.blob(f"jobs/{job_id}/new.jsonl", ago=timedelta(0))

    old_jobs.discard()

    assert old_jobs.names() == {new}


# --- now and then ---------------------------------------------------------------------------------


def test_a_chore_is_done_once_in_its_time_however_many_ask(old_jobs: OldJobs) -> None:
    hour = timedelta(hours=1)

    def ask(_number: int) -> bool:
        return chores.begin(old_jobs.harness.db, "prune", every=hour)

    def later() -> None:
        old_jobs.harness.run("UPDATE haulier.chores SET begun_at = begun_at - interval '61 min'")

    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(ask, range(8)))
        later()
        assert sorted(pool.map(ask, range(8))) == [False] * 7 + [True]
    assert not ask(9)
    later()
    assert ask(10)


def test_a_chore_begins_anew_where_nobody_has_asked_for_long(old_jobs: OldJobs) -> None:
    def ask() -> bool:
        return chores.begin(old_jobs.harness.db, "sweep_blobs", every=timedelta(days=1))

    assert not ask()
    # As in a backup from two days ago.
    old_jobs.harness.run(
        "UPDATE haulier.chores SET begun_at = now() - interval '50 h',"
        " seen_at = now() - interval '48 h'"
    )
    assert not ask()
    assert not ask()
    old_jobs.harness.run("UPDATE haulier.chores SET begun_at = now() - interval '25 h'")
    assert ask()
