"""The overview of a deployment, as `haulier top` shows it."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from fastapi import APIRouter
from pydantic import Field

from config import VERSION
from service.api.auth import ADMIN, CalledBy
from service.api.services import Uses
from service.api.v1.lanes import LaneView, list_lanes
from service.api.v1.operating import list_accounts
from service.api.v1.processes import show_status
from service.api.v1.schemas import AccountView, ProcessView
from service.api.v1.usage import SpentView, spent_on
from service.rules.needs import NeedKind, command, words
from service.rules.states import BatchState, JobState, LaneState
from service.store import jobs
from service.store.forecasts import shown
from service.store.situation import MOST, Need, overview
from service.store.views import JobView, View

router = APIRouter()

RUNNING = 20
"""Running jobs that are shown, newest first."""
MOST_LANES = 100


class NeedView(View):
    """What waits for a person, of one kind."""

    kind: NeedKind
    number: int
    at_least: bool = Field(description=f"There may be more: {MOST:,} at most are looked at.")
    since: datetime | None = Field(description="Since when the first one waits.")
    names: Sequence[str] = Field(description="Those that wait the longest, five at most.")
    reason: str | None = Field(description="Why the first one waits.")
    words: str = Field(description="The kind and the number, for people.")
    command: str = Field(description="What helps the first one, or shows more, on a command line.")

    @classmethod
    def of(cls, need: Need) -> "NeedView":
        said = words(need.kind, need.number, at_least=need.at_least)
        helps = command(need.kind, need.names[0]) if need.names else ""
        return cls.model_validate({**vars(need), "words": said, "command": helps})


class FlowView(View):
    """Jobs that came in, or ended, since then."""

    since: datetime
    jobs: int
    requests: int
    failed: int = Field(description="Of these requests.")


class UnderWayView(View):
    rows: int
    requests: int


class DatedSpentView(SpentView):
    day: str


class KindOfProcessView(ProcessView):
    kind: str


class OverviewView(View):
    """The deployment at one instant."""

    at: datetime
    version: str
    needs: Sequence[NeedView] = Field(description="What needs a person, the most urgent first.")
    arrived: FlowView = Field(description="What came in during the last hour.")
    ended: FlowView = Field(description="What ended during the last hour.")
    jobs: dict[JobState, UnderWayView] = Field(
        description="Jobs that are not finished, by state, with their pending requests."
    )
    batches: dict[BatchState, UnderWayView] = Field(
        description="Batches under way, by state, without parked ones."
    )
    waiting: UnderWayView = Field(description="Parts that wait for a batch.")
    oldest_waiting: datetime | None = Field(
        description="Since when the first of them could have been let in."
    )
    at_least: Sequence[str] = Field(
        description=f"Which of jobs, batches and waiting may be more: {MOST:,} rows at most are"
        " looked at."
    )
    lanes: Sequence[LaneView] = Field(
        description=f"{MOST_LANES} lanes at most, those that are not healthy first, and then those"
        " with work."
    )
    accounts: Sequence[AccountView]
    spent: Sequence[DatedSpentView] = Field(description="Today and yesterday (UTC).")
    processes: Sequence[KindOfProcessView]
    running: Sequence[JobView] = Field(description=f"The {RUNNING} newest jobs that are running.")


@router.get("/overview", dependencies=[ADMIN])
def show_overview(services: Uses, caller: CalledBy) -> OverviewView:
    """Show what needs a person, what comes in and goes out, and what is under way."""
    seen = overview(services.db)
    today = seen.at.date()
    running = jobs.jobs(services.db, producer=None, states=[JobState.RUNNING], limit=RUNNING)
    said = shown(services.db, running)
    alive = show_status(services)
    kinds = {
        "worker": alive.workers,
        "scheduler": alive.schedulers,
        "inbox": alive.inboxes,
        "notifier": alive.notifiers,
    }
    return OverviewView(
        at=seen.at,
        version=VERSION,
        needs=[NeedView.of(need) for need in seen.needs],
        arrived=FlowView.model_validate(seen.arrived),
        ended=FlowView.model_validate(seen.ended),
        jobs={
            JobState(state): UnderWayView.model_validate(found)
            for state, found in seen.jobs.items()
        },
        batches={
            BatchState(state): UnderWayView.model_validate(found)
            for state, found in seen.batches.items()
        },
        waiting=UnderWayView.model_validate(seen.waiting),
        oldest_waiting=seen.oldest_waiting,
        at_least=sorted(seen.at_least),
        lanes=sorted(list_lanes(services, caller).data, key=_interest)[:MOST_LANES],
        accounts=list_accounts(services, caller).data,
        spent=[
            DatedSpentView(day=str(day), **dict(spent_on(services, day)))
            for day in (today, today - timedelta(days=1))
        ],
        processes=[
            KindOfProcessView(kind=kind, **dict(process))
            for kind, found in kinds.items()
            for process in found
        ],
        running=[JobView.of(job, said.get(job.id)) for job in running],
    )


def _interest(lane: LaneView) -> tuple[bool, bool]:
    """Order lanes: those that are not healthy come first, then those with work."""
    is_well = lane.paused_at is None and lane.state is LaneState.HEALTHY
    return is_well, lane.forecast is None
