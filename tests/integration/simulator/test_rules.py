"""What can go wrong with lines and batches: each rule does what it says, and the books know."""

from collections.abc import Iterator

import httpx
import pytest

from tests.simulator import Simulator
from tests.together_by_hand import ByHand, Json, chat_line


@pytest.fixture
def api(simulator: Simulator) -> Iterator[ByHand]:
    with ByHand(simulator.url) as by_hand:
        yield by_hand


LINES = [chat_line(f"r{n}", f"text {n}") for n in range(10)]


def test_a_line_can_fail_for_good(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("error", custom_id="r3", code="timeout", message="Request timeout")
    for _ in range(2):
        outcome = api.run(LINES)
        assert set(outcome.errors) == {"r3"}
        assert outcome.errors["r3"]["error"] == {"code": "timeout", "message": "Request timeout"}
        assert len(outcome.output) == 9
    assert simulator.executed("r3") == 2
    assert simulator.billed("r3") == 0


def test_a_line_can_fail_so_often_and_then_succeed(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("error", custom_id="r3", times=2)
    failures = [set(api.run(LINES).errors) for _ in range(3)]
    assert failures == [{"r3"}, {"r3"}, set()]
    line = simulator.account().lines["r3"]
    assert (line.executed, line.failed, line.succeeded) == (3, 2, 1)


def test_executions_are_counted_per_account(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("error", custom_id="r3", times=1)
    assert set(api.run(LINES).errors) == {"r3"}
    with ByHand(simulator.url, "another-key") as other:
        assert set(other.run(LINES).errors) == {"r3"}
        assert set(other.run(LINES).errors) == set()


@pytest.mark.parametrize("times", [1, 2])
def test_a_line_can_go_missing_so_often(api: ByHand, simulator: Simulator, times: int) -> None:
    simulator.line_rule("missing", custom_id="r3", times=times)
    for _ in range(times):
        outcome = api.run(LINES)
        assert "r3" not in outcome.output.keys() | outcome.errors.keys()
    assert "r3" in api.run(LINES).output
    line = simulator.account().lines["r3"]
    assert (line.executed, line.failed, line.succeeded) == (times + 1, 0, 1)


def raw_output(api: ByHand) -> list[bytes]:
    job = api.run(LINES).job
    return api.raw_lines(job["output_file_id"])


def test_a_line_can_come_twice_but_is_billed_once(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("duplicate", custom_id="r3")
    twice = [line for line in raw_output(api) if b'"r3"' in line]
    assert len(twice) == 2
    assert twice[0] == twice[1]
    assert simulator.billed("r3") == 1


@pytest.mark.parametrize("effect", ["broken", "truncated"])
def test_a_line_can_come_unreadable_and_is_billed_all_the_same(
    api: ByHand, simulator: Simulator, effect: str
) -> None:
    simulator.line_rule(effect, custom_id="r3")
    outcome = api.run(LINES)
    assert len(api.raw_lines(outcome.job["output_file_id"])) == 10
    assert set(outcome.output) == {line["custom_id"] for line in LINES} - {"r3"}
    assert simulator.billed("r3") == 1


def test_a_line_can_bring_a_stranger_with_it(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("stranger", custom_id="r3")
    outcome = api.run(LINES)
    (stranger,) = outcome.output.keys() - {line["custom_id"] for line in LINES}
    assert stranger.startswith("stranger-")
    assert simulator.books().totals.lines_billed == 10


def test_an_error_can_stand_in_the_output_file(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("error_in_output", custom_id="r3", message="misplaced")
    outcome = api.run(LINES)
    assert outcome.output["r3"]["error"]["message"] == "misplaced"
    assert "error_file_id" not in outcome.job
    assert simulator.billed("r3") == 0


def test_a_response_can_have_another_status(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("bad_status", custom_id="r3", status=503, message="overloaded")
    response = api.run(LINES).output["r3"]["response"]
    assert response["status_code"] == 503
    assert response["body"]["error"]["message"] == "overloaded"
    assert simulator.billed("r3") == 0


def test_a_line_can_come_in_both_files(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("both_files", custom_id="r3")
    outcome = api.run(LINES)
    assert "r3" in outcome.output
    assert "r3" in outcome.errors
    assert simulator.billed("r3") == 1


def test_an_answer_can_be_cut_to_nothing(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("empty_length", custom_id="r3")
    (choice,) = api.run(LINES).output["r3"]["response"]["body"]["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == ""
    assert simulator.billed("r3") == 1


def test_an_answer_can_call_a_tool_or_have_no_choices(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("tool_call", custom_id="r3")
    simulator.line_rule("no_choices", custom_id="r4")
    output = api.run(LINES).output
    (choice,) = output["r3"]["response"]["body"]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "look_up"
    assert output["r4"]["response"]["body"]["choices"] == []
    assert output["r4"]["response"]["body"]["usage"]["total_tokens"] > 0


def test_a_poisoned_line_fails_every_batch_it_is_in(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("poison", custom_id="r3", message="Line {line} (within chunk): no")
    job = api.run(LINES).job
    assert (job["status"], job["error"]) == ("FAILED", "Line 4 (within chunk): no")
    assert api.run(LINES[2:4]).job["error"] == "Line 2 (within chunk): no"
    assert len(api.run(LINES[4:]).output) == 6
    assert simulator.executed("r3") == 0


@pytest.mark.parametrize(
    ("criteria", "failing"),
    [
        ({"custom_id": "r3"}, {"r3"}),
        ({"pattern": "r[3-5]"}, {"r3", "r4", "r5"}),
        ({"pattern": "3"}, set()),
        ({"contains": "text 7"}, {"r7"}),
        ({"contains": "text", "pattern": "r[89]"}, {"r8", "r9"}),
        ({"share": 0}, set()),
        ({}, {line["custom_id"] for line in LINES}),
    ],
)
def test_rules_match_lines_by_all_their_criteria(
    api: ByHand, simulator: Simulator, criteria: Json, failing: set[str]
) -> None:
    simulator.line_rule("error", **criteria)
    assert set(api.run(LINES).errors) == failing


def test_a_random_share_is_the_same_for_the_same_seed(api: ByHand, simulator: Simulator) -> None:
    lines = [chat_line(f"r{n}") for n in range(200)]
    found = []
    for seed in (1, 1, 2):
        simulator.scenario(lines=[{"effect": "error", "share": 0.25, "seed": seed}])
        found.append(set(api.run(lines).errors))
    assert found[0] == found[1] != found[2]
    assert 25 <= len(found[0]) <= 75


def test_the_first_rule_that_applies_wins(api: ByHand, simulator: Simulator) -> None:
    simulator.line_rule("missing", custom_id="r3", times=1)
    simulator.line_rule("error", pattern="r3|r4")
    first, second = api.run(LINES), api.run(LINES)
    assert set(first.errors) == {"r4"}
    assert set(second.errors) == {"r3", "r4"}


def test_a_batch_can_expire_with_a_share_of_its_lines(api: ByHand, simulator: Simulator) -> None:
    simulator.batch_rule(outcome="expire", share=0.3, times=1)
    outcome = api.run(LINES)
    assert outcome.job["status"] == "EXPIRED"
    assert outcome.job["progress"] == 30
    assert len(outcome.output) == 3
    assert simulator.books().totals.lines_billed == 3
    assert api.run(LINES).job["status"] == "COMPLETED"


@pytest.mark.parametrize(("share", "lines"), [(0, 0), (0.5, 5), (1, 10)])
def test_a_batch_can_be_cancelled_by_the_provider(
    api: ByHand, simulator: Simulator, share: float, lines: int
) -> None:
    simulator.batch_rule(outcome="cancel", share=share)
    outcome = api.run(LINES)
    assert outcome.job["status"] == "CANCELLED"
    assert len(outcome.output) == lines
    assert ("output_file_id" in outcome.job) == (lines > 0)


def test_a_batch_can_fail_with_a_message(api: ByHand, simulator: Simulator) -> None:
    simulator.batch_rule(outcome="fail", message="Invalid model ID: no such thing")
    outcome = api.run(LINES)
    assert outcome.job["status"] == "FAILED"
    assert outcome.job["error"] == "Invalid model ID: no such thing"
    assert simulator.books().totals.lines_executed == 0


def test_a_batch_can_hang_for_good_and_still_be_cancelled(
    api: ByHand, simulator: Simulator
) -> None:
    simulator.batch_rule(hang=True, share=0.2)
    batch_id = api.create(api.upload(LINES))
    while api.batch(batch_id)["progress"] < 20:
        pass
    job = api.batch(batch_id)
    assert (job["status"], job["progress"]) == ("IN_PROGRESS", 20)
    api.http.post(f"/v1/batches/{batch_id}/cancel")
    assert len(api.outcome(batch_id).output) == 2


@pytest.mark.parametrize("rule", [{"seconds": 0.5}, {"hang_seconds": 0.5}])
def test_a_batch_can_take_its_time(api: ByHand, simulator: Simulator, rule: Json) -> None:
    simulator.batch_rule(**rule)
    job = api.run(LINES).job
    (book,) = simulator.account().batches
    assert job["status"] == "COMPLETED"
    assert book.started_at is not None
    assert book.completed_at is not None
    assert book.completed_at - book.started_at >= 0.5


def test_a_batch_can_show_a_status_nobody_knows(api: ByHand, simulator: Simulator) -> None:
    simulator.batch_rule(shows="AGGREGATING", shows_seconds=0.3)
    batch_id = api.create(api.upload(LINES))
    seen: list[str] = []
    while not seen or seen[-1] != "COMPLETED":
        seen.append(api.batch(batch_id)["status"])
    assert "AGGREGATING" in seen


def test_progress_can_be_stuck(api: ByHand, simulator: Simulator) -> None:
    simulator.batch_rule(progress=0, seconds=0.3)
    batch_id = api.create(api.upload(LINES))
    progress = set()
    while (job := api.batch(batch_id))["status"] != "COMPLETED":
        progress.add(job["progress"])
    assert progress == {0}
    assert job["progress"] == 100


@pytest.mark.parametrize(
    ("criteria", "failing"),
    [
        ({"nth": 2}, [False, True, False]),
        ({"file_name": "^b"}, [False, True, False]),
        ({"times": 2}, [True, True, False]),
        ({"key": "another-key"}, [False, False, False]),
        ({}, [True, True, True]),
    ],
)
def test_rules_match_batches_by_all_their_criteria(
    api: ByHand, simulator: Simulator, criteria: Json, failing: list[bool]
) -> None:
    simulator.batch_rule(outcome="fail", **criteria)
    batches = [api.create(api.upload(LINES, f"{name}.jsonl")) for name in "abc"]
    assert [api.ended(batch)["status"] == "FAILED" for batch in batches] == failing


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"lines": [{"effect": "explode"}]}, "explode"),
        ({"lines": [{"effect": "error", "share": 2}]}, "share must lie between 0 and 1"),
        ({"lines": [{"effect": "error", "pattern": "("}]}, "pattern is no regular expression"),
        ({"lines": [{"effect": "poison", "times": 1}]}, "times cannot be counted"),
        ({"batches": [{"outcome": "complete", "colour": "red"}]}, "colour"),
        ({"batches": [{"share": -1}]}, "share must lie between 0 and 1"),
        ({"words": []}, "words"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(
    simulator: Simulator, rules: Json, reason: str
) -> None:
    answer = httpx.post(f"{simulator.url}/_control/rules", json=rules)
    assert answer.status_code == 422
    assert reason in answer.json()["error"]
