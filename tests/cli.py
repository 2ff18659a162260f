"""The command line in tests: as a process, against a real API.

PYTEST_DONT_REWRITE, so that test modules may import this before it is registered as a plugin.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from service.cli.up.ports import free_port
from tests.eventually import eventually
from tests.forked import Forked
from tests.pipeline import Pipeline, chat
from tests.processes import HAULIER, Running

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"


@dataclass(frozen=True)
class Ended:
    """What became of one command."""

    status: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


def run(*arguments: str, env: Mapping[str, str], cwd: Path, stdin: bytes = b"") -> Ended:
    """Run one command of `haulier` to its end."""
    with tempfile.TemporaryDirectory(prefix="haulier-cli-") as home:
        given, out, err = (Path(home) / name for name in ("stdin", "stdout", "stderr"))
        given.write_bytes(stdin)
        command = [*HAULIER, *arguments]
        running = Forked(command, env=env, cwd=cwd, stdin=given, stdout=out, stderr=err)
        try:
            status = running.wait(60)
        finally:
            running.kill()
        # As bytes: a text file would hide "\r".
        ended = Ended(status, out.read_bytes().decode(), err.read_bytes().decode())
    assert "Traceback" not in ended.err, ended.err
    return ended


class Cli:
    """Runs `haulier` with the environment of somebody who uses the API from elsewhere."""

    def __init__(
        self, url: str, directory: Path, environment: dict[str, str], api: Running | None = None
    ) -> None:
        self.url = url
        self._api = api
        self.directory = directory
        servers = ("DATABASE_URL", "REDIS_URL", "HAULIER_")
        self.environment = {k: v for k, v in environment.items() if not k.startswith(servers)}
        self.environment |= {"HAULIER_URL": url, "HAULIER_TOKEN": "test-admin-token-for-all"}

    def __call__(self, *arguments: str, stdin: bytes = b"", **more: str) -> Ended:
        return run(*arguments, env={**self.environment, **more}, cwd=self.directory, stdin=stdin)

    @property
    def api(self) -> Running:
        assert self._api is not None
        return self._api

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*HAULIER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.directory,
            text=True,
        )

    def submit(self, *custom_ids: str, options: Sequence[str] = ()) -> str:
        """Submit chat requests; gives the job's id."""
        done = self("submit", "-", *options, stdin=requests(*custom_ids))
        assert done.status == 0, done.err
        return done.out.strip()


def requests(*custom_ids: str) -> bytes:
    lines = chat(*custom_ids)["requests"]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


@pytest.fixture
def cli(pipeline: Pipeline, environment: dict[str, str], work: Path) -> Cli:
    """With an API, but nobody who does the work."""
    port = free_port()
    api = pipeline.processes.haulier("api", "--port", str(port))
    eventually(lambda: "api_started" in api.output)
    return Cli(f"http://127.0.0.1:{port}", work, environment, api)


@pytest.fixture
def absent(work: Path) -> Cli:
    """Where nobody listens, for what ends before the API is asked."""
    return Cli(f"http://127.0.0.1:{free_port()}", work, dict(os.environ))


@pytest.fixture
def working(cli: Cli, pipeline: Pipeline) -> Cli:
    """With everything."""
    pipeline.worker()
    pipeline.scheduler()
    return cli
