"""Checks of answers, through the whole pipeline."""

from typing import Any

import httpx

from tests.acceptance.test_pipeline import assert_complete, ids
from tests.acceptance.test_retry import http
from tests.pipeline import Pipeline, chat
from tests.simulator import Simulator

__all__ = ["http"]


def test_answers_that_fail_their_check_are_bought_again_and_kept_in_the_end(
    pipeline: Pipeline, simulator: Simulator, http: httpx.Client
) -> None:
    """One job for each kind of check, all at once: they share batches."""
    simulator.line_rule("empty_length", contains="Say r0001", times=1)
    simulator.line_rule("empty_length", contains="Say r0002")
    simulator.line_rule("error", contains="Say r0003", times=1, message="Internal Server Error")
    pipeline.worker()
    pipeline.scheduler()
    checks: list[Any] = [
        None,
        ["complete", "nonempty"],
        {"regex": "^echo: Say r000[0-9]$"},
        "json",
        {"json_schema": {"type": "object"}},
    ]
    jobs = pipeline.submit_together(
        *(chat(*ids(4), check=check, max_attempts=2) for check in checks)
    )
    ended = [pipeline.ended(job_id) for job_id in jobs]

    assert [(job.succeeded, job.failed) for job in ended] == [
        (4, 0),
        (3, 1),
        (3, 1),
        (0, 4),
        (0, 4),
    ]
    for job in ended:
        assert_complete(pipeline, job, ids(4))
        assert http.get(f"/v1/jobs/{job.id}").json()["check"] == checks[ended.index(job)]
    shown = http.get(f"/v1/jobs/{jobs[1]}/requests/r0002").json()
    assert (shown["outcome"], shown["error"]["code"]) == ("failed", "check_failed")
    assert shown["result"]["attempts"] == 2
    assert shown["result"]["answer"]["choices"][0]["finish_reason"] == "length"
    for line in pipeline.results(jobs[3])[:2]:
        answer: Any = line["answer"]
        assert answer["choices"][0]["message"]["content"] == f"echo: Say {line['custom_id']}"
        assert line["error"] == {
            "code": "check_failed",
            "message": "the answer fails its check: it is not JSON",
        }
    # Every answer was paid for, also those that failed.
    assert ended[3].total_tokens > ended[0].total_tokens


def test_an_answer_that_was_kept_is_shown_although_a_later_attempt_ends_with_an_error(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.line_rule("empty_length", custom_id="a", times=1)
    simulator.line_rule("error", custom_id="a", message="Invalid model specified")
    pipeline.worker()
    pipeline.scheduler()

    job = pipeline.ended(pipeline.submit(chat("a", "b", check="nonempty")))

    dead, served = pipeline.results(job.id)
    assert dead["error"] == {"code": "batch_client_error", "message": "Invalid model specified"}
    assert dead["attempts"] == 2
    answer: Any = dead["answer"]
    assert answer["choices"][0]["message"]["content"] == ""
    assert "error" not in served or served["error"] is None
