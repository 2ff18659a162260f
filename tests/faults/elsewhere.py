"""What attacks a service from the same machine stands for another one."""

import os

from service.cli.run.shim import step_back

LEAST = 19


def on_another_machine() -> None:
    """Leave the processors to the service: get what nobody else on this machine wants.

    Linux shares processors among sessions first, so this process needs a session of its own.
    """
    os.setsid()
    step_back(LEAST)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
