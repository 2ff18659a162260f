"""Chaos: everything is broken at random while jobs come in, and an auditor looks at what is left.

    make chaos MINUTES=5 SEED=1

Exits with 1 if a promise was broken; the same seed plans the same faults and the same requests.
"""

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import psycopg
import redis

from tests.faults.auditor import Findings, audit
from tests.faults.chaos_deployment import Deployment, open_deployment
from tests.faults.chaos_faults import Plan
from tests.faults.chaos_ledger import Ledger
from tests.faults.chaos_producers import Producers
from tests.faults.chaos_scenario import good_day
from tests.simulator import KEY

SETTLING = 240.0
"""Seconds that all jobs have to end in after the last fault."""
SLOW = 90.0
"""Seconds of settling that somebody should look into: logs and rows are kept then too."""
HELD_BY_INBOX = ("inbox.page", "inbox.held")
UNEXPECTED = {"stage_broke", "outcome_not_stored", "tick_failed", "inbox_failed"}
TOLD = {
    "account_paused",
    "batch_adopted",
    "create_given_up",
    "lease_lost",
    "nudge_lost",
    "postgres_unavailable",
    "redis_unavailable",
    "submission_known",
    "twin_batch_cancelled",
}
"""What shows that the faults hit where they should."""
PAUSE = (1.0, 5.0)
"""Seconds between two faults, from and to."""


def run(seconds: float, seed: int, *, pause: tuple[float, float] = PAUSE) -> Findings:
    """Break things for so long, let everything settle, and audit. On the main thread only."""
    ledger = Ledger()
    with open_deployment(seed) as deployment:
        producers = Producers(
            deployment.api_url, deployment.valkey.url, deployment.database_url, ledger, seed
        )
        producers.start()
        try:
            _break(deployment, Plan(deployment, ledger, seed, pause), seconds)
            producers.stop(60)
            settled = _settle(deployment)
        finally:
            producers.stop(1)
        deployment.note_what_was_played()
        ledger.played = deployment.played
        findings = audit(
            ledger,
            database_url=deployment.database_url,
            blobs=deployment.blobs,
            simulator_url=deployment.simulator.url,
            key=KEY,
        )
        findings.figures["keys held by another transaction"] = ledger.held
        findings.figures["messages that are none"] = ledger.poisoned
        findings.figures["seconds from the last fault until all jobs had ended"] = round(settled, 1)
        _check_logs(deployment.home / "logs", findings)
        for failure in producers.failures:
            findings.violate("answers that producers cannot use", failure)
        if not findings.ok or settled > SLOW:
            _keep(deployment)
    return findings


def _break(deployment: Deployment, plan: Plan, seconds: float) -> None:
    end = time.monotonic() + seconds
    look = 0.0
    try:
        while time.monotonic() < end:
            plan.step()
            if time.monotonic() > look:
                look = time.monotonic() + 10
                plan.restart_what_ended()
                if deployment.simulator.running:
                    deployment.note_what_was_played()
            time.sleep(0.05)
    finally:
        plan.end()
    deployment.simulator.scenario(**good_day())


def _settle(deployment: Deployment) -> float:
    """Wait until every job has ended. Gives how long that took, in seconds."""
    began = time.monotonic()
    quiet = 0
    while time.monotonic() < began + SETTLING:
        for name in deployment.parts:
            deployment.start(name)
        with psycopg.connect(deployment.database_url) as connection:
            (still,) = connection.execute(
                "SELECT (SELECT count(*) FROM haulier.jobs WHERE state IN ('accepted', 'running'))"
                " + (SELECT count(*) FROM haulier.batches WHERE lease IS NOT NULL)"
            ).fetchone() or (1,)
        # Submissions may still be on their way through the inbox.
        quiet = quiet + 1 if still == 0 and _queue_is_empty(deployment) else 0
        if quiet >= 5:
            break
        time.sleep(0.5)
    return time.monotonic() - began


def _queue_is_empty(deployment: Deployment) -> bool:
    with redis.Redis.from_url(deployment.valkey.url) as client:
        # What a dead inbox held comes again after a while, and so does what waits for a key.
        return not any(client.keys(f"haulier.{name}*") for name in ("submit", *HELD_BY_INBOX))


def _check_logs(logs: Path, findings: Findings) -> None:
    """Nothing may have been unexpected; and how often what was expected did happen."""
    rule = "unexpected errors in the logs"
    findings.rule(rule)
    told: Counter[str] = Counter()
    for log in sorted(logs.iterdir()):
        for line in log.read_text(errors="replace").splitlines():
            event = _event(line)
            if event in UNEXPECTED or line.startswith("Traceback"):
                findings.violate(rule, f"{log.name}: {line[:2000]}")
            elif event in TOLD:
                told[event] += 1
    findings.figures["told by the logs"] = sum(told.values())
    findings.figures |= {f"  {event}": count for event, count in sorted(told.items())}


def _event(line: str) -> str | None:
    try:
        read = json.loads(line)
    except ValueError:
        return None
    return str(read.get("event")) if isinstance(read, dict) else None


def _keep(deployment: Deployment) -> None:
    """Leave the logs and a dump of the rows where somebody can look at them."""
    target = Path("build/chaos")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copytree(deployment.home / "logs", target / "logs")
    with psycopg.connect(deployment.database_url) as connection:
        for table in ("jobs", "parts", "batches", "events", "dead_letters", "accounts"):
            rows = connection.execute(f"SELECT t::text FROM haulier.{table} t".encode())
            (target / f"{table}.txt").write_text("\n".join(row[0] for row in rows))


def main() -> int:
    """The command. 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="chaos", description="Break everything, then audit.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    findings = run(arguments.minutes * 60, arguments.seed)
    print(findings.table())
    print(f"took {time.monotonic() - began:.0f} s")
    if findings.ok:
        print("Every promise was kept.")
        return 0
    print(f"BROKEN. Logs and rows are in build/chaos. Repeat with SEED={arguments.seed}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
