"""Everything that the workers know of the stages follows from the table in workers/pipeline.py."""

from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest

from config.settings import settings
from service.rules.states import BATCH_STAGES, BATCH_TRANSITIONS, Stage
from service.store.due import Due

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module", autouse=True)
def _servers_are_named() -> Iterator[None]:
    """`workers.app` reads where the servers are when it is imported. Nothing connects to them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
        patch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
        settings.cache_clear()
        yield
        settings.cache_clear()


@pytest.fixture
def pipeline() -> ModuleType:
    from workers import pipeline

    return pipeline


@pytest.fixture
def app() -> Any:
    from workers.app import app

    app.loader.import_default_modules()  # as a worker does at its start
    return app


def sent(pipeline: ModuleType, stage: Stage, ids: list[UUID]) -> list[Any]:
    """The messages for rows of one account that are due for a stage."""
    due = [Due(stage, row_id, "default") for row_id in ids]
    return [nudge for nudge, _ in pipeline.messages(due)]


def test_the_table_lists_every_stage(pipeline: ModuleType) -> None:
    assert set(pipeline.PIPELINE) == set(Stage)


@pytest.mark.parametrize("stage", Stage)
def test_a_stage_that_is_missing_stops_the_process_at_its_start(
    pipeline: ModuleType, stage: Stage
) -> None:
    without = {name: step for name, step in pipeline.PIPELINE.items() if name is not stage}
    with pytest.raises(AssertionError, match="PIPELINE does not list the stages of a"):
        pipeline.check(without)


@pytest.mark.parametrize("stage", Stage)
def test_a_stage_has_one_function_one_task_one_queue_and_one_window(
    pipeline: ModuleType, app: Any, stage: Stage
) -> None:
    step = pipeline.PIPELINE[stage]
    functions = {**pipeline.WORK.jobs, **pipeline.WORK.batches}

    assert functions[stage] is (step.job or step.batch)
    assert f"haulier.{stage}" in app.tasks
    assert step.queue in {queue.name for queue in app.conf.task_queues}
    (window,) = [window for window in pipeline.WINDOWS if stage in window.stages]
    assert (window.queue, window.page) == (step.queue, step.page)


@pytest.mark.parametrize("stage", BATCH_STAGES.values())
def test_what_follows_a_stage_is_what_its_batch_is_due_for_next(
    pipeline: ModuleType, stage: Stage
) -> None:
    (state,) = [state for state, due_for in BATCH_STAGES.items() if due_for is stage]
    due_next = {BATCH_STAGES.get(target) for target in BATCH_TRANSITIONS[state]}
    step = pipeline.PIPELINE[stage]

    following = {step.chains_to, step.starts} - {None}
    assert len(following) <= 1
    assert following <= due_next


def test_an_upload_goes_on_to_its_create_in_one_chain(pipeline: ModuleType) -> None:
    batch_id = uuid4()
    (chain,) = sent(pipeline, Stage.UPLOAD, [batch_id])

    assert [(link.task, link.args, link.options["queue"]) for link in chain.tasks] == [
        ("haulier.upload", (str(batch_id),), "haulier.transfer"),
        ("haulier.create", (str(batch_id),), "haulier.control"),
    ]
    assert not any("expires" in link.options for link in chain.tasks)
    assert all(link.immutable for link in chain.tasks)


@pytest.mark.parametrize("stage", [Stage.SPLIT, Stage.CREATE, Stage.FETCH])
def test_a_stage_without_a_next_link_is_one_message_for_each_row(
    pipeline: ModuleType, stage: Stage
) -> None:
    ids = [uuid4(), uuid4()]
    nudges = sent(pipeline, stage, ids)

    assert [nudge.task for nudge in nudges] == [f"haulier.{stage}"] * 2
    assert [nudge.args for nudge in nudges] == [(str(row_id),) for row_id in ids]


@pytest.mark.parametrize("stage", [Stage.POLL, Stage.ASSEMBLE])
def test_rows_of_an_account_share_messages_up_to_a_page(pipeline: ModuleType, stage: Stage) -> None:
    page = pipeline.PIPELINE[stage].page
    ids = [uuid4() for _ in range(page + 1)]
    nudges = sent(pipeline, stage, ids)

    assert [len(nudge.args[0]) for nudge in nudges] == [page, 1]
    assert [row_id for nudge in nudges for row_id in nudge.args[0]] == list(map(str, ids))
