"""The command line's token goes to the API that it belongs to, and to nobody else."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.cli import Cli

TOKEN = "a-token-of-the-environment"


@contextmanager
def stranger(redirect: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """A server that keeps what it is told in headers. Gives its URL, and them."""
    told: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(str(self.headers))
            self.send_response(200 if redirect is None else 307)
            self.send_header("Content-Length", "0")
            if redirect is not None:
                self.send_header("Location", redirect)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_folder_from_somebody_else_is_not_told_a_token(absent: Cli, work: Path) -> None:
    del absent.environment["HAULIER_URL"], absent.environment["HAULIER_TOKEN"]
    (work / ".haulier").mkdir()
    with stranger() as (url, told):
        left = f"export HAULIER_URL={url}\nexport HAULIER_TOKEN=left\n"
        (work / ".haulier" / "env").write_text(left)
        for done, variable in (
            (absent("jobs", HAULIER_TOKEN=TOKEN), "HAULIER_TOKEN"),
            (absent("jobs", HAULIER_ADMIN_TOKEN=TOKEN), "HAULIER_ADMIN_TOKEN"),
        ):
            assert done.status != 0
            assert f"{variable} is not sent to the URL in .haulier/env: set HAULIER_URL" in done.err
        assert told == []
        absent("jobs")
    (headers,) = told
    assert "Bearer left" in headers


def test_a_folder_that_names_another_machine_is_told_nothing(absent: Cli, work: Path) -> None:
    del absent.environment["HAULIER_URL"], absent.environment["HAULIER_TOKEN"]
    (work / ".haulier").mkdir()
    left = "export HAULIER_URL=http://haulier.invalid\nexport HAULIER_TOKEN=left\n"
    (work / ".haulier" / "env").write_text(left)
    done = absent("jobs")
    assert ".haulier/env is not used" in done.err.splitlines()[0]
    assert "haulier.invalid" not in "".join(done.err.splitlines()[1:])


def test_a_redirect_takes_no_token_along(absent: Cli) -> None:
    with stranger() as (elsewhere, told), stranger(redirect=f"{elsewhere}/v1/jobs") as (url, first):
        done = absent("jobs", HAULIER_URL=url, HAULIER_TOKEN=TOKEN)
        assert done.status == 2
        assert "is HAULIER_URL right?" in done.err
        assert len(first) == 1
        assert told == []


def test_a_token_in_clear_text_to_another_machine_is_warned_of(absent: Cli) -> None:
    done = absent("jobs", HAULIER_URL="http://haulier.invalid", HAULIER_TOKEN=TOKEN)
    assert "in clear text" in done.err
    assert TOKEN not in done.err
    for url in ("https://haulier.invalid", absent.url):
        assert "clear text" not in absent("jobs", HAULIER_URL=url, HAULIER_TOKEN=TOKEN).err


def test_code_in_the_folder_is_not_run(work: Path) -> None:
    """`haulier doctor` starts a module of workers, as the other commands do."""
    for name in ("celery", "config", "json", "redis", "service", "sitecustomize", "workers"):
        (work / f"{name}.py").write_text("open('run', 'w').close()\n")
    haulier = Path(sys.executable).with_name("haulier")

    done = subprocess.run(
        [haulier, "doctor"],
        env={"REDIS_URL": "redis://127.0.0.1:1/0"},
        cwd=work,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "problem  broker" in done.stdout
    assert not (work / "run").exists()
