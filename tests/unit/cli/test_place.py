"""Which API the command line calls, and which token goes there."""

import os
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from service.cli.place import DEFAULT_URL, find, is_local, variables_in

LOCAL = "http://127.0.0.1:9999"
OURS = "https://haulier.example.com"
TOKEN = "a-token-of-the-environment"


def settings(home: Path, **fields: Any) -> Settings:
    return Settings.model_validate({"home": home, "url": None, "token": None, **fields})


def leave(home: Path, url: str, token: str = "left") -> None:
    (home / "env").write_text(f"export HAULIER_URL={url}\nexport HAULIER_TOKEN={token}\n")


@pytest.mark.parametrize("left", [LOCAL, "https://evil.example.com", None])
@pytest.mark.parametrize("url", [OURS, None])
@pytest.mark.parametrize("variable", ["token", "admin_token", None])
def test_a_token_goes_where_it_belongs(
    tmp_path: Path, left: str | None, url: str | None, variable: str | None
) -> None:
    if left is not None:
        leave(tmp_path, left)
    given = {variable: TOKEN} if variable else {}
    place = find(settings(tmp_path, url=url, **given))
    match place.token:
        case "left":
            assert (place.url, variable, url) == (LOCAL, None, None)
        case None:
            assert variable is None
            assert place.url in {url, DEFAULT_URL}
        case _:
            assert place.token == TOKEN
            assert place.url == (url or DEFAULT_URL)
    ignored = left is not None and place.url != left and url is None
    assert len(place.notes) == ignored


def test_the_token_that_a_file_knows_already_goes_to_its_url(tmp_path: Path) -> None:
    leave(tmp_path, LOCAL, TOKEN)
    for variable in ("token", "admin_token"):
        assert find(settings(tmp_path, **{variable: TOKEN})).url == LOCAL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_read(tmp_path: Path) -> None:
    leave(tmp_path, LOCAL)
    os.chown(tmp_path / "env", 65534, 65534)
    place = find(settings(tmp_path))
    assert (place.url, place.token) == (DEFAULT_URL, None)
    (note,) = place.notes
    assert "another user" in note
    with pytest.raises(PermissionError, match="another user"):
        variables_in(tmp_path / "env")


def test_a_file_that_is_none_is_as_good_as_none(tmp_path: Path) -> None:
    assert find(settings(tmp_path)).notes == ()
    for content in ("export A='", "", "\x00", "HAULIER_URL=http://["):
        (tmp_path / "env").write_text(content)
        assert find(settings(tmp_path)).token is None


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.9.9.9", True),
        ("http://localhost:1", True),
        ("http://LOCALHOST", True),
        ("http://[::1]:8080", True),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1@example.com", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_this_machine_is_known_by_its_addresses(url: str, local: bool) -> None:
    assert is_local(url) is local


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_passed_over_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "env"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            path.mkdir()
    if kind == "device" and os.geteuid() != 0:
        with pytest.raises(PermissionError):
            variables_in(path)
    else:
        assert variables_in(path) == {}
