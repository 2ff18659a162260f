"""The Celery application: `celery -A workers.app worker`."""

import mmap
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog
from celery import Celery
from celery.signals import (
    celeryd_init,
    setup_logging,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from celery.worker.state import reserved_requests
from kombu import Queue

from config.logging import configure
from config.settings import SettingsError, settings
from workers import transport
from workers.broker import celery_settings
from workers.process import Heartbeat, first_line

log = structlog.get_logger()

TRANSFER = "haulier.transfer"  # stages that move bytes, and so may take long
CONTROL = "haulier.control"  # short calls, which must not wait behind transfers

TIME_LIMIT = timedelta(hours=6)
"""The time after which a task is killed. Stages end long before: they have their own timeouts."""


@celeryd_init.connect
@setup_logging.connect
def _configure_logging(**_: object) -> None:
    """Configure logging early, so that Celery's first warnings have our format.

    A receiver of `setup_logging` keeps Celery from configuring logging itself.
    """
    configure(settings())
    if not sys.stdout.isatty():
        # Celery prints its goodbye to standard output, between the JSON lines of the log.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@worker_ready.connect
def _start_heartbeat(sender: Any, **_: object) -> None:
    config = settings()
    queues = sorted(sender.app.amqp.queues.consume_from)
    _alive.append(
        Heartbeat(
            config,
            "worker",
            queues=queues,
            slots=sender.controller.concurrency,
            on_drain=lambda drain: _drain(sender, queues, drain=drain),
            under_way=lambda: len(reserved_requests),
        )
    )
    _alive[-1].start()


def _drain(consumer: Any, queues: Sequence[str], *, drain: bool) -> None:
    """Stop to consume from the queues, or begin again. Celery's own thread does it."""
    turn = consumer.cancel_task_queue if drain else consumer.add_task_queue

    def turned(queue: str) -> None:
        try:
            turn(queue)
        except Exception as error:  # noqa: BLE001  without Redis the next connection does it
            log.warning("redis_unavailable", reason=first_line(error))

    for queue in queues:
        consumer.call_soon(turned, queue)


@worker_shutdown.connect
def _stop_heartbeat(**_: object) -> None:
    while _alive:
        _alive.pop().stop()


_alive: list[Heartbeat] = []


# Celery does not tell running tasks that the worker is to stop, so a long transfer would delay
# every deploy. A byte of shared memory tells them; children that are forked later see it too.
_stop_flag = mmap.mmap(-1, 1)


@worker_shutting_down.connect
def _tell_children(**_: object) -> None:
    _stop_flag[0] = 1
    log.info("worker_stopping")


def stopping() -> bool:
    """Return whether this worker is to stop. Works in the worker's children too."""
    return _stop_flag[0] == 1


def _make() -> Celery:
    try:
        config = settings()
        config.required("database_url", "redis_url")
    except SettingsError as error:
        raise SystemExit(f"haulier: {error}") from None
    transport.use()
    app = Celery("haulier", include=["workers.tasks"])
    app.conf.update(
        **celery_settings(config.redis_url or ""),
        task_queues=[Queue(TRANSFER), Queue(CONTROL)],
        task_default_queue=TRANSFER,
        task_create_missing_queues=False,
        # Lost work comes back when its lease in Postgres expires, so messages are acknowledged
        # early. A worker that holds an unacknowledged message may die when Redis restarts.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        broker_channel_error_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_time_limit=TIME_LIMIT.total_seconds(),
        worker_max_tasks_per_child=200,
        worker_max_memory_per_child=400_000,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app


app = _make()
