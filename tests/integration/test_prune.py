"""Old finished jobs are forgotten, with their rows, blobs and files; nothing else is."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from service.errors import Conflict
from service.store import chores, leftovers
from service.store.cancel import cancel
from service.store.prune import forget
from service.store.revive import revive
from tests.retention import MONTH, OLD, Attic

TABLES = ("jobs", "batches", "events", "segments", "dead_letters", "deliveries", "leftovers")


def _deliver(attic: Attic, job_id: UUID, delivered: str, parked: str) -> None:
    attic.house.run(
        "INSERT INTO haulier.deliveries"
        " (id, job_id, event, target, endpoint, delivered_at, parked_at)"
        f" VALUES (:id, :job, 'job.completed', '{{}}', 'e', {delivered}, {parked})",
        id=uuid4(),
        job=job_id,
    )


def test_an_old_job_goes_with_its_rows_blobs_and_files(attic: Attic) -> None:
    job_id = attic.finished()
    _deliver(attic, job_id, "now()", "NULL")
    attic.house.run(
        "UPDATE haulier.batches SET spent_file_ids = to_jsonb(cast(:ids AS text[]))",
        ids=[attic.file()],
    )
    assert len(attic.files()) == 3

    assert attic.prune() == 1
    attic.discard()

    assert [t for t in TABLES if attic.house.rows(f"SELECT 1 FROM haulier.{t}")] == []
    assert attic.files() == set()
    assert list(attic.folder.rglob("*")) == [attic.folder / "jobs"]


def test_a_young_job_stays_whole(attic: Attic) -> None:
    attic.finished(ago=MONTH - timedelta(minutes=1))
    before = (attic.jobs(), attic.names(), attic.files())

    assert attic.prune() == 0
    attic.discard()

    assert (attic.jobs(), attic.names(), attic.files()) == before


def _unfinished(attic: Attic) -> UUID:
    return attic.house.job_of(attic.house.created()).id


def _undelivered(attic: Attic) -> UUID:
    job_id = attic.finished()
    _deliver(attic, job_id, "NULL", "NULL")
    return job_id


def _leased(attic: Attic) -> UUID:
    job_id = attic.finished()
    attic.house.run("UPDATE haulier.jobs SET lease = gen_random_uuid(), leased_until = now()")
    return job_id


def _batch_leased(attic: Attic) -> UUID:
    job_id = attic.finished()
    attic.house.run("UPDATE haulier.batches SET lease = gen_random_uuid(), leased_until = now()")
    return job_id


def _batch_open(attic: Attic) -> UUID:
    """What no code of ours brings about."""
    job_id = attic.finished()
    attic.house.run(
        "UPDATE haulier.batches SET state = 'ended', finished_at = NULL, succeeded = 0, dead = 0"
    )
    return job_id


def _watched(attic: Attic) -> UUID:
    """A batch may still turn up under a file that was given up."""
    job_id = attic.finished()
    attic.house.run(
        "UPDATE haulier.batches SET spent_file_ids = '[\"file-1\"]', finished_at = now()"
    )
    return job_id


@pytest.mark.parametrize(
    "kept", [_unfinished, _undelivered, _leased, _batch_leased, _batch_open, _watched]
)
def test_what_is_not_over_stays(attic: Attic, kept: Callable[[Attic], UUID]) -> None:
    job_id = kept(attic)
    blobs, files = attic.names(), attic.files()

    assert attic.prune() == 0
    attic.discard()

    assert attic.jobs() == {job_id}
    assert (attic.names(), attic.files()) == (blobs, files)


def test_a_delivery_that_was_given_up_keeps_nothing(attic: Attic) -> None:
    _deliver(attic, attic.finished(), "NULL", "now()")

    assert attic.prune() == 1


@pytest.mark.parametrize("state", ["cancelled", "rejected", "failed"])
def test_a_job_goes_however_it_ended(attic: Attic, state: str) -> None:
    attic.finished(error="no", state=state)

    assert attic.prune() == 1


def test_a_job_that_somebody_holds_is_passed_over(attic: Attic) -> None:
    held, _ = attic.finished(), attic.finished()

    with attic.house.db.begin() as session:
        session.connection().exec_driver_sql(
            f"SELECT 1 FROM haulier.jobs WHERE id = '{held}' FOR NO KEY UPDATE"
        )
        assert attic.prune() == 1

    assert attic.jobs() == {held}


def test_pages_go_oldest_first_and_a_big_job_goes_alone(attic: Attic) -> None:
    third = attic.finished()
    second = attic.finished(ago=OLD * 2)
    attic.finished(ago=OLD * 3)
    attic.house.run(
        "UPDATE haulier.jobs SET failed = 2000000, total = 2000002 WHERE id NOT IN (:a, :b)",
        a=second,
        b=third,
    )
    fourth = attic.finished()
    left = []

    while forget(attic.house.db, older_than=MONTH, limit=2):
        left.append(attic.jobs())

    assert left == [{second, third, fourth}, {fourth}, set()]


def test_a_job_that_was_forgotten_can_be_neither_retried_nor_cancelled(attic: Attic) -> None:
    job_id = attic.finished()
    attic.prune()

    with pytest.raises(Conflict, match="forgotten"):
        revive(attic.house.db, job_id, [])
    with pytest.raises(Conflict, match="forgotten"):
        cancel(attic.house.db, job_id)


# --- what is left ---------------------------------------------------------------------------------


def test_a_crash_after_the_rows_are_gone_loses_nothing(attic: Attic) -> None:
    attic.finished()
    blobs, files = attic.names(), attic.files()

    forget(attic.house.db, older_than=MONTH, limit=10)

    assert attic.jobs() == set()
    assert (attic.names(), attic.files()) == (blobs, files)
    assert attic.leftovers() == 3
    attic.discard()
    assert (attic.names(), attic.files(), attic.leftovers()) == (set(), set(), 0)


def test_what_is_gone_already_is_no_trouble(attic: Attic) -> None:
    attic.finished()
    attic.prune()
    for file_id in attic.files():
        attic.together.delete_file(file_id)
    attic.blobs.delete(sorted(attic.names()))

    attic.discard()

    assert attic.leftovers() == 0


def test_while_together_is_in_trouble_its_files_are_kept_in_mind(attic: Attic) -> None:
    attic.finished()
    attic.prune()
    attic.simulator.fault("delete", "status", status=503, times=2)

    attic.discard()
    assert attic.leftovers() == 2
    assert attic.names() == set()

    attic.house.run("UPDATE haulier.leftovers SET not_before = now()")
    attic.discard()
    assert len(attic.files()) == 2
    assert attic.house.rows("SELECT sum(failures) FROM haulier.leftovers") == [2]

    attic.house.run("UPDATE haulier.leftovers SET not_before = now()")
    attic.discard()
    assert (attic.files(), attic.leftovers()) == (set(), 0)


def test_a_file_that_together_refuses_to_delete_is_given_up(attic: Attic) -> None:
    attic.finished()
    attic.prune()
    attic.simulator.fault("delete", "status", status=400)

    attic.discard()

    assert (len(attic.files()), attic.leftovers()) == (1, 0)


def test_what_one_claims_no_other_gets_until_the_claim_is_over(attic: Attic) -> None:
    attic.finished()
    attic.prune()
    minute = timedelta(minutes=1)

    first = leftovers.claim(attic.house.db, "default", limit=1, claim_for=timedelta(0))
    second = leftovers.claim(attic.house.db, "default", limit=9, claim_for=minute)
    third = leftovers.claim(attic.house.db, "default", limit=9, claim_for=minute)

    assert (len(first), len(second), third) == (1, 2, [])


def test_accounts_with_something_due_are_known_and_paused_ones_wait(attic: Attic) -> None:
    attic.finished()
    attic.house.run("UPDATE haulier.batches SET account = 'other'")
    attic.finished()
    accounts = ["default", "other", "third"]
    assert leftovers.owners(attic.house.db, accounts) == []

    attic.prune()
    attic.house.run("INSERT INTO haulier.accounts VALUES ('other', now() + interval '1 hour')")

    assert leftovers.owners(attic.house.db, accounts) == [None, "default"]
    assert leftovers.owners(attic.house.db, ["third"]) == [None]


def test_a_new_job_under_a_forgotten_id_keeps_its_blobs(attic: Attic) -> None:
    job_id = attic.finished()
    attic.prune()
    new = attic.blob(f"jobs/{job_id}/new.jsonl", ago=timedelta(0))

    attic.discard()

    assert attic.names() == {new}


# --- now and then ---------------------------------------------------------------------------------


def test_a_chore_is_done_once_in_its_time_however_many_ask(attic: Attic) -> None:
    hour = timedelta(hours=1)

    def ask(_number: int) -> bool:
        return chores.begin(attic.house.db, "prune", every=hour)

    def later() -> None:
        attic.house.run("UPDATE haulier.chores SET begun_at = begun_at - interval '61 min'")

    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(ask, range(8)))
        later()
        assert sorted(pool.map(ask, range(8))) == [False] * 7 + [True]
    assert not ask(9)
    later()
    assert ask(10)


def test_a_chore_begins_anew_where_nobody_has_asked_for_long(attic: Attic) -> None:
    def ask() -> bool:
        return chores.begin(attic.house.db, "sweep_blobs", every=timedelta(days=1))

    assert not ask()
    # As in a backup from two days ago.
    attic.house.run(
        "UPDATE haulier.chores SET begun_at = now() - interval '50 h',"
        " seen_at = now() - interval '48 h'"
    )
    assert not ask()
    assert not ask()
    attic.house.run("UPDATE haulier.chores SET begun_at = now() - interval '25 h'")
    assert ask()
