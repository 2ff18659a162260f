"""Telling the tasks in a worker's children that the worker is to stop.

Celery lets running tasks end and tells them nothing, so a long transfer would hold up every
deploy. One byte of memory that parent and children share is all it takes.
"""

import mmap

import structlog
from celery.signals import worker_shutting_down

log = structlog.get_logger()

_flag = mmap.mmap(-1, 1)  # anonymous and shared: children that are forked later see it as well


@worker_shutting_down.connect
def _stop(**_: object) -> None:
    _flag[0] = 1
    log.info("worker_stopping")


def stopping() -> bool:
    """Whether this worker was asked to stop."""
    return _flag[0] == 1
