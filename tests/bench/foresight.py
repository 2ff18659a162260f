"""A month of a lane in virtual time: how many of its forecasts come true, and how wide they are."""

from statistics import median

from tests.bench.figures import Row, Section
from tests.bench.size import Size
from tests.forecast_world import DAY, HOUR, Climate, Told, play

OUTAGES = ((5 * DAY, 5 * DAY + HOUR), (9 * DAY, 9 * DAY + 6 * HOUR), (14 * DAY, 15 * DAY))

USUAL = "a daily rhythm, and twice as slow at the end"
MONTHS = {
    "the same all month": Climate(rhythm=0, drift=0),
    USUAL: Climate(),
    "the same, with too few slots by day": Climate(slots=10),
    "the same, with outages of 1, 6 and 24 hours": Climate(outages=OUTAGES),
    "the same, with a job an hour": Climate(between=HOUR),
}


def measure(_size: Size) -> Section:
    """Play each month, and one of them without the correction as well."""
    rows = []
    for name, climate in MONTHS.items():
        told = play(climate, seed=1)
        raw = play(climate, seed=1, corrects=False) if name == USUAL else None
        words = "" if raw is None else f"; without the correction {100 * raw.coverage:.1f} %"
        rows.append(
            Row(
                f"{name}: in time, as said at submission",
                100 * told.coverage,
                "%",
                wanted="90 ± 5 %",
                beside=f"as said at half time {100 * told.half_coverage:.1f} %; before the 50 %"
                f" instant {100 * told.by_median / told.ended:.1f} %{words}",
            )
        )
        rows.append(
            Row(
                "… from submission to the 90 % instant, median",
                median(told.widths),
                "times as long as the job took",
                beside=f"the worst day {_worst(told):.0f} % in time; {told.jobs:,} jobs, of which"
                f" {told.jobs - told.ended:,} came before anything could be said",
            )
        )
    return Section(
        rows,
        notes="Virtual time; the rules are the shipped ones, what is around them is played"
        " (`tests/forecast_world.py`). Jobs of 1 to 100,000 requests come every ten minutes on"
        " average, four times as often in the afternoon as in the night, when Together is three"
        " times as fast. Equal jobs take 0.7 to 1.4 times as long as each other (one standard"
        " deviation), 8 % take a second attempt, and 16 run at a time.",
    )


def _worst(told: Told) -> float:
    """The least share in time of the jobs of a day, of days with at least ten."""
    return 100 * min(in_time / ended for ended, in_time in told.days.values() if ended >= 10)
