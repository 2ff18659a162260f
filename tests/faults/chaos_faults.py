"""The faults of a chaos run and when they come: a plan that depends on nothing but its seed."""

import heapq
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psycopg
import redis

from tests.eventually import eventually
from tests.faults.chaos_deployment import LEASE, Deployment
from tests.faults.chaos_ledger import Ledger
from tests.faults.chaos_scenario import LATE_READS, LIST_LAG, MODELS
from tests.faults.proxy import Proxy
from tests.simulator import KEY

Mend = Callable[[], None]

WORKERS = ("worker-1", "worker-2")
SCHEDULERS = ("scheduler-1", "scheduler-2")


@dataclass(frozen=True)
class Fault:
    """`strike` breaks something and gives what mends it after `lasting` seconds (from, to)."""

    kind: str
    weight: int
    lasting: tuple[float, float]
    strike: Callable[[Deployment, random.Random], Mend]

    @property
    def ends_processes(self) -> bool:
        return "killed" in self.kind or "SIGTERM" in self.kind


# --- processes ----------------------------------------------------------------------------------


def _kill(*names: str) -> Callable[[Deployment, random.Random], Mend]:
    def strike(deployment: Deployment, luck: random.Random) -> Mend:
        name = luck.choice(names)
        deployment.kill(name)
        return lambda: deployment.start(name)

    return strike


def _kill_all_workers(deployment: Deployment, _: random.Random) -> Mend:
    for name in WORKERS:
        deployment.kill(name)

    def mend() -> None:
        for name in WORKERS:
            deployment.start(name)

    return mend


def _deploy(deployment: Deployment, luck: random.Random) -> Mend:
    name = luck.choice((*WORKERS, *SCHEDULERS, "inbox", "api"))
    deployment.terminate(name)

    def mend() -> None:
        # One that is still at its last task ends by itself; the next round of faults starts it.
        deployment.start(name)

    return mend


def _kill_child(deployment: Deployment, luck: random.Random) -> Mend:
    pids = sorted(pid for name in WORKERS for pid in deployment.started(name))
    if pids:
        _send(luck.choice(pids), signal.SIGKILL)
    return _nothing


def _freeze(deployment: Deployment, luck: random.Random) -> Mend:
    """A process of a worker stands still for longer than its lease."""
    pids = sorted(pid for name in WORKERS for pid in deployment.started(name))
    if not pids:
        return _nothing
    pid = luck.choice(pids)
    _send(pid, signal.SIGSTOP)
    return lambda: _send(pid, signal.SIGCONT)


def _freeze_part(deployment: Deployment, luck: random.Random) -> Mend:
    running = deployment.parts[luck.choice((*SCHEDULERS, "inbox"))].running
    if running is None or not running.alive:
        return _nothing
    running.signal(signal.SIGSTOP)
    return lambda: running.signal(signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _nothing() -> None:
    pass


# --- servers ------------------------------------------------------------------------------------


def _flush(deployment: Deployment, _: random.Random) -> Mend:
    with suppress(redis.RedisError), redis.Redis.from_url(deployment.valkey.url) as client:
        client.flushall()
    return _nothing


def _kill_valkey(deployment: Deployment, _: random.Random) -> Mend:
    deployment.valkey.kill()
    return deployment.valkey.start


def _freeze_valkey(deployment: Deployment, _: random.Random) -> Mend:
    deployment.valkey.freeze()
    return deployment.valkey.thaw


def _restart_postgres(deployment: Deployment, _: random.Random) -> Mend:
    deployment.postgres.stop(signal.SIGQUIT)
    return deployment.postgres.start


def _read_only(deployment: Deployment, _: random.Random) -> Mend:
    """Postgres takes no writes, as a standby does until it is promoted."""
    if not _set_read_only(deployment, "on"):
        return _nothing

    def mend() -> None:
        # It is asked again until it is so: Postgres may be restarting.
        eventually(lambda: _set_read_only(deployment, "off"), 30)

    return mend


def _set_read_only(deployment: Deployment, value: str) -> bool:
    try:
        with psycopg.connect(deployment.database_url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            connection.execute("SELECT pg_reload_conf()")
    except psycopg.Error:
        return False
    return True


def _kill_simulator(deployment: Deployment, _: random.Random) -> Mend:
    with suppress(Exception):  # its log is only counted
        deployment.note_what_was_played()
    deployment.simulator.kill()

    def mend() -> None:
        deployment.simulator.start()
        deployment.bad_day()

    return mend


# --- connections --------------------------------------------------------------------------------


def _cut(deployment: Deployment, luck: random.Random) -> Mend:
    luck.choice(_proxies(deployment)).cut()
    return _nothing


def _blackhole(deployment: Deployment, luck: random.Random) -> Mend:
    proxy = luck.choice(_proxies(deployment))
    cut_after = luck.random() < 0.5
    proxy.stop_flow()

    def mend() -> None:
        if cut_after:
            proxy.cut()
        proxy.let_flow()

    return mend


def _refuse(deployment: Deployment, luck: random.Random) -> Mend:
    proxy = luck.choice(_proxies(deployment))
    proxy.refuse()
    return proxy.accept


def _proxies(deployment: Deployment) -> tuple[Proxy, Proxy, Proxy]:
    return deployment.to_postgres, deployment.to_valkey, deployment.to_together


# --- the provider -------------------------------------------------------------------------------


def _refuse_key(deployment: Deployment, luck: random.Random) -> Mend:
    return _switched(
        deployment, lambda: deployment.simulator.keys({KEY: luck.choice((401, 402, 403))})
    )


def _lag(deployment: Deployment, _: random.Random) -> Mend:
    """The list lags for longer than the grace: the bound of what Haulier promises."""

    def on() -> None:
        deployment.simulator.switch(list_lag_seconds=20.0)
        deployment.simulator.fault("create", "lost", after_commit=True, times=3)

    return _switched(deployment, on)


def _null(deployment: Deployment, _: random.Random) -> Mend:
    return _switched(deployment, lambda: deployment.simulator.switch(job_null_on_create=True))


def _late(deployment: Deployment, _: random.Random) -> Mend:
    """Files show later than usual, some only after several looks."""
    return _switched(
        deployment, lambda: deployment.simulator.switch(terminal_reads_without_files=4)
    )


def _odd(deployment: Deployment, _: random.Random) -> Mend:
    return _switched(deployment, lambda: deployment.simulator.switch(odd_types=True))


def _refuse_model(deployment: Deployment, luck: random.Random) -> Mend:
    """Creates of one model are refused a few times, as if the key might not use it, or as full."""
    if not deployment.simulator.running:
        return _nothing
    status, words = luck.choice(((403, "you may not use this model"), (429, "queue is full")))
    deployment.simulator.fault(
        "create", "status", status=status, message=words, target=luck.choice(MODELS), times=3
    )
    return _nothing


def _outage(kind: str, least: float, most: float) -> Callable[[Deployment, random.Random], Mend]:
    """Together is in trouble with all of one kind, of one model or of all."""

    def strike(deployment: Deployment, luck: random.Random) -> Mend:
        if deployment.simulator.running:
            model = luck.choice((*MODELS, "."))
            deployment.simulator.outage(kind, seconds=luck.uniform(least, most), model=model)
        return _nothing

    return strike


def _switched(deployment: Deployment, on: Mend) -> Mend:
    if not deployment.simulator.running:
        return _nothing
    on()

    def off() -> None:
        if deployment.simulator.running:  # else its next start sets all of it
            deployment.simulator.switch(
                job_null_on_create=False,
                list_lag_seconds=LIST_LAG,
                terminal_reads_without_files=LATE_READS,
                odd_types=False,
            )
            deployment.simulator.keys({})

    return off


FAULTS = (
    Fault("worker killed", 8, (0.5, 3), _kill(*WORKERS)),
    Fault("all workers killed", 3, (0.5, 2), _kill_all_workers),
    Fault("worker child killed", 10, (0, 0), _kill_child),
    Fault("worker process frozen", 8, (LEASE + 0.5, LEASE + 4), _freeze),
    Fault("scheduler killed", 5, (0.5, 3), _kill(*SCHEDULERS)),
    Fault("scheduler or inbox frozen", 4, (1, LEASE + 3), _freeze_part),
    Fault("api killed", 5, (0.5, 3), _kill("api")),
    Fault("inbox killed", 5, (0.5, 3), _kill("inbox")),
    Fault("deploy (SIGTERM)", 5, (3, 6), _deploy),
    Fault("redis flushed", 6, (0, 0), _flush),
    Fault("redis killed", 5, (0.5, 4), _kill_valkey),
    Fault("redis frozen", 3, (1, 7), _freeze_valkey),
    Fault("postgres restarted (immediate)", 6, (0, 2), _restart_postgres),
    Fault("postgres read-only", 4, (0.5, LEASE + 2), _read_only),
    Fault("connections cut", 10, (0, 0), _cut),
    Fault("connections blackholed", 8, (0.5, LEASE + 3), _blackhole),
    Fault("connections refused", 6, (0.5, 4), _refuse),
    Fault("simulator killed", 5, (0.2, 3), _kill_simulator),
    Fault("key refused", 3, (0.5, 4), _refuse_key),
    Fault("list lag beyond the grace", 4, (7, 12), _lag),
    Fault("create without a job", 4, (2, 6), _null),
    Fault("files late", 4, (3, 8), _late),
    Fault("odd types", 5, (3, 8), _odd),
    Fault("model refused", 5, (0, 0), _refuse_model),
    # So short that it costs a request that fails by itself as well no attempt too many.
    Fault("outage of lines", 7, (0, 0), _outage("lines", 0.3, 0.8)),
    Fault("outage of batches", 7, (0, 0), _outage("batches", 2, 8)),
    Fault("outage of creates", 7, (0, 0), _outage("creates", 2, 8)),
)

EXCLUSIVE = {
    "redis killed": "redis",
    "redis frozen": "redis",
    "redis flushed": "redis",
    "postgres restarted (immediate)": "postgres",
    "postgres read-only": "postgres",
    "simulator killed": "simulator",
    "key refused": "switches",
    "list lag beyond the grace": "switches",
    "create without a job": "switches",
    "files late": "switches",
    "odd types": "switches",
    "connections blackholed": "proxies",
    "connections refused": "proxies",
}
"""Faults with the same word do not overlap: one would be mended by the other's end."""


class Plan:
    """Strikes faults and mends them. Every few seconds one, and they overlap."""

    def __init__(
        self, deployment: Deployment, ledger: Ledger, seed: int, pause: tuple[float, float]
    ) -> None:
        self._deployment = deployment
        self._ledger = ledger
        self._luck = random.Random(seed)
        self._pause = pause
        self._next = time.monotonic() + 2
        self._mends: list[tuple[float, int, Fault, float, Mend]] = []
        self._busy: set[str] = set()
        self._numbers = itertools.count()

    def step(self) -> None:
        """Mend what it is time for, strike if it is time."""
        now = time.monotonic()
        while self._mends and self._mends[0][0] <= now:
            self._mend()
        if now >= self._next:
            self._strike()
            self._next = time.monotonic() + self._luck.uniform(*self._pause)

    def end(self) -> None:
        """Mend everything and start what does not run."""
        while self._mends:
            self._mend()
        deployment = self._deployment
        for part in deployment.parts.values():
            if not part.alive:
                deployment.start(part.name)

    def restart_what_ended(self) -> None:
        """The supervisor of a deployment: what ended by itself is started again."""
        for name, part in self._deployment.parts.items():
            if not part.alive and not part.ending:
                self._ledger.ended[name] += 1
                self._deployment.start(name)
            elif not part.alive and not self._down:
                self._deployment.start(name)  # it took its time to end

    @property
    def _down(self) -> bool:
        return any(fault.ends_processes for *_, fault, _, _ in self._mends)

    def _strike(self) -> None:
        fault = self._luck.choices(FAULTS, [fault.weight for fault in FAULTS])[0]
        lasting = self._luck.uniform(*fault.lasting)
        luck = random.Random(self._luck.random())
        word = EXCLUSIVE.get(fault.kind)
        if word in self._busy:
            return
        at = time.time()
        mend = fault.strike(self._deployment, luck)
        if word is not None:
            self._busy.add(word)
        due = time.monotonic() + lasting
        heapq.heappush(self._mends, (due, next(self._numbers), fault, at, mend))

    def _mend(self) -> None:
        _, _, fault, at, mend = heapq.heappop(self._mends)
        mend()
        self._busy.discard(EXCLUSIVE.get(fault.kind, ""))
        self._ledger.breaks(fault.kind, at)
