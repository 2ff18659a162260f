"""Where the API is, and the token for it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Place:
    """An API and what lets one in. `source` says where the token comes from, for messages."""

    url: str
    token: str | None
    source: str


def find(settings: Settings) -> Place:
    """From the environment, or else from what `haulier up` left in its home."""
    left = variables_in(settings.home / "env")
    left_url, left_token = left.get("HAULIER_URL"), left.get("HAULIER_TOKEN")
    url = settings.url or left_url or DEFAULT_URL
    for variable, given in (
        ("HAULIER_TOKEN", settings.token),
        ("HAULIER_ADMIN_TOKEN", settings.admin_token),
    ):
        if given is not None:
            return Place(url, given.get_secret_value().strip(), variable)
    if url == left_url:
        return Place(url, left_token, str(settings.home / "env"))
    # The token in the file opens that one API and is told to no other.
    return Place(url, None, "HAULIER_TOKEN")


def variables_in(path: Path) -> dict[str, str]:
    """The variables of a shell file of `export NAME=value`; none where there is no such file."""
    try:
        lines = path.read_text().splitlines()
        words = [word for line in lines for word in shlex.split(line, comments=True)]
    except (OSError, ValueError):
        return {}
    pairs = (word.partition("=") for word in words if "=" in word)
    return {name: value for name, _, value in pairs}
