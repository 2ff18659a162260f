"""A demo to look at: a service with a week of history behind it, which runs until Ctrl-C."""

import itertools
import random
import time

from service.cli.screen import Screen
from tests.servers import open_directory
from tests.virtual_time.clock import NoCompilerError
from tests.virtual_time.traffic import DAY, Plan
from tests.virtual_time.week import Wanted, Week, open_week

PAUSE = 20.0
"""Seconds between two submissions, on average, once the week is over."""


def console(screen: Screen, wanted: Wanted) -> None:
    """Make the week, say where to look, and go on as the company does."""
    screen.line(f"Living through {wanted.days:g} days; this takes some minutes")
    try:
        with open_directory("week") as home, open_week(home, wanted, screen.line) as week:
            _say(screen, week)
            _go_on(week)
    except NoCompilerError as error:
        raise AssertionError(str(error)) from None


def _say(screen: Screen, week: Week) -> None:
    screen.line("")
    screen.fields(
        [
            ("jobs", week.jobs),
            ("requests", week.requests),
            ("took", f"{week.took:.0f} s, in {week.jumps:,} jumps of the clock"),
            ("console", f"{week.world.url}/console"),
            ("token", week.world.token),
            ("command line", f". {week.world.data}/env; haulier status"),
        ]
    )
    if week.faults is not None:
        screen.line("")
        screen.line(
            "Five faults are in it: a stuck job, an unwell lane, a blocked account, a new error on"
            " some requests, and a webhook endpoint that is gone."
        )
    screen.line("")
    screen.line("Jobs go on coming in. Stop it, and remove it, with Ctrl-C.")


def _go_on(week: Week) -> None:
    """Submit a job now and then, for ever."""
    luck = random.Random(2)
    week.world.simulator.switch(batch_seconds=45)
    for number in itertools.count():
        now = time.time()
        for one in Plan(now, now + DAY, seed=number, scale=0.1).submissions()[:1]:
            one.spec["idempotency_key"] = f"{one.key}-{now:.0f}"
            week.company.submit(one)
        time.sleep(luck.uniform(0.5, 1.5) * PAUSE)
