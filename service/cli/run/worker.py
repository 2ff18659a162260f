"""`haulier worker`: Celery, with slots of their own for transfers and for control calls."""

import os
import sys
from datetime import timedelta
from enum import StrEnum
from uuid import uuid4

from config.logging import configure
from config.secret_files import without_secrets
from config.settings import Settings
from service.cli.run.process import Process
from service.cli.run.supervisor import Siblings, Supervisor

CONTROL_SLOTS = 2
"""Control calls are short; two at once keep polling going beside a slow answer."""

WARM_STOP = timedelta(seconds=50)
"""How long running tasks may take to end: less than the minute that whoever stops us allows."""

NOTICES_STOP = timedelta(seconds=20)
"""A notice that is on its way may take 15 seconds to arrive."""


class Queues(StrEnum):
    """What a worker works on."""

    ALL = "all"
    TRANSFER = "transfer"
    CONTROL = "control"


def work(settings: Settings, *, queues: Queues, concurrency: int | None) -> None:
    """Run until SIGTERM or SIGINT, then let the running tasks end.

    `concurrency` is the number of processes for transfers, or for the one kind that was asked for.
    With `all` this process supervises two Celery workers and a notifier, and they die with it,
    however it dies; else it becomes the one.
    """
    settings.required("database_url", "redis_url")
    transfer_slots = concurrency or settings.concurrency
    match queues:
        case Queues.ALL:
            configure(settings)
            transfer = _celery(Queues.TRANSFER, transfer_slots)
            control = _celery(Queues.CONTROL, CONTROL_SLOTS)
            workers = (_process(transfer), _process(control))
            Supervisor([Siblings((*workers, _notifier()))]).run()
        case Queues.TRANSFER:
            _become(_celery(queues, transfer_slots))
        case Queues.CONTROL:
            _become(_celery(queues, concurrency or CONTROL_SLOTS))


def _celery(queue: Queues, slots: int) -> list[str]:
    """The command line of one worker."""
    return [
        # --quiet: without the banner, which is no log line.
        *(sys.executable, "-P", "-m", "celery", "-A", "workers.app", "--quiet", "worker"),
        *("-Q", f"haulier.{queue}", "-c", str(slots), "-n", f"{queue}-{uuid4().hex[:8]}@%h"),
        # Chatter between workers that nobody needs, over a connection that a restart of Redis
        # turns into a dead worker.
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


def _process(argv: list[str]) -> Process:
    return Process(name=argv[argv.index("-Q") + 1], argv=argv, stop_timeout=WARM_STOP)


def _notifier() -> Process:
    env = without_secrets(os.environ, but=("DATABASE_URL", "REDIS_URL"))
    # The file for health checks is the workers': the notifier's life says nothing about theirs.
    env.pop("HAULIER_HEARTBEAT_FILE", None)
    argv = [sys.executable, "-P", "-m", "workers.notifier"]
    return Process(name="notifier", argv=argv, env=env, stop_timeout=NOTICES_STOP)


def _become(argv: list[str]) -> None:
    os.execv(argv[0], argv)  # noqa: S606 - a program, not a shell's line, is what is wanted
