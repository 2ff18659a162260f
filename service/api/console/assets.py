"""The console's own scripts and styles. Their addresses hold their hashes, so they never change."""

from functools import cache
from hashlib import sha256
from pathlib import Path

from starlette.responses import Response

from service.api.problems import NOT_FOUND, HttpProblem

FOLDER = Path(__file__).parent / "assets"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FOR_EVER = "public, max-age=31536000, immutable"


@cache
def _files() -> dict[str, tuple[str, bytes, str]]:
    """Return the address of each file, its content and its type, by its name."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            mark = sha256(content).hexdigest()[:12]
            found[path.name] = (f"{mark}/{path.name}", content, _TYPES[path.suffix])
    return found


def address(name: str) -> str:
    """Return the path of a file below `assets/`."""
    return _files()[name][0]


def served(mark: str, name: str) -> Response:
    """Return a file. Raises HttpProblem (404), also for a hash of another version."""
    found = _files().get(name)
    if found is None or found[0] != f"{mark}/{name}":
        raise HttpProblem(NOT_FOUND, "there is no such file in this version")
    return Response(found[1], media_type=found[2], headers={"Cache-Control": _FOR_EVER})
