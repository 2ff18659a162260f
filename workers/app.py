"""The Celery application: `celery -A workers.app worker`. Each setting is there for a reason."""

import mmap
import os
import sys
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
from kombu import Queue

from config.logging import configure
from config.settings import SettingsError, settings
from workers.broker import transport_options
from workers.process import Heartbeat

log = structlog.get_logger()

TRANSFER = "haulier.transfer"  # split, assemble, upload, fetch: as long as their bytes take
CONTROL = "haulier.control"  # create, poll: short calls that must not wait for transfers

TIME_LIMIT = timedelta(hours=6)
"""A task's end of all ends; stages have their own deadlines and leases."""


@celeryd_init.connect
@setup_logging.connect
def _configure_logging(**_: object) -> None:
    """Early, for Celery's own warnings; and to `setup_logging`, so that it configures nothing."""
    configure(settings())
    if not sys.stdout.isatty():
        # Celery prints its goodbye there, past all logging, into what should be JSON lines.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@worker_ready.connect
def _say_alive(sender: Any, **_: object) -> None:
    config = settings()
    _alive.append(
        Heartbeat(
            config,
            "worker",
            queues=sorted(sender.app.amqp.queues.consume_from),
            slots=sender.controller.concurrency,
        )
    )
    _alive[-1].start()


@worker_shutdown.connect
def _say_goodbye(**_: object) -> None:
    while _alive:
        _alive.pop().stop()


_alive: list[Heartbeat] = []


# Celery lets running tasks end and tells them nothing, so a long transfer would hold up every
# deploy. One byte of anonymous shared memory tells them; children that are forked later see it too.
_stop_flag = mmap.mmap(-1, 1)


@worker_shutting_down.connect
def _tell_children(**_: object) -> None:
    _stop_flag[0] = 1
    log.info("worker_stopping")


def stopping() -> bool:
    """Whether this worker was asked to stop. Children of the worker may ask as well."""
    return _stop_flag[0] == 1


def _make() -> Celery:
    try:
        config = settings()
        config.required("database_url", "redis_url")
    except SettingsError as error:
        raise SystemExit(f"haulier: {error}") from None
    app = Celery("haulier", broker=config.redis_url, include=["workers.tasks"])
    app.conf.update(
        task_queues=[Queue(TRANSFER), Queue(CONTROL)],
        task_default_queue=TRANSFER,
        task_create_missing_queues=False,
        # The lease in Postgres brings work back; an unacknowledged message only makes the worker
        # die when Redis restarts.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        broker_channel_error_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=5,
        broker_transport_options=transport_options(),
        task_publish_retry_policy={"max_retries": 0},
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
