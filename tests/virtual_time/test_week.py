"""The history of `make demo ARGS="--console --faults"`, in short."""

from collections.abc import Iterator

import pytest

from tests.eventually import eventually
from tests.servers import open_directory
from tests.virtual_time.clock import works_here
from tests.virtual_time.five_faults import NEW_ERROR, STUCK
from tests.virtual_time.week import Wanted, Week, open_week

pytestmark = [
    pytest.mark.skipif(not works_here(), reason="needs Linux and a C compiler"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def week() -> Iterator[Week]:
    """Half a day, with the five faults at its end."""
    with open_directory("week") as home:
        wanted = Wanted(days=0.5, scale=0.5, faults=True)
        with open_week(home, wanted, lambda _: None) as lived:
            yield lived


def test_the_five_faults_are_there(week: Week) -> None:
    assert week.faults is not None
    ask = week.company.admin
    stuck = ask("GET", f"/v1/jobs/{week.faults.jobs['stuck']}")
    assert stuck["waiting"]["code"] == "parked"
    assert stuck["total"] == STUCK
    lanes = {lane["model"]: lane for lane in ask("GET", "/v1/lanes")["data"]}
    assert lanes["openai/gpt-oss-20b"]["state"] in {"resting", "probing"}

    def research() -> bool:
        accounts = {account["name"]: account for account in ask("GET", "/v1/accounts")["data"]}
        return "402" in (accounts["research"]["reason"] or "")

    eventually(research, 120)
    rows = week.world.db.execute(
        "SELECT count(*) FROM haulier.dead_letters WHERE message = %s", [NEW_ERROR]
    ).fetchone()
    assert rows is not None
    assert rows[0]
    late = "SELECT 1 FROM haulier.deliveries WHERE delivered_at IS NULL AND tries > 0"
    assert week.world.db.execute(late).fetchone()


def test_the_service_goes_on_by_the_true_clock(week: Week) -> None:
    eventually(
        lambda: week.world.db.execute(
            "SELECT 1 FROM haulier.heartbeats WHERE kind = 'scheduler'"
            " AND abs(extract(epoch FROM now() - seen_at)) < 30"
        ).fetchone()
    )
    said = week.world.db.execute("SELECT abs(extract(epoch FROM now()) - %s)", [week.world.now()])
    row = said.fetchone()
    assert row is not None
    assert float(str(row[0])) < 60
