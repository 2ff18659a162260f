"""The lanes: how they are, and what an operator does to them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Self

from fastapi import APIRouter
from pydantic import Field

from service.api.acting import ActedBy
from service.api.auth import ADMIN, READ, CalledBy, Caller
from service.api.problems import LANE_AS_IT_IS, NOT_FOUND, HttpProblem
from service.api.services import Services, Uses
from service.api.v1.rehearsing import DryRun, PreviewView, for_verb, preview
from service.api.v1.schemas import Page
from service.rules.admission import LaneName
from service.rules.errors import Conflict
from service.rules.forecast import Forecast, NoForecast
from service.rules.lanes import Phase, Trouble, next_step
from service.rules.retry import trouble_words
from service.rules.states import LaneState
from service.store import accounts, lane_verbs
from service.store.audit import Actor
from service.store.engine import clock
from service.store.forecasts import shown_of_lanes, stop_of
from service.store.health import health_of
from service.store.models import Lane
from service.store.situation import paused_by
from service.store.views import ForecastView, View

router = APIRouter()


class EvidenceView(View):
    """Why a lane is not healthy."""

    kind: Trouble = Field(description="What failed alike: requests (`lines`), batches or creates.")
    text: str = Field(description="The error, without numbers, ids, quotes and places.")
    at: datetime = Field(description="When it was last seen.")
    batches: int = Field(description="The batches that failed like this lately.")


class LaneView(View):
    """An account, an endpoint and a model: what Together admits, paces and fails as one."""

    id: str
    account: str
    endpoint: str
    model: str
    state: LaneState
    phase: Phase | None = Field(description="What is under way while the lane is being probed.")
    since: datetime | None = Field(description="Null if the lane was never in another state.")
    until: datetime | None = Field(description="When the lane leaves its state by itself.")
    next: str = Field(description="What comes next, in words.")
    evidence: EvidenceView | None
    rests: int = Field(description="The number of rests in a row.")
    paused_at: datetime | None = Field(description="Set while an operator has paused the lane.")
    paused_by: str | None = Field(
        description="Who paused it, as the audit log names them. Only operators are told."
    )
    held_until: datetime | None = Field(description="Set while the lane's queue is full.")
    reason: str | None = Field(description="Together's words about the full queue.")
    forecast: ForecastView | None = Field(
        description="When all jobs that are in it now will be done there; null without any."
    )

    @classmethod
    def of(
        cls,
        lane: Lane,
        now: datetime,
        said: Mapping[LaneName, Forecast | NoForecast],
        *,
        all_told: bool,
        stopped: Collection[str],
        paused_by: Mapping[str, str],
    ) -> Self:
        """Return the view. Others' errors may hold what is theirs: only operators are told.

        `stopped` are the accounts that an operator has paused, `paused_by` holds who paused lanes,
        by their ids.
        """
        is_stopped = lane.account in stopped
        health = health_of(lane)
        found = health.evidence
        evidence = None
        if found is not None:
            like = [(other.kind, other.text) for other in health.failures]
            evidence = EvidenceView(
                kind=found.kind,
                text=found.text if all_told else trouble_words(found.text),
                at=found.at,
                batches=like.count((found.kind, found.text)),
            )
        forecast = said.get((lane.account, lane.endpoint, lane.model))
        if forecast is not None:
            forecast = stop_of(lane, is_stopped=is_stopped) or forecast
        is_held = lane.held_until is not None and lane.held_until > now
        lane_id = lane_verbs.id_of(lane)
        return cls(
            id=lane_id,
            account=lane.account,
            endpoint=lane.endpoint,
            model=lane.model,
            state=lane.state,
            phase=health.phase,
            since=lane.since,
            until=lane.until,
            next=next_step(health, paused=lane.paused_at is not None, account_paused=is_stopped),
            evidence=evidence,
            rests=0 if health.is_healthy else health.rests,
            paused_at=lane.paused_at,
            paused_by=paused_by.get(lane_id) if all_told else None,
            held_until=lane.held_until if is_held else None,
            reason=lane.reason if is_held else None,
            forecast=None if forecast is None else ForecastView.model_validate(forecast),
        )


@router.get("/lanes", dependencies=[READ])
def list_lanes(services: Uses, caller: CalledBy) -> Page[LaneView]:
    """List the lanes of the accounts that the caller may use, and how each is."""
    found = lane_verbs.lanes(services.db)
    return Page(data=views_of(found, services, caller, shown_of_lanes(services.db)))


def views_of(
    found: Sequence[Lane],
    services: Services,
    caller: Caller,
    said: Mapping[LaneName, Forecast | NoForecast],
) -> list[LaneView]:
    """Show those of some lanes whose accounts the caller may use, with these forecasts."""
    now = clock(services.db)
    sees_all = caller.sees is None
    stopped = accounts.stopped(services.db)
    by = paused_by(services.db, found) if sees_all else {}
    return [
        LaneView.of(lane, now, said, all_told=sees_all, stopped=stopped, paused_by=by)
        for lane in found
        if sees_all or lane.account in caller.permissions.accounts
    ]


Verb = Callable[..., Lane | None]


def _done(
    verb: Verb, lane_id: str, services: Services, by: Actor, *, dry_run: bool
) -> LaneView | PreviewView:
    db = for_verb(services.db, dry_run=dry_run)
    try:
        lane = verb(db, lane_id, by=by)
    except Conflict as error:
        raise HttpProblem(LANE_AS_IT_IS, str(error)) from None
    if lane is None:
        raise HttpProblem(NOT_FOUND, "there is no such lane; GET /v1/lanes lists their ids")
    shown = LaneView.of(
        lane,
        clock(db),
        shown_of_lanes(db),
        all_told=True,
        stopped=accounts.stopped(db),
        paused_by=paused_by(db, [lane]),
    )
    return preview(db) or shown


@router.post("/lanes/{lane_id}/pause", dependencies=[ADMIN])
def pause_lane(
    lane_id: str, services: Uses, acting: ActedBy, dry_run: DryRun = False
) -> LaneView | PreviewView:
    """Let nothing be sent into a lane until it is resumed. What Together holds is fetched."""
    return _done(lane_verbs.pause, lane_id, services, acting, dry_run=dry_run)


@router.post("/lanes/{lane_id}/resume", dependencies=[ADMIN])
def resume_lane(
    lane_id: str, services: Uses, acting: ActedBy, dry_run: DryRun = False
) -> LaneView | PreviewView:
    """End a lane's pause, or its rest: what waits is admitted."""
    return _done(lane_verbs.resume, lane_id, services, acting, dry_run=dry_run)


@router.post("/lanes/{lane_id}/probe", dependencies=[ADMIN])
def probe_lane(
    lane_id: str, services: Uses, acting: ActedBy, dry_run: DryRun = False
) -> LaneView | PreviewView:
    """Let a probe into a lane that rests, or another one into a lane that is being probed."""
    return _done(lane_verbs.probe, lane_id, services, acting, dry_run=dry_run)
