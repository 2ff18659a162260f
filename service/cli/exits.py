"""What the command line's exit statuses say."""

from enum import IntEnum


class Exit(IntEnum):
    """Also in docs/cli.md."""

    FINE = 0
    UNSERVED = 1
    """`watch` and `--wait`: the job ended, but not every request has succeeded."""
    REFUSED = 2
    """Wrong arguments, bad input, no access, no such job, not now."""
    UNAVAILABLE = 3
    """The API cannot be reached, or it is in trouble itself."""
    INTERRUPTED = 130
    """Ctrl-C, as shells have it."""
    CLOSED = 141
    """Nobody reads the output any more (`| head`), as shells have it."""
