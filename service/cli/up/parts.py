"""The parts of `haulier up`: servers, processes, and the environment that they share."""

import json
import os
import socket
import sys
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec

from config.redaction import SIMULATED
from config.secret_files import without_secrets
from config.settings import Settings
from service.cli.run.process import Process
from service.cli.run.supervisor import Part, Siblings, Step
from service.cli.up.errors import StartError
from service.cli.up.home import LOGS, SIMULATOR_URL, Home, Kept
from service.cli.up.ports import becomes_free, free_port, port_like
from service.cli.up.postgres import Postgres
from service.cli.up.valkey import Valkey

BEHIND = 10
"""How far the other processes step back for the API, which people wait for."""

_NO_KEY = {"api_key": None}

_SECRETS = {
    "migrate": ("DATABASE_URL",),
    "api": ("DATABASE_URL", "HAULIER_ADMIN_TOKEN"),
    "worker": ("DATABASE_URL", "REDIS_URL", "TOGETHER_API_KEY", "HAULIER_ACCOUNTS"),
    "scheduler": ("DATABASE_URL", "REDIS_URL"),
    "inbox": ("DATABASE_URL", "REDIS_URL"),
    "simulator": (),
}
"""The secrets that each process needs. It gets no others."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """The addresses of everything, and the token."""

    url: str
    """The API's address."""
    token: str
    database_url: str
    redis_url: str
    simulator_url: str | None
    home: str
    blob_url: str
    prices: str | None
    """The price table as JSON, where one was set or everything is simulated."""


SIMULATED_PRICES = json.dumps(
    {"*": [{"from": "2020-01-01", "input": 0.2, "output": 0.6, "batch_discount": 0.5}]}
)
"""Made up, so that costs are seen without a price table. The simulator takes any model."""


def assemble(
    settings: Settings, home: Home, *, simulate: bool, port: int, batch_seconds: float | None
) -> tuple[Instance, list[Part]]:
    """Prepare the servers' data, choose ports and secrets, and return the parts to run.

    The caller holds the home's lock. Raises StartError, OSError.
    """
    if port and not becomes_free(port):
        raise StartError(
            f"port {port} is taken: choose another with --port {port % 65535 + 1},"
            " or any free one with --port 0"
        )
    port = port or free_port()
    kept = home.kept(simulated=simulate)
    home.keep(kept)  # before a database exists with this password
    postgres = _postgres(settings, home, kept)
    valkey = _valkey(settings, home, kept)
    simulator_port = port_like(kept.ports.get("simulator")) if simulate else None
    home.keep(_with_ports(kept, postgres, valkey, simulator_port))

    instance = Instance(
        url=f"http://127.0.0.1:{port}",
        token=_token(settings, kept),
        database_url=postgres.url if postgres else str(settings.database_url),
        redis_url=valkey.url if valkey else str(settings.redis_url),
        simulator_url=f"http://127.0.0.1:{simulator_port}" if simulator_port else None,
        home=str(home.directory),
        blob_url=settings.blobs,
        prices=os.environ.get("HAULIER_PRICES") or (SIMULATED_PRICES if simulate else None),
    )
    run = partial(_command, partial(_environment, instance, settings))
    servers = [server.process() for server in (postgres, valkey) if server is not None]
    simulator = [_simulator(run, simulator_port, home, batch_seconds)] if simulator_port else []
    api = replace(
        run("api", "--port", str(port)), ready=partial(_answers, f"{instance.url}/readyz")
    )
    # The worker waits for its running tasks.
    worker = replace(run("worker"), stop_timeout=timedelta(seconds=60))
    others = (worker, run("scheduler"), run("inbox"))
    queues = Siblings(tuple(replace(process, nice=BEHIND) for process in others))
    return instance, [*servers, Step(run("migrate")), *simulator, api, queues]


def _with_ports(
    kept: Kept, postgres: Postgres | None, valkey: Valkey | None, simulator_port: int | None
) -> Kept:
    used = {
        "postgres": postgres and postgres.port,
        "valkey": valkey and valkey.port,
        "simulator": simulator_port,
    }
    ports = {name: port for name, port in used.items() if port is not None}
    return msgspec.structs.replace(kept, ports={**kept.ports, **ports})


def _token(settings: Settings, kept: Kept) -> str:
    given = settings.admin_token
    return kept.admin_token if given is None else given.get_secret_value()


def _environment(instance: Instance, settings: Settings, name: str) -> dict[str, str]:
    """Return the environment of one of Haulier's own processes, with the secrets that it needs."""
    own = {
        "DATABASE_URL": instance.database_url,
        "REDIS_URL": instance.redis_url,
        "HAULIER_HOME": instance.home,
        "HAULIER_BLOB_URL": instance.blob_url,
        "HAULIER_ADMIN_TOKEN": instance.token,
        **({"HAULIER_PRICES": instance.prices} if instance.prices else {}),
        **(_simulated(settings, instance.simulator_url) if instance.simulator_url else {}),
    }
    # What is set here stands in no file.
    inherited = {k: v for k, v in os.environ.items() if k.removesuffix("_FILE") not in own}
    needed = without_secrets({**inherited, **own}, but=_SECRETS[name])
    if "HAULIER_ACCOUNTS" in _SECRETS[name]:
        return needed
    # The names of the accounts are no secrets, and decide what producers may use.
    return {**needed, "HAULIER_ACCOUNTS": json.dumps(dict.fromkeys(settings.accounts, _NO_KEY))}


def _postgres(settings: Settings, home: Home, kept: Kept) -> Postgres | None:
    """Return an embedded server, None if the environment names another one."""
    if settings.database_url and kept.postgres_password not in settings.database_url:
        return None
    # A URL with the instance's password comes from its own env file, which the shell has read.
    last = kept.ports.get("postgres")
    postgres = Postgres(home=home.directory, port=last or 0, password=kept.postgres_password)
    postgres.prepare()
    return replace(postgres, port=port_like(last))


def _valkey(settings: Settings, home: Home, kept: Kept) -> Valkey | None:
    """Return an embedded server, None if the environment names another one."""
    if settings.redis_url and kept.valkey_password not in settings.redis_url:
        return None
    last = kept.ports.get("valkey")
    valkey = Valkey(home=home.directory, port=last or 0, password=kept.valkey_password)
    valkey.prepare()
    return replace(valkey, port=port_like(last))


def _simulated(settings: Settings, simulator_url: str) -> dict[str, str]:
    """Return settings that lead every account to the simulator, so that none reaches Together."""
    accounts = {
        # Each key is an account of its own at the simulator, with its own credit and books.
        name: {"api_key": f"{SIMULATED}-{name}", "base_url": simulator_url}
        for name in settings.accounts
    }
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    usual = {
        # Simulated batches take seconds, not hours.
        "HAULIER_POLL_SECONDS": "1",
        "HAULIER_RETRY_BASE_SECONDS": "1",
        # Who tries webhooks out receives them on this machine.
        "HAULIER_WEBHOOK_ALLOW_PRIVATE": "loopback",
    }
    return {
        "TOGETHER_BASE_URL": simulator_url,
        "TOGETHER_API_KEY": SIMULATED,
        "HAULIER_ACCOUNTS": json.dumps(accounts),
        "NO_PROXY": direct,
        "no_proxy": direct,
        **{name: os.environ.get(name) or value for name, value in usual.items()},
    }


def _simulator(
    run: Callable[..., Process], port: int, home: Home, batch_seconds: float | None
) -> Process:
    arguments = ["--port", str(port), "--data", str(home.directory / "simulator")]
    if batch_seconds is not None:
        arguments += ["--batch-seconds", str(batch_seconds)]
    return replace(run("simulator", *arguments), ready=partial(_listens, port))


def _command(
    environment: Callable[[str], Mapping[str, str]], name: str, *arguments: str
) -> Process:
    # -P: do not import a folder of the present directory that has the name of one of Haulier's.
    argv = [sys.executable, "-P", "-m", "service.cli.main", name, *arguments]
    own = environment(name)
    log = Path(own["HAULIER_HOME"]) / LOGS / f"{name}.log"
    return Process(name=name, argv=argv, env=own, log=log)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError), direct.open(url, timeout=2) as response:
        return bool(response.status == 200)
    return False


def shell_variables(instance: Instance) -> Mapping[str, str]:
    """Return the variables for clients, producers and `haulier doctor` on this machine."""
    more = {SIMULATOR_URL: instance.simulator_url, "HAULIER_PRICES": instance.prices}
    return {
        "HAULIER_HOME": instance.home,
        "HAULIER_URL": instance.url,
        "HAULIER_TOKEN": instance.token,
        "DATABASE_URL": instance.database_url,
        "REDIS_URL": instance.redis_url,
        "HAULIER_BLOB_URL": instance.blob_url,
        **{name: value for name, value in more.items() if value},
    }
