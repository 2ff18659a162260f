"""The metrics of a deployment, for Prometheus. They name no producer."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from config import VERSION
from service.rules.measures import MEASURES, Key, Measure, Tally
from service.rules.states import OPEN_BATCH_STATES, JobState, LaneState
from service.store.counters import SET_ASIDE, UNREAD
from service.store.engine import Database, is_unavailable, lacks_schema
from service.store.gauges import Gauges, gauges
from service.store.measures import Sums, sums
from service.store.ticks import UP_TO

FRESH = 5.0
"""Seconds for which figures are reused, so that frequent scrapes do not load Postgres."""


@dataclass(frozen=True, kw_only=True)
class Pools:
    """What this process has in use."""

    database: Mapping[str, int]
    """Connections to Postgres that are `used` and `idle`."""
    threads: Mapping[str, int]
    """Threads that are busy, by what they do."""
    body_bytes: int
    """Of bodies and answers in memory."""


KINDS = ("worker", "scheduler", "inbox", "notifier")


class Metrics(Collector):
    """Reads the figures from Postgres at each scrape, at most once in `FRESH` seconds."""

    def __init__(self, db: Database, calls: Callable[[], int], pools: Callable[[], Pools]) -> None:
        """`calls` counts those that wait at this process."""
        self._db = db
        self._calls = calls
        self._pools = pools
        self._lock = threading.Lock()
        self._read_at = -FRESH
        self._last: tuple[Gauges, Sums] | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> list[Metric]:
        """Return nothing, so that registration does not read Postgres."""
        return []

    def collect(self) -> Iterator[Metric]:
        now = self._now()
        yield GaugeMetricFamily(
            "haulier_calls_held", "Calls that wait for their answers here", self._calls()
        )
        yield from _here(self._pools())
        yield InfoMetricFamily("haulier_build", "This process", value={"version": VERSION})
        yield GaugeMetricFamily(
            "haulier_database_up", "Whether Postgres answers with our schema", int(now is not None)
        )
        if now is not None:
            found, measured = now
            yield from _stock(found)
            yield from _waits(found)
            yield from _processes(found)
            yield from _totals(found)
            for measure in MEASURES:
                yield _histogram(measure, measured) if measure.up_to else _sum(measure, measured)

    def _now(self) -> tuple[Gauges, Sums] | None:
        """Return the figures; None if Postgres is unavailable or lacks our schema."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH:
                try:
                    self._last = gauges(self._db), sums(self._db)
                except Exception as error:
                    if not is_unavailable(error) and not lacks_schema(error):
                        raise
                    self._last = None
                self._read_at = time.monotonic()
            return self._last


def _stock(now: Gauges) -> Iterator[Metric]:
    yield _gauge(
        "haulier_jobs",
        "Jobs that are not finished, by state",
        "state",
        {state: now.jobs.get(state, 0) for state in (JobState.ACCEPTED, JobState.RUNNING)},
    )
    yield _gauge(
        "haulier_batches",
        "Batches under way, by state",
        "state",
        {state: now.batches.get(state, 0) for state in sorted(OPEN_BATCH_STATES)},
    )
    yield GaugeMetricFamily(
        "haulier_parts_waiting", "Parts of jobs that wait for a batch", now.waiting
    )
    yield _gauge("haulier_due", "Rows that wait for a worker", "kind", now.due)
    yield _gauge(
        "haulier_oldest_due_seconds", "How long the oldest of them has waited", "kind", now.oldest
    )
    yield _gauge("haulier_parked", "Rows that wait for an operator", "kind", now.parked)
    yield _gauge(
        "haulier_failing",
        "Rows that failed many times in a row",
        "kind",
        now.failing,
    )
    yield _gauge(
        "haulier_jobs_deadline",
        "Jobs with a deadline that are not finished, by how they stand to it",
        "standing",
        {standing: now.deadlines.get(standing, 0) for standing in ("ahead", "at_risk", "missed")},
    )
    yield GaugeMetricFamily(
        "haulier_lanes_held", "Lanes whose queue at Together is full", now.held_lanes
    )
    yield _gauge(
        "haulier_lanes",
        "Lanes by state; those that rest or are probed met with trouble at Together",
        "state",
        {str(state): now.lanes.get(state, 0) for state in LaneState},
    )
    yield GaugeMetricFamily(
        "haulier_lanes_paused", "Lanes that an operator has paused", now.paused_lanes
    )
    yield _gauge(
        "haulier_accounts_paused",
        "Accounts that are refused (key or credit) or slowed down",
        "reason",
        {"blocked": now.blocked_accounts, "slowed": now.slowed_accounts},
    )


def _here(pools: Pools) -> Iterator[Metric]:
    yield _gauge(
        "haulier_database_connections",
        "Connections of this process to Postgres",
        "state",
        pools.database,
    )
    yield _gauge("haulier_threads_busy", "Busy threads of this process", "work", pools.threads)
    yield GaugeMetricFamily(
        "haulier_body_bytes",
        "Bytes of bodies and large answers that this process holds in memory",
        pools.body_bytes,
    )


def _waits(now: Gauges) -> Iterator[Metric]:
    yield _gauge(
        "haulier_batches_oldest_seconds",
        "Since the create of the oldest batch in a state, or since it was begun",
        "state",
        {state: now.batch_ages.get(state, 0.0) for state in sorted(OPEN_BATCH_STATES)},
    )
    yield GaugeMetricFamily(
        "haulier_parts_longest_wait_seconds",
        "How long a part has waited for a batch that might have gone",
        now.longest_wait,
    )
    yield GaugeMetricFamily(
        "haulier_notices_oldest_seconds",
        "Age of the oldest notice that is neither delivered nor given up",
        now.notice_age,
    )
    yield GaugeMetricFamily(
        "haulier_jobs_held", "Jobs whose canary failed and which wait for a release", now.held_jobs
    )
    yield _gauge(
        "haulier_budgets_reached",
        "Producers and jobs for which nothing more may be spent",
        "of",
        {"producer": now.short_producers, "job": now.short_jobs},
    )
    if now.scratch_free is not None:
        yield GaugeMetricFamily(
            "haulier_scratch_free_bytes",
            "Free scratch space of the worker that has the least",
            now.scratch_free,
        )


def _processes(now: Gauges) -> Iterator[Metric]:
    alive = {kind: now.processes.get(kind, 0) for kind in KINDS}
    yield _gauge("haulier_processes", "Processes seen in the last 15 seconds", "kind", alive)
    yield _gauge(
        "haulier_heartbeat_age_seconds",
        "Since the last heartbeat of any process of a kind",
        "kind",
        now.heartbeat_ages,
    )
    # Emit every bucket from the start: one that appears later would distort rates.
    ticks = dict.fromkeys(UP_TO, (0, 0.0))
    ticks |= {up_to: (count, seconds) for up_to, count, seconds in now.ticks}
    counts = accumulate(float(ticks[up_to][0]) for up_to in sorted(ticks))
    yield HistogramMetricFamily(
        "haulier_scheduler_tick_seconds",
        "Ticks of all schedulers by how long they took",
        buckets=list(zip(map(floatToGoString, sorted(ticks)), counts, strict=True)),
        sum_value=sum(seconds for _, seconds in ticks.values()),
    )


def _totals(now: Gauges) -> Iterator[Metric]:
    yield _counter(
        "haulier_requests",
        "Requests accounted for in settled batches",
        "outcome",
        {"succeeded": now.used["succeeded"], "dead": now.used["dead"]},
    )
    yield _counter(
        "haulier_tokens",
        "Tokens that Together reported",
        "kind",
        {"prompt": now.used["prompt"], "completion": now.used["completion"]},
    )
    yield CounterMetricFamily(
        "haulier_batches_settled", "Settled batches", value=now.used["batches"]
    )
    yield from _forecasts(now)
    yield CounterMetricFamily(
        "haulier_messages_set_aside",
        "Messages on the queue that could not be read",
        value=now.counters.get(SET_ASIDE, 0),
    )
    yield GaugeMetricFamily(
        "haulier_messages_nobody_reads",
        "Messages in lists of Redis that only look like the queue",
        value=now.counters.get(UNREAD, 0),
    )


def _sum(measure: Measure, measured: Sums) -> Metric:
    family = CounterMetricFamily(measure.name, measure.help, labels=list(measure.labels))
    for labels in measure.series():
        family.add_metric(labels, measured.get(Key(measure.name, labels, inf), Tally()).count)
    return family


def _histogram(measure: Measure, measured: Sums) -> Metric:
    """Return every bucket from the start: one that appears later would distort rates."""
    family = HistogramMetricFamily(measure.name, measure.help, labels=list(measure.labels))
    for labels in measure.series():
        tallies = [
            measured.get(Key(measure.name, labels, up_to), Tally()) for up_to in measure.up_to
        ]
        counts = accumulate(float(tally.count) for tally in tallies)
        family.add_metric(
            labels,
            buckets=list(zip(map(floatToGoString, measure.up_to), counts, strict=True)),
            sum_value=sum(tally.seconds for tally in tallies),
        )
    return family


def _forecasts(now: Gauges) -> Iterator[Metric]:
    labels = ["lane", "said"]
    ended = CounterMetricFamily(
        "haulier_forecasts_ended", "Jobs with a forecast that have ended", labels=labels
    )
    in_time = CounterMetricFamily(
        "haulier_forecasts_in_time", "Those that ended before the 90 % instant", labels=labels
    )
    for key, (all_of_them, some) in sorted(now.forecasts.items()):
        ended.add_metric(key, all_of_them)
        in_time.add_metric(key, some)
    yield ended
    yield in_time


def _gauge(name: str, help_text: str, label: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _counter(name: str, help_text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
