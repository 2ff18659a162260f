"""`haulier logs`: one job's lines, out of those of everybody."""

import json

from tests.cli import Cli
from tests.pipeline import Pipeline


def test_the_life_of_a_job_is_told_by_its_lines(working: Cli, pipeline: Pipeline) -> None:
    jobs = [working.submit(name, options=["--wait"]) for name in "ab"]
    everything = [str(log) for log in pipeline.logs()]
    picked = [working("logs", job, *everything, "--json") for job in jobs]

    for job, found in zip(jobs, picked, strict=True):
        assert (found.status, found.err) == (0, "")
        own = [line for line in found.documents if "stage" in line]
        moves = [line.get("to") for line in own if line["event"] in {"advanced", "settled"}]
        assert moves == ["uploaded", "created", "ended", "settled"]
        assert len({line["batch"] for line in own if "batch" in line}) == 1, job
    assert picked[0].out != picked[1].out


def test_lines_come_from_standard_input_and_obey_nobody(cli: Cli) -> None:
    job = cli.submit("a")
    line = {"event": "parked", "level": "critical", "job": job, "reason": "\x1b[31mred"}
    others = [{**line, "job": "another"}, {"batch": "unknown", "event": "advanced"}, ["parked"]]
    given = "\n".join([*map(json.dumps, [*others, line]), "no JSON", ""]).encode()
    found = cli("logs", job, stdin=given)

    assert (found.status, found.err) == (0, "")
    assert found.out.split() == ["critical", "parked", "reason=", "[31mred"]
    missing = cli("logs", job, "nowhere.log")
    assert (missing.status, missing.err) == (
        2,
        "cannot read nowhere.log: No such file or directory\n",
    )
