"""The simulator as a process: it starts, it stops, it is killed and goes on, it bears load."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.eventually import eventually
from tests.simulator import Simulator
from tests.together_by_hand import ByHand, chat_line, jsonl


@pytest.fixture
def own() -> Iterator[Simulator]:
    """A simulator that this test may kill."""
    with Simulator(batch_seconds=0.5) as simulator:
        yield simulator


def test_a_killed_simulator_loses_nothing_and_goes_on(own: Simulator) -> None:
    lines = [chat_line(f"r{n}") for n in range(50)]
    with ByHand(own.url) as api:
        ended = api.run(lines)
        file_id = api.upload(lines, "second.jsonl")
        unfinished = [api.create(file_id) for _ in range(3)]
    before = own.account()
    own.kill()
    own.start()
    with ByHand(own.url) as api:
        after = own.account()
        assert after.lines == before.lines
        assert after.batches_by_input_file == before.batches_by_input_file
        assert [book.id for book in after.batches] == [book.id for book in before.batches]
        assert {job["id"] for job in api.http.get("/v1/batches").json()} >= set(unfinished)
        assert api.batch(ended.job["id"]) == ended.job
        assert api.outcome(ended.job["id"]).output == ended.output
        assert api.http.get(f"/v1/files/{file_id}").json()["filename"] == "second.jsonl"
        for batch_id in unfinished:
            assert set(api.outcome(batch_id).output) == {line["custom_id"] for line in lines}
    totals = own.books().totals
    assert totals.batches_created == 4
    assert totals.lines_executed == totals.lines_billed == 200


@pytest.mark.parametrize("moment", range(6))
def test_no_line_is_booked_twice_whenever_the_kill_comes(moment: int) -> None:
    """Kills from the creation to the end of a batch that takes a while to execute."""
    lines = [chat_line(f"r{n}") for n in range(3000)]
    with Simulator(batch_seconds=0.1) as own:
        with ByHand(own.url) as api:
            batch_id = api.create(api.upload(lines))
        time.sleep(moment * 0.04)  # any length will do, it only varies the moment
        own.kill()
        own.start()
        with ByHand(own.url) as api:
            assert len(api.outcome(batch_id).output) == 3000
        totals = own.books().totals
        assert totals.lines_executed == totals.lines_billed == 3000
        files = [path.name for path in (own.data / "files").iterdir()]
        assert len(files) == 2, "nothing half-made is left"


def test_a_kill_while_cancelling_ends_in_cancelled(own: Simulator) -> None:
    own.switch(canceling_seconds=0.3)
    with ByHand(own.url) as api:
        batch_id = api.create(api.upload([chat_line("a")]))
        api.http.post(f"/v1/batches/{batch_id}/cancel")
    own.kill()
    own.start()
    with ByHand(own.url) as api:
        assert api.batch(batch_id)["status"] in ("CANCELING", "CANCELLED")
        assert api.ended(batch_id)["status"] == "CANCELLED"


def test_rules_and_switches_survive_a_kill_and_faults_do_not(own: Simulator) -> None:
    own.line_rule("error", custom_id="a", times=2)
    own.batch_rule(outcome="expire", share=1, times=1)
    own.switch(line_ids=False)
    own.fault("list", "status", status=500, times=None)
    with ByHand(own.url) as api:
        first = api.run([chat_line("a")])
        own.kill()
        own.start()
        second, third = (api.run([chat_line("a")]) for _ in range(2))
        assert api.http.get("/v1/batches").status_code == 200
    assert [outcome.job["status"] for outcome in (first, second, third)] == [
        "EXPIRED",
        "COMPLETED",
        "COMPLETED",
    ]
    assert [set(outcome.errors) for outcome in (first, second, third)] == [{"a"}, {"a"}, set()]
    assert "id" not in third.output["a"]


@pytest.mark.parametrize("busy", [False, True])
def test_a_signal_stops_it_quickly(own: Simulator, busy: bool) -> None:
    if busy:
        own.hold("create")
        threading.Thread(target=lambda: _ignoring_loss(own), daemon=True).start()
        own.wait_held("create")
        with ByHand(own.url) as api:
            api.create(api.upload([chat_line("a")]))
    assert own.stop() == 0, "stop has a deadline"
    own.start()
    assert own.batches_created == int(busy)


def _ignoring_loss(simulator: Simulator) -> None:
    with ByHand(simulator.url) as api, pytest.raises(httpx.TransportError):
        api.post_batch("file-unknown")


def test_without_data_it_leaves_nothing_behind(tmp_path: Path) -> None:
    process = _started("--port", "0", environment={"TMPDIR": str(tmp_path)})
    assert process.stdout is not None
    line = process.stdout.readline()
    assert re.fullmatch(r"simulator listening on http://127\.0\.0\.1:\d+\n", line)
    assert len(list(tmp_path.iterdir())) == 1
    process.terminate()
    output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_scenario_file_is_played_from_the_start(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.json"
    scenario.write_text(
        '{"faults": [{"operation": "list", "fault": "status", "status": 500}],'
        ' "lines": [{"effect": "error", "custom_id": "a"}]}'
    )
    with Simulator(scenario=scenario) as own, ByHand(own.url) as api:
        for _ in range(2):
            assert api.http.get("/v1/batches").status_code == 500
            assert api.http.get("/v1/batches").status_code == 200
            assert set(api.run([chat_line("a"), chat_line("b")]).errors) == {"a"}
            own.line_rule("error", custom_id="b")
            own.reset()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        ("{", "scenario.json"),
        ('{"switches": {"colour": "red"}}', "colour"),
        ('{"lines": [{"effect": "error", "pattern": "("}]}', "$.lines[0]"),
        ('{"faults": [{"fault": "cut", "operation": "put"}]}', "either bytes or fraction"),
    ],
)
def test_a_bad_scenario_file_stops_it_with_the_reason(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    scenario = tmp_path / "scenario.json"
    if content is not None:
        scenario.write_text(content)
    process = _started("--port", "0", "--scenario", str(scenario))
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert output == ""
    assert errors.startswith("simulator: ")
    assert reason in errors
    assert errors.count("\n") == 1


def test_a_taken_port_stops_it_with_the_reason(simulator: Simulator) -> None:
    process = _started("--port", str(simulator.port))
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors == (
        f"simulator: cannot listen on 127.0.0.1:{simulator.port}: Address already in use\n"
    )


def test_fifty_thousand_lines_take_seconds_and_others_are_answered_meanwhile(
    simulator: Simulator,
) -> None:
    text = "x" * 1000
    content = jsonl(chat_line(f"r{n}", text) for n in range(50_000))
    answered = 0
    with ByHand(simulator.url) as api:
        batch_id = api.create(api.upload(content))
        deadline = time.monotonic() + 30
        while (job := api.batch(batch_id))["status"] in ("VALIDATING", "IN_PROGRESS"):
            assert time.monotonic() < deadline
            assert api.http.get("/v1/files").status_code == 200
            answered += 1
        assert job["status"] == "COMPLETED"
        output = api.content(job["output_file_id"]).content
    assert answered > 5
    assert output.count(b"\n") == 50_000
    totals = simulator.books(lines=False).totals
    assert (totals.lines_billed, totals.duplicate_successes) == (50_000, 0)


def test_more_than_fifty_thousand_lines_are_refused(simulator: Simulator) -> None:
    with ByHand(simulator.url) as api:
        job = api.run(jsonl(chat_line(f"r{n}") for n in range(50_001))).job
    assert job["status"] == "FAILED"
    assert "more than 50000" in job["error"]


def test_many_batches_run_at_once(simulator: Simulator) -> None:
    lines = [chat_line(f"r{n}") for n in range(10)]
    with ByHand(simulator.url) as api:
        file_id = api.upload(lines)
        created = {api.create(file_id) for _ in range(100)}

        def ended() -> bool:
            jobs = api.http.get("/v1/batches").json()
            return {job["id"] for job in jobs if job["status"] == "COMPLETED"} == created

        eventually(ended)
    assert simulator.books().totals.lines_executed == 1000


def _started(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "service.simulator", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
