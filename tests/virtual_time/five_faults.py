"""Five faults for an operator to find: a stuck job, an unwell lane, a blocked account, a new error
on some requests, and a dead webhook endpoint."""

from collections.abc import Callable, Iterator
from uuid import UUID

from service.cli.up.ports import free_port
from tests.virtual_time.company import Company
from tests.virtual_time.traffic import CHAT, GPT, LLAMA, QWEN, TEAMS, Submission, request
from tests.virtual_time.world import World

HOUR = 3600.0
NEW_ERROR = "Invalid schema for function 'lookup_order': None is not of type 'object'"
STUCK = 40
"""Requests of the stuck job."""


class FiveFaults:
    """Injects them in the last hours before `end`; `jobs` says which ones they befell first."""

    def __init__(self, world: World, company: Company, end: float) -> None:
        self._world, self._company, self._end = world, company, end
        self._teams = {team.name: team for team in TEAMS}
        self.jobs: dict[str, UUID] = {}

    def happenings(self) -> Iterator[tuple[float, Callable[[], object]]]:
        """When each begins, and how."""
        yield self._end - 30 * HOUR, self._dead_endpoint
        yield self._end - 20 * HOUR, self._new_error
        yield self._end - 9 * HOUR, self._stuck_job
        yield self._end - 5 * HOUR, self._unwell_lane
        yield self._end - 3 * HOUR, self._blocked_account
        # Work that meets with them, whatever the hour of the day.
        for hours in (29, 24, 19, 12, 8, 4.5, 4, 3.5, 2.5, 2, 1.5, 1):
            yield self._end - hours * HOUR, lambda hours=hours: self._work(hours)  # type: ignore[misc]

    def _dead_endpoint(self) -> None:
        self._company.webhooks["billing"] = f"http://127.0.0.1:{free_port()}/haulier"

    def _new_error(self) -> None:
        self._world.simulator.line_rule(
            "error", contains="lookup_order", code="invalid_request_error", message=NEW_ERROR
        )

    def _stuck_job(self) -> None:
        self._world.simulator.line_rule("broken", contains="Transcribe exhibit")
        self.jobs["stuck"] = self._submit("billing", LLAMA, "exhibits", "Transcribe exhibit", STUCK)

    def _unwell_lane(self) -> None:
        message = "Service unavailable: no healthy upstream"
        self._world.simulator.outage("lines", model="gpt-oss", message=message)

    def _blocked_account(self) -> None:
        self._world.simulator.keys({"simulated-research": 402})

    def _work(self, hours: float) -> None:
        name = f"{hours:g}"
        self.jobs[f"support {name}"] = self._submit("support", GPT, "triage", "Which team for", 8)
        self.jobs[f"billing {name}"] = self._submit("billing", LLAMA, "disputes", "Classify", 10)
        if hours < 20:
            about = "Answer with the tool lookup_order:"
            self.jobs[f"search {name}"] = self._submit("search", LLAMA, "orders", about, 6)
        if hours < 5:
            self.jobs[f"research {name}"] = self._submit("research", QWEN, "eval-9", "Grade", 50)

    def _submit(self, team: str, model: str, run: str, about: str, count: int) -> UUID:
        at = self._world.now()
        key = f"{team}-{run}-{at:.0f}"
        spec = {
            "endpoint": CHAT,
            "account": self._teams[team].account,
            "idempotency_key": key,
            "metadata": {"team": team, "run": run},
            "requests": [
                request(f"{run}-{at:.0f}-{line:04}", model, about) for line in range(count)
            ],
        }
        return self._company.submit(Submission(at, self._teams[team], spec))
