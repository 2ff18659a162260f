"""The models of OpenAI's SDK: frameworks ask for them before anything else."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from fastapi import APIRouter

from service.api.auth import READ, CalledBy
from service.api.services import Uses
from service.rules.prices import ANY_MODEL
from service.store.usage import usage

RECENT = timedelta(days=90)
"""Whatever the producer used since is listed."""

router = APIRouter()


@router.get("/models", dependencies=[READ])
def list_models(services: Uses, caller: CalledBy) -> dict[str, Any]:
    """List the models that have a price or that the producer used of late. Others work as well.

    `created` is the day (UTC) of the first price, or of the first use.
    """
    today = datetime.now(UTC).date()
    producers = [caller.producer]
    used = usage(services.db, since=today - RECENT, until=today, producers=producers, by=["model"])
    known: dict[str, date] = {}
    for one in used:
        known[one.model] = min(one.day, known.get(one.model, one.day))
    priced = {name: of for name, of in services.settings.prices.items() if name != ANY_MODEL}
    known |= {model: prices[0].since for model, prices in priced.items()}
    data = [_model(name, since) for name, since in sorted(known.items())]
    return {"object": "list", "data": data}


def _model(name: str, since: date) -> dict[str, Any]:
    created = int(datetime.combine(since, time(), UTC).timestamp())
    owner = name.partition("/")[0]
    return {"id": name, "object": "model", "created": created, "owned_by": owner}
