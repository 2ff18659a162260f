"""The life of a company's Haulier through months: what happens, measuring, and the audits."""

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import psycopg

from tests.eventually import eventually
from tests.faults.auditor import Findings, audit
from tests.faults.chaos_ledger import Asked, Ledger
from tests.faults.chaos_scenario import good_day
from tests.virtual_time.company import Company
from tests.virtual_time.measuring import Measured, Probes, measure, probe
from tests.virtual_time.traffic import DAY, Submission
from tests.virtual_time.world import Traveller, World, aged
from tests.virtual_time.year_traffic import (
    FIRST_NAMES,
    HOUR,
    LATER_NAMES,
    TEAMS,
    Calendar,
    Happening,
    submissions,
)

AUDITED_DAYS = 28
"""A month here: four weeks. What ended in them is audited before anything of it is pruned."""
KEY = "simulated"
"""The account `default` of `haulier up --simulate`."""
BATCHES = [
    {"file_name": "^[0-2]", "seconds": 4 * HOUR},
    {"file_name": "^3", "outcome": "expire", "share": 0.7},
]
SHORTEST = timedelta(hours=2)
LONGEST = timedelta(hours=12)
"""On most days. A chore that nobody asked for within an hour begins its period anew, so once a
month a day and a half passes in jumps below that, and blobs are swept."""
SWEEPING = timedelta(minutes=50)
WEEK = 7 * DAY
SETTLING = 5 * DAY
"""Within so long everything must have ended after the last submission of a month."""


@dataclass
class Year:
    """All that is known while it goes on."""

    world: World
    company: Company
    traveller: Traveller
    calendar: Calendar
    ledger: Ledger
    seed: int
    scale: float
    out: Path
    probes: int = 3
    """Jobs that are timed at the end of each month."""
    asked_at: dict[str, float] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    findings: list[Findings] = field(default_factory=list)
    deploys: int = 0
    withdrawn: bool = False
    stamped: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)

    # --- what happens ---------------------------------------------------------------------------

    def happenings(self) -> Iterator[Happening]:
        """Everything, in any order."""
        calendar, simulator = self.calendar, self.world.simulator
        for one in submissions(calendar, self.seed, self.scale):
            yield one.at, "", lambda one=one: self._submit(one)  # type: ignore[misc]
        weeks = int((calendar.end - calendar.begin) // WEEK)
        for week in range(weeks):
            at = calendar.begin + week * WEEK
            if week % 4 == 2:
                yield at + 5.0 * DAY, "", lambda: self._pace(SWEEPING)
                yield at + 6.5 * DAY, "blobs were swept", lambda: self._pace(LONGEST)
            yield at + 2.4 * DAY, "a deploy", self._deploy
            if week % 2:
                yield (
                    at + 3.3 * DAY,
                    "requests of a model fail for six hours",
                    lambda: simulator.outage("lines", model="70B", seconds=6 * HOUR),
                )
            else:
                yield (
                    at + 1.6 * DAY,
                    "creates fail for three hours",
                    lambda: simulator.outage("creates", seconds=3 * HOUR, status=503),
                )
            if week % 4 == 1:
                yield at + 1.4 * DAY, "the credit runs out", lambda: simulator.keys({KEY: 402})
                yield at + 1.9 * DAY, "it is topped up", lambda: simulator.keys({})
                yield at + 4.4 * DAY, "tokens are rotated", self._rotate
            yield at + 6.9 * DAY, "", self._measure
        yield calendar.withdrawn_at, "models are withdrawn", self._withdraw

    def _submit(self, one: Submission) -> None:
        self.ledger.ask(Asked("http", one.key, one.custom_ids))
        self.asked_at[one.key] = one.at
        self.ledger.accept(one.key, self.company.submit(one), new=True)

    def _withdraw(self) -> None:
        """Jobs under the old names that are under way could not end well, so they end before."""
        self._wait_for_all()
        self.world.simulator.switch(refused_models=list(FIRST_NAMES))
        self.withdrawn = True

    def _pace(self, longest: timedelta) -> None:
        self.traveller.longest, self.traveller.shortest = longest, min(longest, SHORTEST)

    def _rotate(self) -> None:
        for team in TEAMS:
            self.company.rotate(team)

    def _deploy(self) -> None:
        """Replace all of Haulier's processes, whatever they are doing."""
        old = self.world.processes()
        ours = [name for name in ("worker", "scheduler", "inbox", "api") if name in old]
        for name in ours:
            os.kill(old[name], signal.SIGTERM)

        def replaced() -> bool:
            new = self.world.processes()
            return all(new.get(name, old[name]) != old[name] for name in ours)

        eventually(replaced, 120)
        eventually(lambda: httpx.get(f"{self.world.url}/readyz", trust_env=False).is_success, 120)
        self.deploys += 1

    def _measure(self) -> None:
        day = (self.traveller.clock.time() - self.calendar.begin) / DAY
        self.measured.append(measure(self.world, day))
        self.keep()

    @property
    def violations(self) -> list[str]:
        """Everything that any audit has found to be wrong."""
        broken = (audited.violations.values() for audited in self.findings)
        return [what for rules in broken for found in rules for what in found]

    # --- months ---------------------------------------------------------------------------------

    def live(self) -> None:
        """All months, each audited at its end."""
        happenings = sorted(self.happenings(), key=lambda one: one[0])
        months = math.ceil((self.calendar.end - self.calendar.begin) / (AUDITED_DAYS * DAY))
        day = 0
        for month in range(months):
            end = min(self.calendar.begin + (month + 1) * AUDITED_DAYS * DAY, self.calendar.end)
            while happenings and happenings[0][0] <= end:
                at, what, happen = happenings.pop(0)
                self.traveller.to(at)
                day = self._new_day(day)
                if what:
                    self._say(what)
                happen()
            self.traveller.to(end)
            self._end_month(month + 1)

    def _new_day(self, day: int) -> int:
        today = int((self.traveller.clock.time() - self.calendar.begin) // DAY)
        if today > day:
            # Nothing is under way: no file is being written.
            self.stamped = aged(self.world.data / "blobs", self.traveller.clock, since=self.stamped)
        return today

    def _end_month(self, month: int) -> None:
        self._wait_for_all()
        self.world.simulator.scenario(
            lines=good_day()["lines"],
            switches={"batch_seconds": 0.0, "refused_models": self._refused()},
        )
        model = (LATER_NAMES if self.withdrawn else FIRST_NAMES)[0]
        self._measure()
        asked = Probes(f"{month}", model, self.probes)
        self.measured[-1].probe = probe(self.company, self.traveller, self.ledger, asked)
        self.traveller.settle()
        self._audit()
        self.play()
        self.keep()
        self._say(f"month {month} is over: {self._last_audit()}")

    def _refused(self) -> list[str]:
        return list(FIRST_NAMES) if self.withdrawn else []

    def play(self) -> None:
        self.world.simulator.scenario(
            **good_day(), batches=BATCHES, switches={"refused_models": self._refused()}
        )

    def _wait_for_all(self) -> None:
        """Let time pass until every job has ended."""
        deadline = self.traveller.clock.time() + SETTLING
        while self._open() and self.traveller.clock.time() < deadline:
            self.traveller.to(self.traveller.clock.time() + HOUR)

    def _open(self) -> int:
        row = self.world.db.execute(
            "SELECT count(*) FROM haulier.jobs WHERE state IN ('accepted', 'running')"
        ).fetchone()
        return int(str(row[0])) if row else 0

    def _audit(self) -> None:
        """Everything of the last four weeks; what is older may be pruned, or still be there."""
        since = self.traveller.clock.time() - (AUDITED_DAYS + 1) * DAY
        with psycopg.connect(self.world.database_url) as db:
            there = {row[0] for row in db.execute("SELECT idempotency_key FROM haulier.jobs")}

        def is_to_be_there(one: Asked) -> bool:
            # Probes have no time here: those of earlier months may be gone.
            return one.key in there or self.asked_at.get(one.key, 0.0) >= since

        recent = Ledger(
            asked=[one for one in self.ledger.asked if is_to_be_there(one)],
            pruned=[one for one in self.ledger.asked if not is_to_be_there(one)],
            accepted=self.ledger.accepted,
        )
        self.findings.append(
            audit(
                recent,
                database_url=self.world.database_url,
                blobs=self.world.data / "blobs",
                simulator_url=self.world.simulator.url,
                key=KEY,
                since=since,
            )
        )

    def _last_audit(self) -> str:
        found = self.findings[-1]
        wrong = {rule: len(broken) for rule, broken in found.violations.items() if broken}
        return f"{wrong}" if wrong else f"all kept, {found.figures['jobs']} jobs looked at"

    def _say(self, what: str) -> None:
        day = (self.traveller.clock.time() - self.calendar.begin) / DAY
        print(
            f"{time.monotonic() - self.started:6.0f} s, day {day:5.1f}"
            f" ({self.traveller.jumps} jumps, {len(self.ledger.asked)} jobs): {what}",
            flush=True,
        )

    def keep(self) -> None:
        """Write what is known so far, so that nothing is lost if the run is ended."""
        self.out.mkdir(parents=True, exist_ok=True)
        known = {
            "seconds": time.monotonic() - self.started,
            "jumps": self.traveller.jumps,
            "jobs": len(self.ledger.asked),
            "requests": sum(len(one.custom_ids) for one in self.ledger.asked),
            "deploys": self.deploys,
            "measured": [one.plain() for one in self.measured],
            "audits": [
                {"figures": one.figures, "violations": one.violations} for one in self.findings
            ],
        }
        (self.out / "year.json").write_text(json.dumps(known, indent=1))
