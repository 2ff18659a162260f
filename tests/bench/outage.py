"""A month of a lane in virtual time: what outages cost where lanes have a state, and where not."""

from statistics import median

from tests.bench.figures import Row, Section
from tests.bench.size import Size
from tests.lane_world import Arrival, Outage, World

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
MONTH = 30 * DAY
SECONDS = 300.0
"""How long a batch takes."""
JOB = 500

OUTAGES = (
    Outage(2 * DAY, 2 * DAY + 10 * MINUTE),
    Outage(5 * DAY, 5 * DAY + HOUR),
    Outage(9 * DAY, 9 * DAY + 6 * HOUR),
    Outage(14 * DAY, 15 * DAY),
    # It flaps: ten minutes of every half hour, for twelve hours.
    *(Outage(20 * DAY + n * 30 * MINUTE, 20 * DAY + (n * 30 + 10) * MINUTE) for n in range(24)),
)


def measure(_size: Size) -> Section:
    """Play the month twice, and two kinds of neighbours that are ill by themselves."""
    arrivals = [Arrival(n * 10 * MINUTE, f"p{n % 3}", JOB) for n in range(int(MONTH / 600))]
    new, old = (
        World(arrivals, OUTAGES, SECONDS, learns=learns).run(2 * MONTH) for learns in (True, False)
    )
    long = [(end, took) for end, took in new.drained if end < 16 * DAY]
    job = _neighbours(frozenset({100}))
    producer = _neighbours(frozenset(range(0, 1000, 3)))
    total = len(arrivals) * JOB
    return Section(
        [
            _count("requests executed in vain", new.vain, old.vain, f"of {total:,} in the month"),
            _count(
                "requests that became dead letters",
                new.dead,
                old.dead,
                f"requests without an end: {total - new.served - new.dead}",
            ),
            Row(
                "from the end of an outage until nothing waits, median",
                median(took for _, took in long) / MINUTE,
                "min",
                beside=f"longest {max(took for _, took in long) / MINUTE:.0f} min;"
                f" a batch takes {SECONDS / MINUTE:.0f} min",
            ),
            Row(
                "longest delay of a neighbour of one sick job",
                job / MINUTE,
                "min",
                floor=SECONDS / MINUTE,
                beside="floor: the time of a batch",
            ),
            Row(
                "the same, of a producer all of whose jobs are sick",
                producer / MINUTE,
                "min",
                floor=SECONDS / MINUTE,
            ),
        ],
        notes="Virtual time; the rules are the shipped ones, what is around them is played"
        " (`tests/lane_world.py`). A job of 500 requests comes every ten minutes, from three"
        " producers in turn. Outages of ten minutes, one, six and 24 hours, and one that flaps for"
        " twelve hours. The floor of the first two rows is Haulier before lanes had a state: three"
        " rounds of a batch uncounted, with pauses of one to four minutes.",
    )


def _count(measured: str, figure: int, floor: int, beside: str) -> Row:
    return Row(measured, figure, floor=floor, beside=beside)


def _neighbours(sick: frozenset[int]) -> float:
    """The longest time from arrival to result of a job that is not sick."""
    arrivals = [Arrival(n * 5 * MINUTE, f"p{n % 3}", JOB) for n in range(1000)]
    world = World(arrivals, [Outage(0, 10 * MONTH, sick)], SECONDS).run(MONTH)
    return max(delay for job, delay in world.delays.items() if job not in sick)
