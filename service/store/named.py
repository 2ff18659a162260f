"""Which blobs are named by a row."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Text, Uuid, and_, any_, cast, func, select, union_all
from sqlalchemy.orm import aliased

from service.store.engine import Database
from service.store.models import Batch, Job, Part, Segment


def existing(db: Database, ids: Collection[UUID], row: type[Job | Batch]) -> set[UUID]:
    """Those of the jobs, or of the batches, that are known."""
    among = any_(cast(list(ids), ARRAY(Uuid)))
    with db.begin() as session:
        return set(session.scalars(select(row.id).where(row.id == among)))


child = aliased(Part)


def named(
    db: Database, ids: Collection[UUID], row: type[Job | Batch], names: Collection[str]
) -> set[str]:
    """Those of the names that a row of these jobs, or of the jobs in these batches, names."""
    among = any_(cast(list(ids), ARRAY(Uuid)))
    if row is Job:
        of_parts, of_segments = Part.job_id == among, Segment.job_id == among
    else:
        of_parts = Part.batch_id == among
        of_segments = Segment.job_id.in_(select(Part.job_id).where(of_parts))
    rows = union_all(
        *(
            select(_blob(name).label("name")).where(of_parts)
            for name in (
                Part.input_blob,
                Part.manifest_blob,
                Part.final_lines["blob"].astext,
                Part.final_lines["index_blob"].astext,
            )
        ),
        *(select(_blob(name)).where(of_segments) for name in (Segment.blob, Segment.index_blob)),
        # What goes again is named by the part that it is to be.
        select(_blob(child.manifest_blob))
        .join(Part, and_(Part.id == child.parent_id, Part.job_id == child.job_id))
        .where(of_parts),
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
