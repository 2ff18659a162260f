"""Outages that the simulator plays: of lines, batches and creates, by model, again and again."""

from collections.abc import Iterator

import httpx
import pytest

from service.simulator.outages import Outage
from tests.simulator import Simulator
from tests.together_by_hand import ByHand, chat_line


@pytest.fixture
def api(simulator: Simulator) -> Iterator[ByHand]:
    with ByHand(simulator.url) as by_hand:
        yield by_hand


@pytest.mark.parametrize(
    ("elapsed", "is_on"),
    [(0, False), (9.9, False), (10, True), (11.9, True), (12, False), (20, True), (112.5, False)],
)
def test_an_outage_lasts_and_comes_again(elapsed: float, is_on: bool) -> None:
    outage = Outage(kind="lines", begin=10, seconds=2, every=10, since=1000.0)
    assert outage.is_on(1000.0 + elapsed) is is_on


def test_lines_fail_while_it_lasts(api: ByHand, simulator: Simulator) -> None:
    simulator.outage("lines", pattern="a.*", message="overloaded")
    outcome = api.run([chat_line("a1"), chat_line("b1")])
    assert set(outcome.output) == {"b1"}
    assert outcome.errors["a1"]["error"]["message"] == "overloaded"
    simulator.scenario()
    assert set(api.run([chat_line("a1")]).output) == {"a1"}


def test_batches_fail_while_it_lasts(api: ByHand, simulator: Simulator) -> None:
    simulator.outage("batches", model="nobody asks for it")
    assert api.run([chat_line("a1")]).job["status"] == "COMPLETED"
    simulator.outage("batches")
    failed = api.outcome(api.create(api.upload([chat_line("a1")]))).job
    assert (failed["status"], failed["error"]) == ("FAILED", "Internal Server Error")


def test_creates_fail_while_it_lasts(api: ByHand, simulator: Simulator) -> None:
    file_id = api.upload([chat_line("a1")])
    simulator.outage("creates", status=503)
    assert api.post_batch(file_id).status_code == 503
    assert simulator.batches_created == 0
    simulator.scenario()
    assert api.post_batch(file_id).status_code == 201


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "files"},
        {"kind": "lines", "model": "("},
        {"kind": "batches", "pattern": "a"},
        {"kind": "lines", "every": 5},
        {"kind": "lines", "every": 5, "seconds": 5},
    ],
)
def test_an_outage_that_could_never_be_is_refused(
    simulator: Simulator, wrong: dict[str, object]
) -> None:
    answer = httpx.put(f"{simulator.url}/_control/scenario", json={"outages": [wrong]})
    assert answer.status_code == 422
    assert "outages" in answer.json()["error"]
