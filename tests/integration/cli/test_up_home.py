"""What `haulier up` keeps between two runs."""

import os
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest

from service.cli.up.errors import StartError
from service.cli.up.home import Home


@pytest.fixture
def made(tmp_path: Path) -> Home:
    home = Home(tmp_path / "new" / "home")
    home.make()
    return home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_and_ports_outlive_a_run(made: Home) -> None:
    kept = msgspec.structs.replace(made.kept(simulated=True), ports={"postgres": 5})
    made.keep(kept)
    assert Home(made.directory).kept(simulated=True) == kept


def test_every_home_has_secrets_of_its_own(tmp_path: Path) -> None:
    one, other = (Home(tmp_path / name).kept(simulated=True) for name in ("one", "other"))
    secrets = {one.admin_token, one.postgres_password, one.valkey_password}
    assert len(secrets | {other.admin_token, other.postgres_password, other.valkey_password}) == 6


def test_only_the_owner_can_read_what_is_secret_or_a_payload(made: Home) -> None:
    made.keep(made.kept(simulated=True))
    made.write_environment({"TOKEN": "secret"})
    assert mode(made.directory / "up.json") == 0o600
    assert mode(made.environment_file) == 0o600
    assert mode(made.directory / "blobs") == 0o700
    assert mode(made.directory / "simulator") == 0o700
    assert mode(made.directory) == (0o711 if os.geteuid() == 0 else 0o700)


def test_a_shell_reads_the_environment_file_as_it_was_meant(made: Home) -> None:
    value = "a b'c\"d$e`f\\g"
    made.write_environment({"FIRST": value})
    script = f'. {made.environment_file} && printf %s "$FIRST"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout == (
        value.encode()
    )


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_and_real_jobs_do_not_share_a_home(made: Home, *, simulated: bool) -> None:
    made.keep(made.kept(simulated=simulated))
    with pytest.raises(StartError, match=r"its jobs belong there: set HAULIER_HOME"):
        made.kept(simulated=not simulated)


@pytest.mark.parametrize("content", [b"", b"{", b'{"simulated": 1}', b"\xff"])
def test_a_broken_file_is_named(made: Home, content: bytes) -> None:
    (made.directory / "up.json").write_bytes(content)
    with pytest.raises(StartError, match=r"cannot read .*up\.json"):
        made.kept(simulated=True)


def test_data_without_its_password_is_not_given_a_new_one(made: Home) -> None:
    (made.directory / "postgres").mkdir()
    with pytest.raises(StartError, match=r"up\.json is gone, and with it the password"):
        made.kept(simulated=True)


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"cannot create .*file.*HAULIER_HOME"):
        Home(tmp_path / "file" / "home").make()


def test_a_second_run_in_one_home_is_refused_and_told_who_runs(made: Home) -> None:
    with (
        made.locked(),
        pytest.raises(StartError, match=rf"another `haulier up` \(process {os.getpid()}\)"),
        Home(made.directory).locked(),
    ):
        pass
    with Home(made.directory).locked():
        pass
