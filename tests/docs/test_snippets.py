"""Every command and snippet of the tutorial and the guides, as a reader runs them.

`haulier up --simulate` runs once for all pages, on a free port, with its home linked into each
page's folder: `. ./.haulier/env` finds it there, as it would beside a reader's own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.reference import ROOT
from tests.docs.snippets import script
from tests.eventually import eventually
from tests.processes import Processes
from tests.servers import open_directory

DOCS = ROOT / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]
NOT_OURS = ("HAULIER_", "TOGETHER_", "DATABASE_URL", "REDIS_URL")


@pytest.fixture(scope="module")
def environment_of_a_reader() -> dict[str, str]:
    """With `haulier` and `python` on the path, and nothing of Haulier set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "NO_PROXY": "127.0.0.1"}


@pytest.fixture(scope="module")
def home(
    environment_of_a_reader: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Where `haulier up --simulate` lives."""
    with open_directory("up") as directory:
        started = Processes(tmp_path_factory.mktemp("logs"), environment_of_a_reader)
        up = started.haulier(
            *("up", "--simulate", "--port", "0", "--batch-seconds", "0.2"),
            HAULIER_HOME=str(directory / "home"),
        )
        try:
            eventually(lambda: up.alive and "Haulier is up" in up.output, timeout=60)
            yield directory / "home"
        finally:
            started.kill()
            print(started.tails())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_does_what_it_says(
    page: Path, home: Path, environment_of_a_reader: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / ".haulier").symlink_to(home)

    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script(page)],
        cwd=tmp_path,
        env=environment_of_a_reader,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )

    print(done.stdout)
    assert done.returncode == 0
