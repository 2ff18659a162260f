"""Which blobs are named by a row."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Text, Uuid, any_, cast, func, select, union_all
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH

from service.store.engine import Database
from service.store.models import Batch, Job, Segment


def existing(db: Database, job_ids: Collection[UUID]) -> set[UUID]:
    """Those of the jobs that are known."""
    ids = any_(cast(list(job_ids), ARRAY(Uuid)))
    with db.begin() as session:
        return set(session.scalars(select(Job.id).where(Job.id == ids)))


def named(db: Database, job_ids: Collection[UUID], names: Collection[str]) -> set[str]:
    """Those of the names that a row of these jobs names."""
    ids = any_(cast(list(job_ids), ARRAY(Uuid)))
    # Whatever stands in a plan is taken for a name.
    everything = cast("$[*].*", JSONPATH)
    planned = func.jsonb_path_query(Job.plan, everything, type_=JSONB)[()].astext
    rows = union_all(
        *(
            select(_blob(name).label("name")).where(Batch.job_id == ids)
            for name in (
                Batch.input_blob,
                Batch.manifest_blob,
                Batch.final_lines["blob"].astext,
                Batch.final_lines["index_blob"].astext,
            )
        ),
        *(
            select(_blob(name)).where(Segment.job_id == ids)
            for name in (Segment.blob, Segment.index_blob)
        ),
        select(_blob(planned)).where(Job.id == ids),
    ).subquery()
    wanted = any_(cast(list(names), ARRAY(Text)))
    with db.begin() as session:
        return set(session.scalars(select(rows.c.name).where(rows.c.name == wanted)))


def _blob(name: Any) -> ColumnElement[str]:
    """A range of a blob is named as `<blob>@<offset>+<length>`."""
    return func.split_part(name, "@", 1)


def bundles(db: Database, names: Collection[str]) -> set[str]:
    """Those of the names that a job names as the page it shares."""
    wanted = any_(cast(list(names), ARRAY(Text)))
    # The partial index is used only where the query says what is in it.
    shared = select(Job.bundle_blob).where(Job.bundle_blob.is_not(None), Job.bundle_blob == wanted)
    with db.begin() as session:
        return {bundle for bundle in session.scalars(shared.distinct()) if bundle is not None}
