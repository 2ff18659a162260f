"""What a company asks of Haulier: producers, their models, their hours, and the sizes of jobs."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

LLAMA = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
DEEPSEEK = "deepseek-ai/DeepSeek-V3"
QWEN = "Qwen/Qwen2.5-72B-Instruct-Turbo"
GPT = "openai/gpt-oss-20b"
CHAT = "/v1/chat/completions"

DAY = 86_400.0


@dataclass(frozen=True)
class Team:
    """A producer and its habits."""

    name: str
    models: tuple[str, ...]
    jobs_a_day: float
    """On a working day, at growth 1."""
    requests: int
    """Of a usual job; a few are ten times as large."""
    at_night: bool = False
    """Whether it works at night, and not in office hours."""
    account: str = "default"
    deadline_share: float = 0.0
    notified: bool = False
    about: tuple[str, ...] = ("Summarise",)
    """What its prompts begin with."""
    runs: tuple[str, ...] = ("daily",)


TEAMS = (
    Team(
        *("billing", (LLAMA,), 14, 40),
        notified=True,
        about=("Classify this invoice dispute", "Extract the amount due from"),
        runs=("disputes", "dunning"),
    ),
    Team(
        *("search", (LLAMA, DEEPSEEK), 10, 150),
        at_night=True,
        deadline_share=0.5,
        about=("Write a search snippet for", "List synonyms for"),
        runs=("snippets", "synonyms", "backfill"),
    ),
    Team(
        *("support", (GPT,), 30, 12),
        notified=True,
        about=("Draft a reply to ticket", "Which team should see ticket"),
        runs=("triage", "replies"),
    ),
    Team(
        *("research", (QWEN,), 3, 300),
        account="research",
        about=("Grade this answer", "Rephrase the question"),
        runs=("eval-7", "eval-8", "ablation"),
    ),
)

HOURS = (1, 1, 1, 1, 1, 2, 4, 8, 14, 16, 16, 14, 12, 14, 16, 16, 14, 10, 6, 4, 3, 2, 2, 1)
"""The weight of each hour of a working day (UTC)."""
WEEKEND = 0.2


@dataclass(frozen=True)
class Submission:
    """One job, when it is submitted, and the spec that says so."""

    at: float
    """Virtual Unix seconds."""
    team: Team
    spec: dict[str, Any] = field(hash=False)

    @property
    def key(self) -> str:
        return str(self.spec["idempotency_key"])

    @property
    def custom_ids(self) -> tuple[str, ...]:
        return tuple(request["custom_id"] for request in self.spec["requests"])


@dataclass(frozen=True)
class Plan:
    """The traffic between two instants: the same for the same seed."""

    begin: float
    end: float
    seed: int = 1
    scale: float = 1.0
    """Times so many jobs."""
    size: float = 1.0
    """Times so many requests in a job."""
    growth: float = 0.0
    """By which share of itself the traffic grows within a year."""
    teams: tuple[Team, ...] = TEAMS

    def submissions(self) -> list[Submission]:
        """All of them, in order."""
        return sorted(self._all(), key=lambda one: one.at)

    def _all(self) -> Iterator[Submission]:
        day = math.floor(self.begin / DAY) * DAY
        while day < self.end:
            for team in self.teams:
                yield from self._of_day(team, day)
            day += DAY

    def _of_day(self, team: Team, day: float) -> Iterator[Submission]:
        luck = random.Random(f"{self.seed} {team.name} {day}")
        weekend = datetime.fromtimestamp(day, UTC).weekday() >= 5
        grown = 1 + self.growth * (day - self.begin) / (365 * DAY)
        wanted = team.jobs_a_day * self.scale * grown * (WEEKEND if weekend else 1)
        jobs = math.floor(wanted) + (luck.random() < wanted % 1)
        weights = HOURS[12:] + HOURS[:12] if team.at_night else HOURS
        for number in range(jobs):
            at = day + luck.choices(range(24), weights)[0] * 3600 + luck.random() * 3600
            if self.begin <= at < self.end:
                stamp = datetime.fromtimestamp(day, UTC).strftime("%y%m%d")
                yield Submission(at, team, self._spec(team, luck, f"{stamp}-{number}"))

    def _spec(self, team: Team, luck: random.Random, name: str) -> dict[str, Any]:
        large = 10 if luck.random() < 0.03 else 1
        usual = team.requests * self.size * large
        count = max(1, round(luck.lognormvariate(math.log(max(usual, 1)), 0.6)))
        model, about, run = (luck.choice(of) for of in (team.models, team.about, team.runs))
        spec: dict[str, Any] = {
            "endpoint": CHAT,
            "account": team.account,
            "idempotency_key": f"{team.name}-{name}",
            "priority": luck.choice((0, 0, 0, 1, 5)),
            "metadata": {"team": team.name, "run": run},
            "requests": [request(f"{run}-{name}-{line:04}", model, about) for line in range(count)],
        }
        if luck.random() < team.deadline_share:
            spec["deadline"] = luck.choice((6, 12, 24)) * 3600
        return spec


def request(custom_id: str, model: str, about: str) -> dict[str, Any]:
    """A chat request."""
    messages = [
        {"role": "system", "content": "You are terse. Answer in one sentence."},
        {"role": "user", "content": f"{about} {custom_id}"},
    ]
    return {"custom_id": custom_id, "body": {"model": model, "messages": messages}}
