"""A reader of the documentation: an empty shell, and `haulier up --simulate` beside it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.processes import Processes
from tests.servers import open_directory

NOT_OURS = ("HAULIER_", "TOGETHER_", "DATABASE_URL", "REDIS_URL")


@pytest.fixture
def environment_of_a_reader() -> dict[str, str]:
    """With `haulier` and `python` on the path, and nothing of Haulier set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "NO_PROXY": "127.0.0.1", "CALLS": "120"}


@pytest.fixture
def home_of_up(environment_of_a_reader: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """Where a running `haulier up --simulate` lives."""
    with open_directory("up") as directory:
        started = Processes(tmp_path, environment_of_a_reader)
        up = started.haulier(
            *("up", "--simulate", "--port", "0", "--batch-seconds", "0.2"),
            HAULIER_HOME=str(directory / "home"),
            HAULIER_PACK_SECONDS="0.5",
            HAULIER_RETRY_PACK_SECONDS="0.5",
            HAULIER_RETRY_BASE_SECONDS="0.5",
        )

        def is_up() -> bool:
            assert up.alive, up.output
            return "Haulier is up" in up.output

        try:
            eventually(is_up, timeout=60)
            yield directory / "home"
        finally:
            started.stop()
            print(started.tails())
