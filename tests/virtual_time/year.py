"""A year in an evening: `python -m tests.virtual_time.year --months 13`.

Real processes live through the months on a clock that jumps while nothing is under way. What they
leave is audited before it is pruned, and memory, tables, blobs and times are measured every week.
"""

import argparse
import math
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from tests.faults.chaos_ledger import Ledger
from tests.servers import open_directory
from tests.virtual_time import report
from tests.virtual_time.clock import VirtualClock
from tests.virtual_time.company import Company
from tests.virtual_time.life import AUDITED_DAYS, LONGEST, SETTLING, SHORTEST, Year
from tests.virtual_time.world import Traveller, open_world
from tests.virtual_time.year_traffic import HOUR, TEAMS, Calendar

RETENTION_DAYS = 35
BATCH_SECONDS = 2400.0
SETTINGS = {
    "HAULIER_RETENTION_DAYS": str(RETENTION_DAYS),
    "HAULIER_SHARD_REQUESTS": "200",
}


def run(
    length: timedelta, *, seed: int = 1, scale: float = 1.0, out: Path, probes: int = 3
) -> Year:
    """Live through so much time that ends about now. On the main thread only."""
    # Months take a little longer than planned: their last jobs are waited for.
    months = math.ceil(length / timedelta(days=AUDITED_DAYS))
    ago = length + months * timedelta(seconds=SETTLING)
    with open_directory("year") as home:
        clock = VirtualClock(home, begin_ago=ago)
        with open_world(home, clock, batch_seconds=BATCH_SECONDS, settings=SETTINGS) as world:
            # As often as autovacuum would come in production, seen from the rows.
            world.db.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
            world.db.execute("SELECT pg_reload_conf()")
            begin = clock.time() + HOUR
            calendar = Calendar(begin, begin + length.total_seconds())
            with Company(world, TEAMS) as company:
                traveller = Traveller(world, SHORTEST, clock, LONGEST)
                year = Year(world, company, traveller, calendar, Ledger(), seed, scale, out, probes)
                year.play()
                year.live()
                return year


def main() -> int:
    """The command. 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="year", description="Months in minutes, then an audit.")
    parser.add_argument("--months", type=int, default=13, help="of four weeks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="times so many jobs")
    parser.add_argument("--out", type=Path, default=Path("build/year"))
    parser.add_argument("--docs", action="store_true", help="write the charts into docs/")
    asked = parser.parse_args()
    with suppress(KeyboardInterrupt):
        year = run(
            timedelta(days=AUDITED_DAYS * asked.months),
            seed=asked.seed,
            scale=asked.scale,
            out=asked.out,
        )
        print(year.findings[-1].table())
        if asked.docs:
            report.write(asked.out / "year.json")
        return 1 if any(year.violations) else 0
    return 130


if __name__ == "__main__":
    sys.exit(main())
