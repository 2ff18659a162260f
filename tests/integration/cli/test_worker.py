"""`haulier worker`: Celery workers and a notifier under one process, and never one without it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from service.rules.states import JobState
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.processes import HAULIER, Processes, Running, gone
from tests.servers import children
from tests.simulator import Simulator

TRANSFER = "haulier.transfer"
CONTROL = "haulier.control"


def descendants(pid: int) -> list[int]:
    below = children(pid)
    return below + [grandchild for child in below for grandchild in descendants(child)]


def celery(worker: Running, queue: str) -> list[int]:
    """Below a worker, the Celery parents for a queue."""
    return [pid for pid in children(worker.pid) if f"-Q {queue} " in command_line(pid)]


def command_line(pid: int) -> str:
    process = Path(f"/proc/{pid}/cmdline")
    if process.parents[1].joinpath("self").exists():
        return process.read_text().replace("\0", " ") if process.exists() else ""
    listed = subprocess.run(  # macOS
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout


@pytest.fixture
def worker(pipeline: Pipeline, simulator: Simulator) -> Running:
    together = {"TOGETHER_BASE_URL": simulator.url, "TOGETHER_API_KEY": "test-key"}
    together["HAULIER_LEASE_SECONDS"] = "60"  # calls may be held for a while
    return pipeline.processes.haulier("worker", "--concurrency", "3", **together)


def family(worker: Running, processes: int) -> list[int]:
    """All below the worker, once there are so many."""

    def found() -> list[int]:
        assert worker.alive, worker.output
        below = descendants(worker.pid)
        return below if len(below) == processes else []

    return eventually(found, timeout=60)


def test_it_works_with_slots_for_transfers_and_for_control_calls(
    pipeline: Pipeline, worker: Running
) -> None:
    pipeline.scheduler()
    job = pipeline.ended(pipeline.submit(chat("a", "b", "c")))

    assert job.state is JobState.COMPLETED
    # Two parents, three children for transfers, two for control, and the notifier.
    family(worker, 8)
    (transfer,), (control,) = celery(worker, TRANSFER), celery(worker, CONTROL)
    assert (len(children(transfer)), len(children(control))) == (3, 2)


def test_a_celery_worker_that_dies_comes_back_and_kill_9_of_it_leaves_no_process_behind(
    worker: Running,
) -> None:
    family(worker, 8)
    (first,) = celery(worker, CONTROL)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: [pid for pid in celery(worker, CONTROL) if pid != first])

    below = family(worker, 8)
    worker.kill()
    eventually(lambda: all(map(gone, below)), timeout=10)


def test_sigterm_lets_a_running_task_end(
    pipeline: Pipeline, worker: Running, simulator: Simulator
) -> None:
    simulator.hold("create")
    pipeline.scheduler()
    job_id = pipeline.submit(chat("a"))
    simulator.wait_held("create", timeout=60)
    below = descendants(worker.pid)

    worker.signal(signal.SIGTERM)
    eventually(lambda: "worker_stopping" in worker.output)
    simulator.release()

    assert worker.wait() == 0
    assert all(map(gone, below))
    assert [batch.state for batch in pipeline.batches(job_id)] == ["created"]


def test_for_one_queue_it_becomes_that_worker(processes: Processes) -> None:
    running = processes.haulier("worker", "--queues", "control")
    eventually(lambda: len(children(running.pid)) == 2, timeout=60)
    assert f"-Q {CONTROL} -c 2 " in command_line(running.pid)
    assert running.stop() == 0


def test_a_missing_setting_is_named(processes: Processes) -> None:
    running = processes.start(["env", "-u", "REDIS_URL", *HAULIER, "worker"])
    assert running.wait() == 2
    assert running.output == "haulier: REDIS_URL: is not set\n"
