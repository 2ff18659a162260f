"""What operators see of lanes, and do to them."""

from collections.abc import Callable
from datetime import datetime
from hashlib import blake2b

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.rules.errors import Conflict
from service.rules.lanes import healed, probed_now
from service.rules.states import LaneState
from service.store.audit import Actor, path, record
from service.store.engine import Database
from service.store.health import health_of, write
from service.store.models import Lane


def id_of(lane: Lane) -> str:
    """Return a name of the lane that fits into a path: its own holds slashes."""
    name = msgspec.json.encode((lane.account, lane.endpoint, lane.model))
    return blake2b(name, digest_size=8).hexdigest()


def lanes(db: Database) -> list[Lane]:
    """Return every lane that something was ever admitted to, by name."""
    with db.begin() as session:
        return list(session.scalars(_ALL))


_ALL = select(Lane).order_by(Lane.account, Lane.endpoint, Lane.model)


def pause(db: Database, lane_id: str, *, by: Actor | None) -> Lane | None:
    """Let nothing be sent into a lane until it is resumed. Returns None if there is no such lane.

    What Together holds is still polled and fetched.
    """

    def change(lane: Lane, now: datetime) -> None:
        lane.paused_at = lane.paused_at or now

    return _change(db, lane_id, "pause", change, by)


def resume(db: Database, lane_id: str, *, by: Actor | None) -> Lane | None:
    """End a lane's pause, and its rest: it is healthy. Returns None if there is no such lane."""

    def change(lane: Lane, now: datetime) -> None:
        lane.paused_at = None
        health = health_of(lane)
        if not health.is_healthy:
            write(_session(lane), lane, healed(health, now))

    return _change(db, lane_id, "resume", change, by)


def probe(db: Database, lane_id: str, *, by: Actor | None) -> Lane | None:
    """Let a probe go now. Returns None if there is no such lane.

    Raises Conflict if the lane is healthy, or paused: then nothing would go, or everything goes.
    """

    def change(lane: Lane, now: datetime) -> None:
        if lane.paused_at is not None:
            raise Conflict("the lane is paused; resume it first")
        if lane.state is LaneState.HEALTHY:
            raise Conflict("the lane is healthy: what waits is admitted without a probe")
        write(_session(lane), lane, probed_now(health_of(lane), now))

    return _change(db, lane_id, "probe", change, by)


def _session(lane: Lane) -> Session:
    session = Session.object_session(lane)
    assert session is not None
    return session


def _change(
    db: Database,
    lane_id: str,
    verb: str,
    change: Callable[[Lane, datetime], None],
    by: Actor | None,
) -> Lane | None:
    with db.begin() as session:
        found = next((lane for lane in session.scalars(_ALL) if id_of(lane) == lane_id), None)
        if found is None:
            return None
        now = session.scalars(select(func.now())).one()
        session.refresh(found, with_for_update=True)
        before = _shown(found)
        change(found, now)
        record(session, by, verb, path("lanes", lane_id), before=before, after=_shown(found))
        session.flush()
        session.refresh(found)
        return found


def _shown(lane: Lane) -> dict[str, str | bool]:
    return {
        "lane": f"{lane.account} {lane.endpoint} {lane.model}",
        "state": str(lane.state),
        "paused": lane.paused_at is not None,
    }
