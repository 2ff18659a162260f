"""A deployment from docker-compose.yml, against the simulator, under a project name of its own."""

import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.eventually import eventually

ROOT = Path(__file__).parents[2]
SIMULATOR = "http://simulator:8090"
WORKERS = ("worker-transfer", "worker-control")
HAULIER = ("api", *WORKERS, "scheduler", "inbox", "notifier")
LASTING = ("postgres", "redis", *HAULIER, "simulator")

# What a backend service does that knows Celery and nothing of Haulier.
PRODUCER = """
import json, os, sys
from celery import Celery
app = Celery(broker=os.environ["REDIS_URL"])
spec = json.load(sys.stdin)
print(app.send_task("haulier.submit", kwargs={"spec": spec}, queue="haulier.submit").id)
"""


BOOKS = f"""
from urllib.request import urlopen
print(urlopen("{SIMULATOR}/_control/books?lines=false").read().decode())
"""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _compose() -> list[str]:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise SystemExit("neither `docker compose` nor `docker-compose` is installed")


class Deployment:
    """Containers by the names of their services."""

    def __init__(self) -> None:
        self.port = _free_port()
        self.secrets = {
            name: secrets.token_hex(16)
            for name in (
                "POSTGRES_PASSWORD",
                "RUNTIME_PASSWORD",
                "REDIS_PASSWORD",
                "HAULIER_ADMIN_TOKEN",
                "TOGETHER_API_KEY",
            )
        }
        self.project = f"haulier-test-{os.getpid()}"
        self._command = [*_compose(), "--project-name", self.project, "--profile", "simulate"]
        self._environment = {
            **os.environ,
            **self.secrets,
            "HAULIER_IMAGE": "haulier:test",
            "HAULIER_PORT": str(self.port),
            "TOGETHER_BASE_URL": SIMULATOR,
            # Shorter than in production, so that what was killed is taken up again soon.
            "HAULIER_LEASE_SECONDS": "10",
            "HAULIER_POLL_SECONDS": "1",
            "HAULIER_RETRY_BASE_SECONDS": "1",
            "HAULIER_CREATE_GRACE_SECONDS": "5",
            "HAULIER_SETTLE_PATIENCE_SECONDS": "10",
            "HAULIER_SHARD_REQUESTS": "50",
        }

    def compose(self, *arguments: str, stdin: str = "") -> str:
        """Run a compose command and give what it printed. Raises SystemExit where it fails."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = f"{done.stdout}\n{done.stderr}"
            raise SystemExit(f"compose {' '.join(arguments[:2])} failed:\n{said[-4000:]}")
        return done.stdout

    def container(self, service: str) -> str:
        """The id of the container of a service, also of one that has ended."""
        found = self.docker(
            "ps",
            *("--all", "--quiet", "--no-trunc"),
            *("--filter", f"label=com.docker.compose.project={self.project}"),
            *("--filter", f"label=com.docker.compose.service={service}"),
            *("--filter", "label=com.docker.compose.oneoff=False"),
        ).split()
        if len(found) != 1:
            raise AssertionError(f"{len(found)} containers of {service}, not one")
        return found[0]

    def docker(self, *arguments: str) -> str:
        """Run a docker command; gives what it printed to stdout and stderr."""
        done = subprocess.run(
            ["docker", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"docker {arguments[0]} failed: {done.stdout[-2000:]}")
        return done.stdout

    def inspect(self, service: str) -> dict[str, Any]:
        """What Docker knows of the container of a service."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", self.container(service)))
        return found[0]

    def execute(self, service: str, *command: str) -> str:
        """Run a command inside the container of a service."""
        return self.docker("exec", self.container(service), *command)

    def kill(self, service: str) -> None:
        """SIGKILL; Docker does not start it again by itself after that."""
        self.docker("kill", self.container(service))

    def start(self, service: str) -> None:
        """Start a killed container again, as a machine does that comes back."""
        self.docker("start", self.container(service))

    def healthy(self, *services: str, within: float = 120) -> None:
        """Wait until these services are running and well, by their own health checks."""

        def states() -> dict[str, str]:
            return {
                service: self.inspect(service)["State"].get("Health", {}).get("Status", "none")
                for service in services
            }

        def well() -> bool:
            if set(now := states().values()) != {"healthy"}:
                raise AssertionError(f"not healthy: {now}, {states()}")
            return True

        eventually(well, within, interval=1)

    def send(self, spec: dict[str, object]) -> str:
        """Send a batch spec over the queue, with Celery alone. Gives the task id."""
        return self.compose(
            *("run", "--rm", "-T", "--no-deps", "--entrypoint", "python"),
            *("inbox", "-I", "-c", PRODUCER),
            stdin=json.dumps(spec),
        ).split()[-1]

    def bought(self) -> dict[str, int]:
        """The totals of the simulator's books."""
        books = json.loads(self.execute("api", "python", "-I", "-c", BOOKS))
        totals: dict[str, int] = books["totals"]
        return totals

    def logs(self, service: str) -> str:
        """All that the container of a service has printed."""
        return self.docker("logs", self.container(service))


@contextmanager
def deployed() -> Iterator[Deployment]:
    """Build the image, bring everything up, and leave nothing but the image."""
    standins = os.environ.get("DOCKER_STANDINS")
    if standins:  # a script that provides the base images where there is no registry
        subprocess.run([standins], check=True)
    deployment = Deployment()
    try:
        print("building the image", flush=True)
        deployment.compose("build", "api")
        print("bringing everything up", flush=True)
        deployment.compose("up", "--detach", "--no-build")
        yield deployment
    except BaseException:
        for service in ("migrate", *LASTING):
            try:
                tail = "\n".join(deployment.logs(service).splitlines()[-30:])
            except AssertionError as error:
                tail = str(error)
            print(f"\n--- {service}\n{tail}")
        raise
    finally:
        deployment.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
