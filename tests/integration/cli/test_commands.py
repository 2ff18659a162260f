"""The command line as its users have it: as a process, against a real API."""

import json
import re
import signal
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from service.cli.up.ports import free_port
from tests.cli import MODEL, Cli, requests
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.simulator import Simulator


def test_a_file_goes_in_and_its_results_come_out(working: Cli, work: Path) -> None:
    (work / "in.jsonl").write_bytes(requests("b", "a", "c"))
    submitted = working("submit", "in.jsonl", "--wait", "--metadata", '{"run": 7}')

    assert submitted.status == 0
    job = submitted.out.strip()
    assert "completed: 3 of 3 succeeded, 0 failed, 0 pending" in submitted.err
    shown = working("show", job)
    assert "state     completed" in shown.out
    assert '{"run":7}' in shown.out
    assert MODEL in shown.out

    fetched = working("results", job, "--output", "out.jsonl")
    assert (fetched.status, fetched.out) == (0, "")
    assert "3 results in out.jsonl" in fetched.err
    lines = (work / "out.jsonl").read_bytes()
    assert [json.loads(line)["custom_id"] for line in lines.splitlines()] == ["b", "a", "c"]
    assert working("results", job).out.encode() == lines
    assert sorted(path.name for path in work.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_failures_are_listed_and_told_by_the_status(working: Cli, simulator: Simulator) -> None:
    simulator.line_rule("error", custom_id="bad", message="invalid \x1b[31mmodel\nname")
    done = working("submit", "-", "--wait", "--json", stdin=requests("good", "bad"))

    assert done.status == 1
    assert done.err == ""
    first, last = done.documents[0], done.documents[-1]
    assert (first["state"], last["state"]) == ("running", "completed")
    assert (last["succeeded"], last["failed"]) == (1, 1)
    job = str(last["id"])
    assert working("watch", job).status == 1
    table = working("failures", job).out
    assert "\x1b" not in table
    assert table.splitlines()[1].split()[0] == "bad"
    (document,) = working("failures", job, "--json").documents
    assert document["custom_id"] == "bad"
    shown = working("request", job, "bad").out
    assert "\x1b" not in shown
    assert "failed" in shown
    (asked,) = working("request", job, "good", "--json").documents
    (answer,) = working("results", job, "--only", "succeeded").documents
    assert (asked["outcome"], asked["result"]) == ("succeeded", answer)
    (answer,) = working("results", job, "--only", "failed").documents
    assert answer["custom_id"] == "bad"


def test_jobs_are_found_and_a_request_is_shown(cli: Cli) -> None:
    marked = cli.submit("a/b", "..", options=["--metadata", '{"team": "search"}'])
    cli.submit("c")

    for mark in ("team:search", "team=search", '{"team": "search"}'):
        found = cli("jobs", "--metadata", mark, "--since", "1h", "--json")
        assert [job["id"] for job in found.documents] == [marked]
    assert cli("jobs", "--until", "2026-01-01T00:00:00Z", "--json").documents == []
    bad = cli("jobs", "--since", "soon")
    assert (bad.status, "2026-11-28T12:00:00Z" in bad.err) == (2, True)
    for custom_id in ("a/b", ".."):
        shown = cli("request", marked, custom_id)
        assert (shown.status, "pending" in shown.out) == (0, True)
    assert cli("request", marked, "nobody").status == 2
    timed = cli.submit("d", options=["--deadline", "6h", "--on-deadline", "priority"])
    job = cli("show", timed, "--json").documents[0]
    assert (job["on_deadline"], str(job["deadline"])[:2]) == ("priority", "20")
    assert "deadline" in cli("show", timed).out


def test_a_job_is_named_by_the_beginning_of_its_id_or_as_the_last(
    cli: Cli, pipeline: Pipeline
) -> None:
    first, last = cli.submit("a"), cli.submit("b")
    twin = f"{first[:-1]}{'1' if first.endswith('0') else '0'}"
    for words, meant in ((first[:9], first), (last[:8].upper(), last), ("-", last)):
        (shown,) = cli("show", words, "--json").documents
        assert shown["id"] == meant
    with pipeline.db.begin() as session:
        session.execute(
            text(
                "INSERT INTO haulier.jobs SELECT (jsonb_populate_record(j, jsonb_build_object('id',"
                " CAST(:twin AS text)))).* FROM haulier.jobs j WHERE id = :first"
            ),
            {"twin": twin, "first": first},
        )
    several = cli("cancel", first[:8])
    assert (several.status, first in several.err, twin in several.err) == (2, True, True)


def test_lists_are_tables_or_a_document_a_line(cli: Cli) -> None:
    jobs = [cli.submit("a"), cli.submit("a", "b"), cli.submit("c")]

    assert [document["id"] for document in cli("jobs", "--json").documents] == jobs[::-1]
    assert [d["id"] for d in cli("jobs", "--json", "--limit", "2").documents] == jobs[:0:-1]
    assert cli("jobs", "--state", "completed", "--json").documents == []
    table = cli("jobs").out.splitlines()
    assert table[0].split() == ["job", "state", "succeeded", "failed", "age"]
    assert [line.split()[0] for line in table[1:]] == jobs[::-1]
    assert cli("accounts", "--json").documents[0]["name"] == "default"
    assert "No worker is running" in cli("status").out
    assert cli("status", "--json").documents[0]["workers"] == []


def test_a_spec_is_sent_as_it_is(cli: Cli, work: Path) -> None:
    (work / "spec.json").write_text(json.dumps(chat("a", "b", priority=5)))
    done = cli("submit", "--spec", "spec.json", "--json")
    assert done.status == 0
    assert (done.documents[0]["total"], done.documents[0]["priority"]) == (2, 5)
    mixed = cli("submit", "--spec", "spec.json", "--priority", "5")
    assert mixed.status == 2
    assert "--priority" in mixed.err


def test_with_a_key_nothing_is_submitted_twice(cli: Cli) -> None:
    key = ("--idempotency-key", "nightly")
    first = cli.submit("a", options=key)
    again = cli("submit", "-", *key, stdin=requests("a"))
    assert again.out.strip() == first
    assert "submitted before" in again.err
    other = cli("submit", "-", *key, stdin=requests("b"))
    assert (other.status, other.out) == (2, "")


def test_every_bad_line_is_named(cli: Cli, work: Path) -> None:
    lines = [requests("a"), b"{no json\n", requests("b"), b'{"custom_id": "c", "body": 5}\n']
    (work / "bad.jsonl").write_bytes(b"".join(lines))
    done = cli("submit", "bad.jsonl")
    assert (done.status, done.out) == (2, "")
    assert [line.split(":")[0].strip() for line in done.err.splitlines()] == [
        "haulier",
        "line 2",
        "line 4",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit"], "give a FILE"),
        (["submit", "absent.jsonl"], "absent.jsonl"),
        (["submit", "-", "--endpoint", "/v1/nothing"], "/v1/nothing"),
        (["submit", "-", "--metadata", "{"], "metadata"),
        (["submit", "-", "--deadline", "soon"], "`deadline` 'soon' is not an instant"),
        (["submit", "-", "--on-deadline", "priority"], "says nothing without `deadline`"),
        (["submit", "-", "--idempotency-key", "ключ"], "ASCII"),
        (["show", "7"], "UUID"),
        (["show", "-"], "there is no job yet"),
        (["show", "93d1"], "there is no job whose id begins with 93d1"),
        (["jobs", "--state", "gone"], "gone"),
    ],
)
def test_bad_arguments_are_named(cli: Cli, arguments: list[str], words: str) -> None:
    done = cli(*arguments, stdin=requests("a"))
    assert done.status == 2
    assert words in done.err


@pytest.mark.parametrize("command", ["show", "watch", "results", "failures", "cancel"])
def test_an_unknown_job_is_no_job(cli: Cli, command: str) -> None:
    done = cli(command, str(uuid4()))
    assert (done.status, done.out) == (2, "")
    assert done.err == "haulier: there is no such job\n"


def test_results_before_the_end_are_refused_and_the_file_is_left_alone(
    cli: Cli, work: Path
) -> None:
    job = cli.submit("a")
    (work / "out.jsonl").write_text("mine")
    done = cli("results", job, "-o", "out.jsonl")
    assert done.status == 2
    assert f"haulier watch {job}" in done.err
    assert (work / "out.jsonl").read_text() == "mine"
    assert cli("results", job, "--partial").status == 0


def test_a_cancelled_job_ends_with_what_was_done_by_then(
    working: Cli, simulator: Simulator
) -> None:
    simulator.batch_rule(hang=True)
    job = working.submit("a", "b")
    assert "being cancelled" in working("cancel", job).out
    watched = working("watch", job)
    assert watched.status == 1
    # How far Together got is a matter of who was first.
    assert re.search(
        r"cancelled in .*: (0 succeeded, 2|1 succeeded, 1) failed", watched.out.splitlines()[-1]
    )


def test_parked_batches_are_given_up(
    working: Cli, pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.batch_rule(hang=True)
    job = working.submit("a", "b")
    assert working("abandon", job).status == 2
    assert "--dead or --again" in working("abandon", job).err
    eventually(lambda: any(b.provider_batch_id for b in pipeline.batches(UUID(job))))
    with pipeline.db.begin() as session:
        session.execute(text("UPDATE haulier.batches SET parked_at = now()"))
    given_up = working("abandon", job, "--dead")
    assert (given_up.status, given_up.err) == (0, "")
    assert "become dead letters" in given_up.out
    assert working("watch", job).status == 1
    failures = working("failures", job, "--json").documents
    assert [row["code"] for row in failures] == ["abandoned"] * 2


def test_usage_is_shown_with_what_is_not_known(working: Cli) -> None:
    job = working.submit("a", "b")
    working("watch", job)
    shown = working("usage", "--by", "producer,model")

    assert shown.status == 0
    assert MODEL in shown.out
    assert "unknown" in shown.out
    (report,) = working("usage", "--json").documents
    assert {"from", "to", "data", "total"} <= set(report)
    refused = working("usage", "--from", "yesterday")
    assert refused.status == 2
    assert "2026-01-31" in refused.err


def test_where_nobody_listens_it_says_what_to_do(cli: Cli) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = cli("jobs", HAULIER_URL=url)
    assert (done.status, done.out) == (3, "")
    assert url in done.err
    assert "haulier up" in done.err
    assert len(done.err.splitlines()) == 1


def test_what_is_not_the_api_is_called_so(cli: Cli, simulator: Simulator) -> None:
    done = cli("status", HAULIER_URL=simulator.url)
    assert done.status in {2, 3}
    assert len(done.err.splitlines()) == 1


def test_a_wrong_token_is_called_so_and_not_shown(cli: Cli) -> None:
    done = cli("jobs", HAULIER_TOKEN="wrong-secret")
    assert done.status == 2
    assert "HAULIER_TOKEN" in done.err
    assert "wrong-secret" not in done.err
    odd = cli("jobs", HAULIER_TOKEN="ключ")
    assert odd.status == 2
    assert len(odd.err.splitlines()) == 1


def test_what_haulier_up_left_behind_is_found(cli: Cli, work: Path) -> None:
    (work / "home").mkdir()
    left = f"export HAULIER_URL={cli.url}\nexport HAULIER_TOKEN='test-admin-token-for-all'\n"
    (work / "home" / "env").write_text(left)
    cli.environment = {**cli.environment, "HAULIER_HOME": "home"}
    del cli.environment["HAULIER_URL"], cli.environment["HAULIER_TOKEN"]
    assert cli("jobs").status == 0
    # Its token is for that API alone.
    elsewhere = cli("jobs", HAULIER_URL=cli.url.replace("127.0.0.1", "localhost"))
    assert elsewhere.status == 2
    assert "set HAULIER_TOKEN" in elsewhere.err


def test_watching_outlives_a_restart_of_the_api(
    cli: Cli, pipeline: Pipeline, simulator: Simulator
) -> None:
    job = cli.submit("a")
    watching = cli.start("watch", job)
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("running")
    assert cli.api is not None
    cli.api.kill()
    assert watching.stderr is not None
    assert "waiting for it" in watching.stderr.readline()

    pipeline.processes.haulier("api", "--port", cli.url.rpartition(":")[2])
    pipeline.worker()
    pipeline.scheduler()

    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (0, "")
    assert out.splitlines()[-1].endswith("1 succeeded, 0 failed")


def test_ctrl_c_leaves_the_job_running(cli: Cli) -> None:
    job = cli.submit("a")
    watching = cli.start("watch", job)
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=10)
    assert watching.returncode == 130
    assert err == f"The job goes on without us. To come back:\n  haulier watch {job}\n"
    assert cli("show", job, "--json").documents[0]["state"] == "running"


def test_a_reader_that_has_enough_is_no_error(working: Cli, simulator: Simulator) -> None:
    simulator.line_rule("error", message="invalid model")
    # More than a pipe holds.
    job = working.submit(*(f"{number:060}" for number in range(1500)))
    working("watch", job)
    for command in ("failures", "results"):
        process = working.start(command, job)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait(timeout=30) == 141
