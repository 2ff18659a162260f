"""Virtual environments of the tests' own, for packages that are not to be among ours.

    python = python_with("openai==3.57.0", "langchain-openai==1.7.4")

They stay in build/venvs/, each under the digest of its requirements.
"""

import fcntl
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

VENVS = Path(__file__).parents[1] / "build" / "venvs"


def python_with(*requirements: str) -> Path:
    """The interpreter of an environment with these packages. Installs them the first time."""
    wanted = "\n".join([sys.version, *sorted(requirements)])
    place = VENVS / sha256(wanted.encode()).hexdigest()[:16]
    done = place / "installed"
    with _alone(place.with_suffix(".lock")):
        if not done.exists():
            venv.create(place, clear=True, with_pip=True)
            pip = [
                str(place / "bin" / "python"),
                "-m",
                "pip",
                "--disable-pip-version-check",
                "install",
            ]
            made = subprocess.run(
                [*pip, "--quiet", *requirements], capture_output=True, text=True, check=False
            )
            if made.returncode:
                pytest.fail(f"pip cannot install {' '.join(requirements)}:\n{made.stderr[-2000:]}")
            done.write_text(wanted)
    return place / "bin" / "python"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process is in here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
