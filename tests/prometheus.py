"""Prometheus and its promtool, where the machine has them (Debian: the package `prometheus`)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.cli.run.process import Process, spawn, tail
from service.cli.up.ports import free_port
from tests.eventually import eventually

OBSERVABILITY = Path(__file__).resolve().parent.parent / "deploy" / "observability"
RULES = OBSERVABILITY / "haulier.rules.yml"

Series = list[tuple[dict[str, str], float]]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="there is no promtool (Debian: package prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="there is no prometheus (Debian's package)"
)


def promtool(*arguments: str, given: str = "") -> str:
    """What it prints. It must find nothing to complain about."""
    done = subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=10, verify=False)

    def close(self) -> None:
        self._http.close()

    def value(self, expression: str) -> Series:
        """What an expression is now: the labels and the value of each series."""
        answer = self._http.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, answer.text
        return [
            (sample["metric"], float(sample["value"][1]))
            for sample in answer.json()["data"]["result"]
        ]

    def ready(self) -> bool:
        return self._http.get("/-/ready").status_code == 200


@contextmanager
def scraping(target: str, folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that often scrapes the API at `host:port`, with its data in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
        f"scrape_configs: [{{job_name: haulier, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    port = free_port()
    argv = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
        "--query.lookback-delta=3s",
    ]
    child = spawn(Process(name="prometheus", argv=argv, env=dict(os.environ), log=log))
    found = Prometheus(f"http://127.0.0.1:{port}")
    try:
        try:
            eventually(found.ready)
        except AssertionError as error:
            raise AssertionError(tail(log)) from error
        yield found
    finally:
        found.close()
        child.terminate()
        child.wait(timeout=20)
