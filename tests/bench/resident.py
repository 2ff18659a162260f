"""Resident memory of a process, as /proc tells it. Imports nothing that would weigh itself."""

from pathlib import Path

MB = 1_000_000


def resident_mb(pid: int | str = "self") -> float:
    return _status_mb(pid, "VmRSS")


def peak_mb(pid: int | str = "self") -> float:
    """The most that a process ever held. Unlike ru_maxrss, nothing of whoever started it."""
    return _status_mb(pid, "VmHWM")


def _status_mb(pid: int | str, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / MB
    return 0.0
