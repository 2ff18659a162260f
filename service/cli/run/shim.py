"""The last step before a child's program runs: give up root, and arrange to die with the parent.

Run as a script by its path, in an interpreter without site-packages, so it imports nothing of
ours. Doing this here and not in `preexec_fn` keeps it safe whatever threads the parent has.
"""

import ctypes
import os
import pwd
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
NOT_STARTED = 127
"""Exit status for a program that could not be run, as shells have it."""


def main(parent: str, death_signal: str, nice: str, user: str, directory: str, *argv: str) -> None:
    """Become `argv` as `user` (empty: as now) in `directory` (empty: here), so much nicer."""
    step_back(int(nice))
    if user:
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    # What it writes below the home is its owner's alone.
    os.umask(0o077)
    if directory:
        os.chdir(directory)
    if sys.platform == "linux":
        # After the change of user, which clears it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != int(parent):
        # The parent died before the line above; no signal will come.
        sys.exit(NOT_STARTED)
    try:
        os.execv(argv[0], argv)  # noqa: S606 - a program, not a shell's line, is what is wanted
    except OSError as error:
        sys.exit(f"cannot run {argv[0]}: {error.strerror}")


def step_back(nice: int) -> None:
    """Leave the processors to others, the more the greater `nice` is: 0 (not at all) to 19.

    Where Linux shares the processors among sessions first, niceness only counts within a session:
    there, this process's session steps back as a whole. See sched(7), "The autogroup feature".
    """
    if not nice:
        return
    os.nice(nice)
    with suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as autogroup:  # noqa: PTH123 - nothing more is imported
        autogroup.write(str(nice))


if __name__ == "__main__":
    main(*sys.argv[1:])
