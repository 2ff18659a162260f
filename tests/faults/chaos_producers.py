"""The producers of a chaos run: they submit, repeat what they are not sure of, cancel and retry."""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import httpx
import msgspec
import psycopg
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from tests.api import TOKEN
from tests.faults.chaos_ledger import Asked, Ledger
from tests.faults.chaos_scenario import CHAT, requests

MOST_OPEN = 30
"""Jobs under way; more would only make the queue longer."""
SIZES = ((5, 8), (20, 3), (60, 2), (200, 1))
"""Requests of a job at most, and how often."""

PUBLISHING = {
    "socket_timeout": 3,
    "socket_connect_timeout": 2,
}


class Producers:
    """Threads that submit until they are told to stop, and then see to what is uncertain."""

    def __init__(
        self, api_url: str, redis_url: str, database_url: str, ledger: Ledger, seed: int
    ) -> None:
        self._api_url = api_url
        self._redis_url = redis_url
        self._database_url = database_url
        self._ledger = ledger
        self._seed = seed
        self._stop = threading.Event()
        self._give_up = threading.Event()
        self._celery = Celery("producer", broker=redis_url)
        self._celery.conf.update(
            broker_transport_options=PUBLISHING,
            task_publish_retry_policy={"max_retries": 0},
            broker_pool_acquire_timeout=5,
        )
        work: list[tuple[str, Callable[[random.Random], None]]] = [
            ("http", self._over_http),
            ("queue", self._over_the_queue),
            ("operator", self._operate),
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(name, one), name=name, daemon=True)
            for name, one in work
        ]
        self.failures: list[str] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """No new submissions. Waits until every one over HTTP has its answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout)
            if thread.is_alive():
                self.failures.append(f"the {thread.name} producer got no answer in {timeout} s")
        self._give_up.set()
        with suppress(Exception):  # its connections may be gone already
            self._celery.close()

    def _run(self, name: str, work: Callable[[random.Random], None]) -> None:
        luck = random.Random(f"{self._seed} {name}")
        while not self._stop.wait(luck.uniform(0.2, 1.2)):
            try:
                work(luck)
            except Exception as error:  # noqa: BLE001 - a producer's own bug must fail the run
                self.failures.append(f"{name}: {error!r}")
                return

    # --- over HTTP ------------------------------------------------------------------------------

    def _over_http(self, luck: random.Random) -> None:
        if self._open_jobs() >= MOST_OPEN:
            return
        key = f"h{luck.getrandbits(40):010x}"
        spec = _spec(luck, key)
        self._ledger.ask(Asked("http", key, _names(spec)))
        as_lines = luck.random() < 0.4
        with self._client() as http:
            self._until_answered(http, spec, key, as_lines=as_lines)
            if luck.random() < 0.15:
                # A producer that forgot that it had asked.
                self._ledger.repeats += 1
                self._until_answered(http, spec, key, as_lines=as_lines)

    def _until_answered(
        self, http: httpx.Client, spec: dict[str, Any], key: str, *, as_lines: bool
    ) -> None:
        """Repeat a submission for as long as nobody knows what became of it."""
        first = True
        while not self._give_up.is_set():
            if not first:
                self._ledger.repeats += 1
                self._give_up.wait(0.3)
            first = False
            try:
                answer = _post(http, spec, key, as_lines=as_lines)
            except httpx.TransportError:
                continue
            if answer.status_code in {200, 201}:
                job_id = UUID(answer.json()["id"])
                self._ledger.accept(key, job_id, new=answer.status_code == 201)
                return
            if answer.status_code < 500:
                self.failures.append(f"{key}: {answer.status_code} {answer.text}")
                return

    # --- over the queue -------------------------------------------------------------------------

    def _over_the_queue(self, luck: random.Random) -> None:
        if self._open_jobs() >= MOST_OPEN:
            return
        task_id = str(UUID(int=luck.getrandbits(128), version=4))
        spec = _spec(luck, task_id)
        if luck.random() < 0.15:
            self._poison(luck)
        if luck.random() < 0.15:
            spec["idempotency_key"] = task_id
        self._ledger.ask(Asked("queue", task_id, _names(spec)))
        if "idempotency_key" in spec:
            self._hold(spec)
        for _ in range(1 + (luck.random() < 0.2)):
            while not self._stop.is_set():
                try:
                    self._celery.send_task(
                        "haulier.submit",
                        kwargs={"spec": spec},
                        queue="haulier.submit",
                        task_id=task_id,
                    )
                    break
                except (OperationalError, OSError):
                    # It may have arrived or not: the same again, under the same id.
                    self._ledger.repeats += 1
                    self._stop.wait(0.3)

    def _poison(self, luck: random.Random) -> None:
        """Whoever can write to the broker can write anything."""
        raw = luck.choice(
            (b"", b"{", b"[]", b'{"headers": 7}', b"\xff", b'{"body": null}', b"[" * 9999)
        )
        with suppress(redis.RedisError), redis.Redis.from_url(self._redis_url) as broker:
            broker.lpush("haulier.submit", raw)
            self._ledger.poisoned += 1

    def _hold(self, spec: dict[str, Any]) -> None:
        """Another transaction holds the key of what is about to come, for a while."""

        def hold() -> None:
            with (
                suppress(psycopg.Error),
                psycopg.connect(self._database_url, connect_timeout=3) as connection,
            ):
                named = msgspec.json.encode(spec).decode()
                connection.execute("SELECT haulier.enqueue(%s::jsonb)", [named])
                self._ledger.held += 1
                self._stop.wait(2.0)
                connection.rollback()

        threading.Thread(target=hold, daemon=True).start()
        self._stop.wait(0.1)

    # --- operating ------------------------------------------------------------------------------

    def _operate(self, luck: random.Random) -> None:
        """Cancel a job that runs, retry one that has failures. Unsure ones are left at that."""
        cancelling = luck.random() < 0.5
        states = "('accepted', 'running')" if cancelling else "('completed', 'cancelled')"
        chosen = self._ask(
            f"SELECT id FROM haulier.jobs WHERE state IN {states}"
            f" AND {'cancel_requested_at IS NULL' if cancelling else 'failed > 0'} ORDER BY id"
        )
        if not chosen or luck.random() < 0.6:
            return
        job_id = luck.choice(chosen)
        with self._client() as http, suppress(httpx.TransportError):
            verb = "cancel" if cancelling else "retry"
            answer = http.post(f"/v1/jobs/{job_id}/{verb}")
            if answer.status_code < 300 and cancelling:
                self._ledger.cancels += 1
            elif answer.status_code < 300:
                self._ledger.retries += 1
            elif answer.status_code < 500 and answer.status_code != 409:
                self.failures.append(f"{verb} {job_id}: {answer.status_code} {answer.text}")

    def _open_jobs(self) -> int:
        open_ones = self._ask(
            "SELECT id FROM haulier.jobs WHERE state IN ('accepted', 'running') LIMIT 100"
        )
        return MOST_OPEN if open_ones is None else len(open_ones)

    def _ask(self, query: str) -> list[UUID] | None:
        """The ids that a query finds; None while Postgres is away."""
        try:
            with psycopg.connect(self._database_url, connect_timeout=3) as connection:
                return [row[0] for row in connection.execute(query.encode())]
        except psycopg.Error:
            return None

    def _client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self._api_url,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=15,
            trust_env=False,
        )


def _spec(luck: random.Random, key: str) -> dict[str, Any]:
    most = luck.choices([size for size, _ in SIZES], [often for _, often in SIZES])[0]
    count = luck.randint(1, most)
    return {
        "endpoint": CHAT,
        "requests": requests(luck, key[:13], count),
        "priority": luck.randrange(3),
    }


def _names(spec: dict[str, Any]) -> tuple[str, ...]:
    return tuple(request["custom_id"] for request in spec["requests"])


def _post(http: httpx.Client, spec: dict[str, Any], key: str, *, as_lines: bool) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    if not as_lines:
        return http.post("/v1/jobs", json=spec, headers=headers)
    lines = b"".join(msgspec.json.encode(request) + b"\n" for request in spec["requests"])
    return http.post(
        "/v1/jobs",
        params={"endpoint": spec["endpoint"], "priority": spec["priority"]},
        content=lines,
        headers={**headers, "Content-Type": "application/x-ndjson"},
    )
