"""The traffic of a year, which the auditor can check line by line, and what goes wrong in it."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.faults.chaos_scenario import requests
from tests.virtual_time.traffic import DAY, Plan, Submission, Team

FIRST_NAMES = ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "deepseek-ai/DeepSeek-V3")
LATER_NAMES = ("meta-llama/Llama-4-70B-Instruct-Turbo", "deepseek-ai/DeepSeek-V4")
HOUR = 3600.0
WAVE = 8 * HOUR
"""What is submitted within so long is submitted together, so that the clock jumps less often."""
GROWTH = 1.0
"""Of the traffic, within a year: it doubles."""

TEAMS = (
    Team("billing", FIRST_NAMES[:1], 1.6, 25),
    Team("search", FIRST_NAMES, 1, 60, at_night=True, deadline_share=0.5),
    Team("support", FIRST_NAMES[1:], 1.6, 10),
)


@dataclass(frozen=True)
class Calendar:
    """When what happens, from `begin` to `end` (virtual Unix seconds)."""

    begin: float
    end: float

    @property
    def withdrawn_at(self) -> float:
        """When the old names of the models are withdrawn; the new ones are there before."""
        return self.begin + (self.end - self.begin) * 0.55

    def name(self, model: str, at: float) -> str:
        """What the producers call a model: they change within eight hours after its withdrawal."""
        changed = at > self.withdrawn_at + WAVE
        return LATER_NAMES[FIRST_NAMES.index(model)] if changed else model

    def is_withdrawn(self, at: float) -> bool:
        """Whether the producers still use the old names although they are withdrawn."""
        return self.withdrawn_at < at <= self.withdrawn_at + WAVE


def submissions(calendar: Calendar, seed: int, scale: float) -> Iterator[Submission]:
    """All jobs, in order, in waves."""
    plan = Plan(calendar.begin, calendar.end - 0.5 * DAY, seed, scale, growth=GROWTH, teams=TEAMS)
    for one in plan.submissions():
        at = (one.at // WAVE + 1) * WAVE
        yield replace(one, at=at, spec=_checked(one, at, calendar))


def _checked(one: Submission, at: float, calendar: Calendar) -> dict[str, Any]:
    """The same spec, with requests as the auditor knows them."""
    luck = random.Random(one.key)
    made = requests(luck, one.key, len(one.spec["requests"]))
    withdrawn = calendar.is_withdrawn(at)
    for line in made:
        if line["custom_id"].endswith("-poison"):
            # Division leaves batches so small that two odd lines are most of them. Those are
            # parked for an operator, and there is none here.
            _rename(line, "fine")
        line["body"]["model"] = calendar.name(line["body"]["model"], at)
        if withdrawn:
            # By its name, the auditor knows that it may fail.
            _rename(line, "withdrawn")
    return {**one.spec, "requests": made}


def _rename(line: dict[str, Any], kind: str) -> None:
    line["custom_id"] = f"{line['custom_id'].rpartition('-')[0]}-{kind}"
    line["body"]["messages"][-1]["content"] = f"Say {line['custom_id']}"


Happening = tuple[float, str, Callable[[], object]]
