"""How much of everything a run measures."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Size:
    """The defaults make the short form: minutes on two cores."""

    rounds: int = 5
    split_lines: int = 200_000
    shard: int = 50_000
    requests: int = 100_000
    memory_small: int = 200_000
    memory_big: int = 100
    in_flight: tuple[int, ...] = (100, 1_000, 10_000)
    submissions: int = 2_000
    swarm: int = 5_000
    calls: int = 5_000
    finished: int = 100_000
    ticked: int = 100_000
    looks: int = 288
    jobs: int = 1_000_000


SHORT = Size()
LONG = Size(
    split_lines=1_000_000,
    requests=500_000,
    memory_small=1_000_000,
    memory_big=2_000,
    submissions=20_000,
    finished=1_000_000,
)
