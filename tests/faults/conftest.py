"""Fault tests end as they went: whatever still runs is killed."""

from collections.abc import Iterator

import pytest

from tests.processes import Processes


@pytest.fixture
def processes(processes: Processes) -> Iterator[Processes]:
    """Nobody waits for a warm shutdown here."""
    yield processes
    processes.kill()


@pytest.fixture
def private_processes(private_processes: Processes) -> Iterator[Processes]:
    yield private_processes
    private_processes.kill()
