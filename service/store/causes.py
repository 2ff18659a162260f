"""Failed requests grouped by cause: by their code and by what their messages have in common.

A bounded number of dead letters is looked at, and the answer says whether these were all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text, tuple_

from service.rules.alike import alike, cause_id
from service.store.engine import Database
from service.store.models import DeadLetter

MOST_OF_A_JOB = 100_000
"""The most dead letters of a job that are looked at, the first in the order of the input."""

MOST_OF_A_PRODUCER = 20_000
"""The same of a producer, the newest."""

MOST_GROUPS = 1_000
"""The most texts that are told apart, those of most requests."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Failed requests with one code, whose messages are alike."""

    id: str
    code: str
    text: str
    requests: int
    jobs: int
    """How many jobs they are of, at least."""
    first_at: datetime
    last_at: datetime
    examples: tuple[DeadLetter, ...]


@dataclass(frozen=True, kw_only=True)
class Causes:
    """The causes of most requests first. `requests` is how many were looked at for them."""

    causes: tuple[Cause, ...]
    requests: int
    is_complete: bool
    """Whether fewer were looked at than are at most, so that there are no others."""


# Rows of before have no cause: their messages are told apart here, and put together afterwards.
_GROUPED = """
SELECT code, cause, CASE WHEN cause IS NULL THEN left(message, 1200) END AS message,
       count(*) AS requests, count(DISTINCT job_id) AS jobs,
       min(at) AS first_at, max(at) AS last_at,
       min(concat(job_id, '/', ordinal)) AS one, max(concat(job_id, '/', ordinal)) AS other,
       sum(count(*)) OVER () AS looked_at, max(max(place)) OVER () AS last_place
FROM looked_at GROUP BY code, cause, 3 ORDER BY requests DESC, last_at DESC LIMIT :groups
"""
_COLUMNS = "job_id, ordinal, code, cause, message, at"
_OF_A_JOB = text(f"""
WITH looked_at AS (
    SELECT {_COLUMNS}, row_number() OVER (ORDER BY ordinal) AS place
    FROM haulier.dead_letters WHERE job_id = :job ORDER BY ordinal LIMIT :most
) {_GROUPED}""")  # noqa: S608 - put together from constants
_LATELY = text(f"""
WITH looked_at AS (
    SELECT found.* FROM haulier.producers, LATERAL (
        SELECT {_COLUMNS}, row_number() OVER (ORDER BY at DESC) AS place
        FROM haulier.dead_letters
        WHERE producer = producers.name AND at >= :since AND at < :until
        ORDER BY at DESC LIMIT :most
    ) AS found
    WHERE producers.name = :producer OR CAST(:producer AS text) IS NULL
) {_GROUPED}""")  # noqa: S608 - put together from constants


def causes_of_job(db: Database, job_id: UUID, *, limit: int, most: int = MOST_OF_A_JOB) -> Causes:
    """Group the failed requests of a job. At most `limit` causes."""
    return _causes(db, _OF_A_JOB, {"job": job_id}, limit=limit, most=most)


def causes_since(
    db: Database,
    *,
    since: datetime,
    until: datetime,
    producer: str | None,
    limit: int,
    most: int = MOST_OF_A_PRODUCER,
) -> Causes:
    """Group what failed for good in [since, until), of one producer or (None) of all.

    Of each producer the newest `most` are looked at, so that none hides the failures of another.
    """
    window = {"since": since, "until": until, "producer": producer}
    return _causes(db, _LATELY, window, limit=limit, most=most)


def custom_ids_of_cause(db: Database, job_id: UUID, cause: str, limit: int | None) -> list[str]:
    """Return the requests of a job that failed for a cause, in input order; at most `limit`."""
    known = causes_of_job(db, job_id, limit=MOST_GROUPS).causes
    found = next((one for one in known if one.id == cause), None)
    if found is None:
        return []
    wanted = DeadLetter.cause == found.text
    query = (
        select(DeadLetter.custom_id, DeadLetter.cause, DeadLetter.message)
        .where(DeadLetter.job_id == job_id, DeadLetter.code == found.code)
        .where(wanted | DeadLetter.cause.is_(None))
        .order_by(DeadLetter.ordinal)
    )
    query = query.execution_options(yield_per=1000)
    with db.begin() as session, session.execute(query) as rows:
        names = (row.custom_id for row in rows if row.cause or alike(row.message) == found.text)
        return list(islice(names, limit))


def _causes(
    db: Database, query: Any, values: Mapping[str, Any], *, limit: int, most: int
) -> Causes:
    with db.begin() as session:
        rows = session.execute(query, {**values, "most": most, "groups": MOST_GROUPS}).all()
        found = _put_together(rows)[:limit]
        places = {place for _, places in found for place in places}
        key = tuple_(DeadLetter.job_id, DeadLetter.ordinal)
        letters = {
            (letter.job_id, letter.ordinal): letter
            for letter in session.scalars(select(DeadLetter).where(key.in_(places)))
        }
    return Causes(
        causes=tuple(
            replace(
                cause,
                examples=tuple(letters[place] for place in sorted(places) if place in letters),
            )
            for cause, places in found
        ),
        requests=int(rows[0].looked_at) if rows else 0,
        is_complete=not rows or rows[0].last_place < most,
    )


Place = tuple[UUID, int]


def _put_together(rows: Sequence[Row[Any]]) -> list[tuple[Cause, set[Place]]]:
    """Return the causes in the groups with the places of their examples, the largest first."""
    found: dict[str, tuple[Cause, set[Place]]] = {}
    for row in rows:
        words = alike(row.message) if row.cause is None else row.cause
        name = cause_id(row.code, words)
        cause = Cause(
            id=name,
            code=row.code,
            text=words,
            requests=row.requests,
            jobs=row.jobs,
            first_at=row.first_at,
            last_at=row.last_at,
            examples=(),
        )
        places = {_place(row.one), _place(row.other)}
        if name in found:
            earlier, known = found[name]
            cause = replace(
                earlier,
                requests=earlier.requests + cause.requests,
                jobs=max(earlier.jobs, cause.jobs),
                first_at=min(earlier.first_at, cause.first_at),
                last_at=max(earlier.last_at, cause.last_at),
            )
            places = known
        found[name] = cause, places
    return sorted(found.values(), key=lambda one: one[0].requests, reverse=True)


def _place(words: str) -> Place:
    job_id, _, ordinal = words.partition("/")
    return UUID(job_id), int(ordinal)
