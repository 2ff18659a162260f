"""Turns between producers: in the API's own accounts, and over HTTP."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg import sql

from config.settings import Settings
from service.api import turns
from service.api.gathering import PAGES, SHARE, Accepted, Gathering
from service.api.turns import ALONE, AT_ONCE, Turn, Turns
from service.payloads.blobs import Blobs
from service.store import engine
from service.store.submit import Submission
from tests.api import Api, chat
from tests.factories import Harness, spec


async def settled() -> None:
    """Let all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def asked(all_: Turns, *producers: str) -> tuple[list[Turn], list["asyncio.Task[None]"]]:
    """Calls of some producers, in this order, that want a turn."""
    calls = [all_.turn(producer) for producer in producers]
    tasks = [asyncio.create_task(call.take()) for call in calls]
    await settled()
    return calls, tasks


def test_a_producer_that_calls_alone_waits_for_nobody() -> None:
    async def alone() -> int:
        calls, tasks = await asked(Turns(), *["a"] * (ALONE + 5))
        done = sum(task.done() for task in tasks)
        for call in calls:
            call.leave()
        await asyncio.gather(*tasks)
        return done

    assert asyncio.run(alone()) == ALONE


def test_beside_others_a_producer_has_a_few_turns_and_its_calls_keep_their_order() -> None:
    async def beside() -> None:
        all_ = Turns()
        _, (other,) = await asked(all_, "b")
        calls, tasks = await asked(all_, *["a"] * (AT_ONCE + 3))
        assert other.done()
        assert [task.done() for task in tasks] == [True] * AT_ONCE + [False] * 3
        # Whoever leaves twice makes room for one.
        calls[0].leave()
        calls[0].leave()
        await settled()
        assert [task.done() for task in tasks] == [True] * (AT_ONCE + 1) + [False] * 2
        # Whoever is gone takes no turn with it.
        tasks[AT_ONCE + 1].cancel()
        calls[AT_ONCE].leave()
        await settled()
        assert tasks[-1].done()
        assert not tasks[-1].cancelled()
        calls[1].leave()
        _, (next_,) = await asked(all_, "a")
        assert next_.done()

    asyncio.run(beside())


def test_what_is_nearly_done_goes_before_what_just_came() -> None:
    async def nearly() -> None:
        all_ = Turns()
        await asked(all_, "b")
        calls, tasks = await asked(all_, *["a"] * (AT_ONCE + 2))
        first, second = calls[:2]
        first.leave()  # for its body, say
        second.leave()
        again = [asyncio.create_task(call.take()) for call in (first, second)]
        _, (new, newer) = await asked(all_, "a", "a")
        assert all(task.done() for task in tasks)
        assert not any(task.done() for task in (*again, new, newer))
        calls[2].leave()
        calls[3].leave()
        await settled()
        assert [task.done() for task in (*again, new, newer)] == [True, True, False, False]
        first.leave()
        await settled()
        assert [new.done(), newer.done()] == [True, False]
        newer.cancel()

    asyncio.run(nearly())


def test_who_had_much_lets_those_pass_that_had_little_but_not_for_ever() -> None:
    async def in_turn() -> None:
        all_ = Turns()
        (greedy, _), _ = await asked(all_, "greedy", "greedy")
        await asyncio.sleep(0.1)
        greedy.leave()
        (modest,), (taken,) = await asked(all_, "modest")
        assert taken.done()
        (again,), (waits,) = await asked(all_, "greedy")
        assert not waits.done()
        modest.leave()
        await settled()
        assert waits.done()
        again.leave()
        await asked(all_, "modest")
        # That one takes long: nobody waits for it for longer than `PATIENCE`.
        await asyncio.wait_for(all_.turn("greedy").take(), 30)

    asyncio.run(in_turn())


def test_a_call_that_waits_for_others_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONGEST", 0.05)

    async def waiting() -> None:
        all_ = Turns()
        await asked(all_, "b", *["a"] * AT_ONCE)
        await asyncio.wait_for(all_.turn("a").take(), 30)

    asyncio.run(waiting())


class HeldBlobs(Blobs):
    """Blob storage that hangs for the first page that is written."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.hangs, self.goes_on = threading.Event(), threading.Event()

    def put(self, name: str, data: bytes) -> None:
        if not self.hangs.is_set():
            self.hangs.set()
            assert self.goes_on.wait(30)
        super().put(name, data)


def test_nobody_waits_for_what_is_stored_for_another_producer(
    database_url: str, tmp_path: Path
) -> None:
    made = engine.create(database_url, pool_size=PAGES)
    harness = Harness(engine.database(made))
    blobs = HeldBlobs((tmp_path / "blobs").as_uri())

    def submission(producer: str) -> Submission:
        return Submission(id=uuid4(), producer=producer, spec=spec("a"))

    async def submit() -> None:
        gathering = Gathering(harness.db, blobs, Settings(), Turns())
        first = asyncio.create_task(gathering.submit(submission("greedy")))
        await asyncio.to_thread(blobs.hangs.wait, 30)
        more = [
            asyncio.create_task(gathering.submit(submission("greedy"))) for _ in range(3 * SHARE)
        ]
        try:
            stored = await asyncio.wait_for(gathering.submit(submission("modest")), 30)
            assert stored.new
            assert not first.done()
            assert not any(task.done() for task in more)
        finally:
            blobs.goes_on.set()
        answers = await asyncio.gather(first, *more)
        assert all(isinstance(answer, Accepted) for answer in answers)

    asyncio.run(submit())
    assert len(harness.rows("SELECT id FROM haulier.jobs")) == 2 + 3 * SHARE
    made.dispose()


def test_who_calls_without_end_begins_nothing_while_a_modest_one_is_stored(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 30.0)
    monkeypatch.setattr(turns, "LONGEST", 30.0)
    made = engine.create(database_url, pool_size=PAGES)
    blobs = HeldBlobs((tmp_path / "blobs").as_uri())

    async def submit() -> None:
        all_ = Turns()
        gathering = Gathering(engine.database(made), blobs, Settings(), all_)

        async def stored(producer: str) -> None:
            one = Submission(id=uuid4(), producer=producer, spec=spec("a"))
            assert (await gathering.submit(one)).new

        (greedy, _), _ = await asked(all_, "greedy", "greedy")
        await asyncio.sleep(0.1)
        greedy.leave()
        modest = asyncio.create_task(stored("modest"))
        await asyncio.to_thread(blobs.hangs.wait, 30)
        try:
            _, (next_,) = await asked(all_, "greedy")
            assert not next_.done()
            # What it called for before is stored: its page waits for no turn.
            await asyncio.wait_for(stored("greedy"), 30)
            assert not next_.done()
        finally:
            blobs.goes_on.set()
        await modest
        await asyncio.wait_for(next_, 30)

    asyncio.run(submit())
    made.dispose()


@contextmanager
def locked(database_url: str, job_ids: list[str]) -> Iterator[None]:
    """Hold the rows of jobs."""
    with psycopg.connect(database_url) as connection:
        held = sql.SQL("SELECT FROM haulier.jobs WHERE id = ANY({}::uuid[]) FOR UPDATE")
        connection.execute(held.format(sql.Literal(job_ids)))
        yield


def producer_of(api: Api, name: str) -> httpx.Client:
    token = api.http.post("/v1/producers", json={"name": name}).json()["token"]
    return httpx.Client(
        base_url=api.url,
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
        verify=False,
    )


def test_calls_that_hang_hold_up_neither_others_nor_their_own_producer(
    api: Api, database_url: str
) -> None:
    with producer_of(api, "hanging") as hanging, producer_of(api, "other") as other:
        jobs = [hanging.post("/v1/jobs", json=chat("a")).json()["id"] for _ in range(AT_ONCE + 2)]
        with ThreadPoolExecutor(len(jobs)) as pool:
            with locked(database_url, jobs):
                cancelled = [pool.submit(hanging.post, f"/v1/jobs/{job}/cancel") for job in jobs]
                for _ in range(3):
                    assert other.post("/v1/jobs", json=chat("a")).status_code == 201
                    assert hanging.get("/v1/jobs").status_code == 200
                assert not any(one.done() for one in cancelled)
            assert {one.result().status_code for one in cancelled} == {202}
