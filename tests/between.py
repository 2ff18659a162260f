"""What stands between Haulier and its servers: PgBouncer, a standby, Sentinel, TLS."""

import os
import secrets
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import redis

from service.cli.run.process import Process
from service.cli.up.ports import free_port
from service.cli.up.postgres import Postgres
from service.cli.up.valkey import Valkey, find_server
from tests.eventually import eventually
from tests.faults.proxy import Proxy
from tests.servers import UNSYNCED, Server, running
from tests.tls_proxy import self_signed

ODD = "p@s:/s#w?ö %;"
"""A password with every character that means something in a URL."""


@contextmanager
def pgbouncer(home: Path, **targets: str) -> Iterator[dict[str, str]]:
    """A PgBouncer in transaction mode. Gives its own URL for each URL behind it.

    It takes no startup options, as it does unless it is told otherwise.
    """
    port = free_port()
    lines = ["[databases]"]
    for name, url in targets.items():
        to = urlsplit(url)
        place = f"host={to.hostname} port={to.port} dbname={to.path[1:]}"
        lines.append(f"{name} = {place} user={to.username} password={to.password}")
    lines += [
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        "pool_mode = transaction",
        "default_pool_size = 5",
    ]
    file = home / "pgbouncer.ini"
    file.write_text("\n".join(lines))
    file.chmod(0o644)
    urls = {name: f"postgresql://anybody@127.0.0.1:{port}/{name}" for name in targets}

    def ready() -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(next(iter(urls.values())), connect_timeout=2).close()
            return True
        return False

    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    argv = ["pgbouncer", *user, str(file)]
    process = Process(name="pgbouncer", argv=argv, log=home / "pgbouncer.log", ready=ready)
    with running(Server(process, next(iter(urls.values())))):
        yield urls


@contextmanager
def primary_and_standby(home: Path) -> Iterator[tuple[Server, Server]]:
    """Two Postgres servers: the second follows the first."""
    password = secrets.token_hex(8)
    for name in ("one", "two"):
        (home / name).mkdir(mode=0o711)
    one, two = (
        Postgres(home=home / name, port=free_port(), password=password, settings=UNSYNCED)
        for name in ("one", "two")
    )
    one.prepare()
    with running(Server(one.process(), one.url)) as primary:
        process = one.process()
        program = Path(process.argv[0]).with_name("pg_basebackup")
        data = home / "two" / "postgres"
        copy = [str(program), "-d", one.url, "-D", str(data), "-R", "-X", "stream", "-c", "fast"]
        subprocess.run(copy, env=dict(process.env or {}), check=True)
        if process.user is not None:
            for path in (data, *data.rglob("*")):
                shutil.chown(path, process.user, process.user)
        two.prepare()
        with running(Server(two.process(), two.url)) as standby:
            yield primary, standby


class Watched:
    """A primary and its replica with a user of an odd password, and a Sentinel above them."""

    def __init__(self, home: Path) -> None:
        self._password = secrets.token_hex(8)
        self._home = home
        self._ports = (free_port(), free_port())
        one, two = self._ports
        self.primary = self._valkey("one", one)
        self.replica = self._valkey("two", two, replicaof=f"127.0.0.1 {one}")
        self.sentinel = self._sentinel(free_port())

    @property
    def url(self) -> str:
        name = f"haulier:{quote(ODD, safe='')}"
        # One of the Sentinels is not there.
        hosts = f"127.0.0.1:1,{urlsplit(self.sentinel.url).netloc}"
        options = "master_name=main&sentinel_password=for-sentinels"
        return f"sentinel://{name}@{hosts}/3?{options}"

    @contextmanager
    def running(self) -> Iterator[None]:
        with running(self.primary), running(self.replica):
            for server in (self.primary, self.replica):
                with redis.Redis.from_url(server.url) as client:
                    rights = [f">{ODD}", "~*", "&*", "+@all"]
                    client.execute_command("ACL", "SETUSER", "haulier", "on", *rights)
                    # A Sentinel looks for replicas at once, and then only every 10 seconds.
                    eventually(partial(is_synced, client))
            with running(self.sentinel):
                yield

    def _valkey(self, name: str, port: int, **settings: str) -> Server:
        home = self._home / name
        home.mkdir(mode=0o711)
        valkey = Valkey(
            home=home,
            port=port,
            password=self._password,
            settings={"masterauth": self._password, **settings},
        )
        valkey.prepare()
        return Server(valkey.process(), valkey.url)

    def _sentinel(self, port: int) -> Server:
        file = self._home / "sentinel.conf"  # Sentinel writes into it
        file.write_text(
            f"port {port}\n"
            "bind 127.0.0.1\n"
            "requirepass for-sentinels\n"
            f"sentinel monitor main 127.0.0.1 {self._ports[0]} 1\n"
            f"sentinel auth-pass main {self._password}\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 3000\n"
        )

        def ready() -> bool:
            with suppress(redis.RedisError), self._client(port) as client:
                return bool(client.execute_command("SENTINEL", "REPLICAS", "main"))
            return False

        process = Process(
            name="sentinel",
            argv=[str(find_server()), str(file), "--sentinel"],
            log=self._home / "sentinel.log",
            ready=ready,
        )
        return Server(process, f"redis://127.0.0.1:{port}")

    def _client(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, password="for-sentinels", socket_timeout=2)


def is_synced(client: redis.Redis) -> bool:
    found = client.info("replication")
    return found.get("connected_slaves") == 1 or found.get("master_link_status") == "up"


@contextmanager
def tls_before(url: str, home: Path) -> Iterator[tuple[int, Path]]:
    """A port where a server can be had over TLS, and the certificate to trust."""
    to = urlsplit(url)
    pem = home / "redis.pem"
    pem.write_bytes(self_signed())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    with Proxy(str(to.hostname), to.port or 0, tls=context) as proxy:
        yield proxy.port, pem
