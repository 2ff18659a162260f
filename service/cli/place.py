"""Where the API is, and the token for it.

A token goes where it belongs. One from the environment goes to the URL from the environment, or to
the default. The file that `haulier up` leaves in its home lies in the present folder, which may
come from anybody: its URL gets the file's own token, and the file may only name this machine.
"""

import os
import shlex
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from config.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8080"
LONGEST = 1 << 16
"""The most characters that are read of a file of variables."""


@dataclass(frozen=True)
class Place:
    """An API and what lets one in. `source` says where the token comes from, for messages."""

    url: str
    token: str | None
    source: str
    notes: tuple[str, ...] = ()
    """What somebody should know who wonders why it is this one."""


def find(settings: Settings) -> Place:
    """From the environment, or else from what `haulier up` left in its home."""
    path = settings.home / "env"
    left, note = _left(path)
    variable, token = _given(settings)
    # The file may be used for a token that it holds itself: its URL is told nothing new.
    if left is not None and token in {None, left.token} and settings.url in {None, left.url}:
        return left
    if settings.url is not None:
        return Place(settings.url, token, variable)
    if left is not None:
        note = (f"{variable} is not sent to the URL in {path}: set HAULIER_URL as well",)
    return Place(DEFAULT_URL, token, variable, note)


def _given(settings: Settings) -> tuple[str, str | None]:
    """Return the variable that a token is taken from, and the token if it is set."""
    if settings.token is None and settings.admin_token is not None:
        return "HAULIER_ADMIN_TOKEN", settings.admin_token.get_secret_value()
    return "HAULIER_TOKEN", settings.token.get_secret_value() if settings.token else None


def _left(path: Path) -> tuple[Place | None, tuple[str, ...]]:
    """Return the instance that a file names, and why it is not used if it is not."""
    try:
        variables = variables_in(path)
    except PermissionError as error:
        return None, (str(error),)
    url = variables.get("HAULIER_URL")
    if url is None:
        return None, ()
    if not is_local(url):
        words = f"{path} is not used: `haulier up` names this machine in it, not {url}"
        return None, (f"{words}; set HAULIER_URL and HAULIER_TOKEN",)
    return Place(url, variables.get("HAULIER_TOKEN"), str(path)), ()


def is_local(url: str) -> bool:
    """Return whether a URL names this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def variables_in(path: Path) -> dict[str, str]:
    """The variables of a shell file of `export NAME=value`; none where there is no such file.

    Raises PermissionError if the file is another user's.
    """
    try:
        # Without waiting, and no more than a file of `up` may have: it may be a pipe or a device.
        with open(path, opener=_at_once) as file:
            found = os.fstat(file.fileno())
            is_ours = found.st_uid == os.geteuid()
            text = file.read(LONGEST) if is_ours and stat.S_ISREG(found.st_mode) else ""
        words = [word for line in text.splitlines() for word in shlex.split(line, comments=True)]
    except (OSError, ValueError):
        return {}
    if not is_ours:
        raise PermissionError(f"{path} is not used: it belongs to another user")
    pairs = (word.partition("=") for word in words if "=" in word)
    return {name: value for name, _, value in pairs}


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
