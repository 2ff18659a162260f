"""What the fork server imports before it forks (tests/forked.py)."""

from tests.forked import preload

preload()
