"""The auditor of a chaos run: reads what is there, with its own eyes, and tells what is wrong.

It shares no code with Haulier: plain SQL, blobs as files, the simulator's books over HTTP.
"""

import base64
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
from psycopg.rows import dict_row

from tests.faults.chaos_ledger import Asked, Broken, Ledger

Row = dict[str, Any]
Lines = list[dict[str, Any]]

UNREADABLE = {"broken", "truncated"}
"""Kinds of requests whose first answer is paid for and cannot be read."""
MAY_FAIL = {
    "refused": {"batch_client_error"},
    "poison": {"batch_failed"},
    "withdrawn": {"batch_failed"},  # requests for a model that is gone
}
EXCUSES = {"list lag beyond the grace", "worker process frozen", "connections blackholed"}
"""Faults that may make a late twin: one that is made up to LAG before, or in them."""
LAG = 20.0
SHOWN = 10
SUMMED = ("requests", "succeeded", "dead", "carried", "total_tokens")
"""What a batch counts is the sum of what its parts count."""


@dataclass
class Findings:
    """What is counted, what is wrong (`violations`, by rule), and what is merely told."""

    figures: dict[str, int | float | str] = field(default_factory=dict)
    violations: dict[str, list[str]] = field(default_factory=dict)

    def rule(self, name: str) -> None:
        """A rule that was checked, so that its 0 is shown."""
        self.violations.setdefault(name, [])

    def violate(self, name: str, what: str) -> None:
        self.violations.setdefault(name, []).append(what)

    @property
    def ok(self) -> bool:
        return not any(self.violations.values())

    def table(self) -> str:
        """The figures, the rules with how often each was broken, and examples."""
        rows: list[tuple[str, object]] = [*self.figures.items()]
        rows += [(name, len(found)) for name, found in self.violations.items()]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        for name, found in self.violations.items():
            lines += [f"  ! {name}: {what}" for what in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"  ! {name}: and {len(found) - SHOWN} more")
        return "\n".join(lines)


@dataclass
class Evidence:
    """Everything that was read, once, after the run."""

    jobs: dict[UUID, Row]
    parts: list[Row]
    batches: list[Row]
    letters: dict[UUID, dict[str, Row]]
    cancelled: set[UUID]
    """Jobs that somebody asked to cancel at some time."""
    moves: list[float]
    """When something moved, in Unix seconds."""
    results: dict[UUID, Lines]
    books: dict[str, Any]
    outputs: dict[str, list[str]]
    """By late twin: the custom_ids that it executed with success."""


def audit(
    ledger: Ledger,
    *,
    database_url: str,
    blobs: Path,
    simulator_url: str,
    key: str,
    since: float = 0.0,
) -> Findings:
    """Hold what was asked for against what is there.

    Batches that the provider made before `since` (Unix seconds) are left out: their rows may have
    been pruned. No request may be bought twice, whenever that was.
    """
    findings = Findings()
    evidence = _read(database_url, blobs, simulator_url, key, findings)
    evidence.books["batches"] = [
        made for made in evidence.books["batches"] if made["created_at"] >= since
    ]
    jobs = _find_jobs(ledger, evidence, findings)
    _call_by_own_names(ledger, jobs, evidence)
    twins = _check_batches(evidence, ledger.broken, findings)
    by_twins = _executed_by(twins, evidence)
    for asked, job in jobs:
        _check_results(asked, job, evidence, by_twins, findings)
    _check_counters(evidence, findings)
    _check_rows(evidence, findings)
    _check_purchases(evidence, by_twins, findings)
    _tell_faults(ledger, evidence.moves, findings)
    return findings


# --- reading ------------------------------------------------------------------------------------


def _read(
    database_url: str, blobs: Path, simulator_url: str, key: str, findings: Findings
) -> Evidence:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:

        def rows(query: str) -> list[Row]:
            return connection.execute(query.encode()).fetchall()

        jobs = {row["id"]: row for row in rows("SELECT * FROM haulier.jobs")}
        parts = rows("SELECT * FROM haulier.parts")
        batches = rows("SELECT * FROM haulier.batches")
        letters: dict[UUID, dict[str, Row]] = defaultdict(dict)
        for row in rows("SELECT * FROM haulier.dead_letters"):
            letters[row["job_id"]][row["custom_id"]] = row
        events = rows("SELECT job_id, target, at FROM haulier.events ORDER BY id")
        segments = rows(
            "SELECT s.job_id, s.blob, s.bytes FROM haulier.segments s JOIN haulier.jobs j"
            " ON j.id = s.job_id AND j.generation = s.generation ORDER BY s.job_id, s.position"
        )
    with httpx.Client(base_url=simulator_url, timeout=60, trust_env=False) as http:
        answer = http.get("/_control/books").raise_for_status()
        accounts: dict[str, Any] = answer.json()["accounts"]
        books: Row = next(iter(accounts.values()), {"batches": [], "lines": {}})
        known = {row["provider_batch_id"] for row in batches}
        outputs = {
            made["id"]: _executed(http, made["output_file_id"], key)
            for made in books["batches"]
            if made["id"] not in known and made["output_file_id"] is not None
        }
    return Evidence(
        jobs=jobs,
        parts=parts,
        batches=batches,
        letters=letters,
        cancelled={row["job_id"] for row in events if row["target"] == "cancel_requested"},
        moves=sorted(_instant(row["at"]) for row in events),
        results=_results(segments, blobs, findings),
        books=books,
        outputs=outputs,
    )


def _instant(at: datetime) -> float:
    return at.timestamp()


def _results(segments: Iterable[Row], blobs: Path, findings: Findings) -> dict[UUID, Lines]:
    found: dict[UUID, Lines] = defaultdict(list)
    rule = "result files that are broken"
    findings.rule(rule)
    for segment in segments:
        try:
            content = _range(blobs, segment["blob"])
            lines = [json.loads(line) for line in content.splitlines()]
        except (OSError, ValueError) as error:
            findings.violate(rule, f"{segment['blob']}: {error}")
            continue
        if len(content) != segment["bytes"]:
            findings.violate(rule, f"{segment['blob']}: {len(content)} bytes")
        found[segment["job_id"]] += lines
    return found


def _range(blobs: Path, name: str) -> bytes:
    """A blob, or a range of one: `<blob>@<offset>+<length>`."""
    blob, _, place = name.partition("@")
    content = (blobs / blob).read_bytes()
    if not place:
        return content
    offset, _, length = place.partition("+")
    return content[int(offset) : int(offset) + int(length)]


def _executed(http: httpx.Client, file_id: str, key: str) -> list[str]:
    """The custom_ids of the lines in a provider's output file that can be read."""
    answer = http.get(f"/v1/files/{file_id}/content", headers={"Authorization": f"Bearer {key}"})
    if not answer.is_success:
        return []
    return list(_custom_ids(answer.content))


def _custom_ids(content: bytes) -> Iterator[str]:
    for line in content.splitlines():
        try:
            read = json.loads(line)
        except ValueError:
            continue
        if "error" not in read:
            yield str(read["custom_id"])


# --- requests -----------------------------------------------------------------------------------


def _find_jobs(ledger: Ledger, evidence: Evidence, findings: Findings) -> list[tuple[Asked, Row]]:
    """The job of each submission that was accepted."""
    rule = "jobs lost, or there twice"
    findings.rule(rule)
    found: list[tuple[Asked, Row]] = []
    never_accepted = 0
    by_key: dict[str, list[Row]] = defaultdict(list)
    for job in evidence.jobs.values():
        by_key[job["idempotency_key"]].append(job)
    for asked in ledger.asked:
        if asked.way == "queue":
            stored = evidence.jobs.get(UUID(asked.key))
            if stored is None:
                never_accepted += 1
            else:
                found.append((asked, stored))
            continue
        there = by_key[asked.key]
        answered = ledger.accepted.get(asked.key)
        if answered is not None and [job["id"] for job in there] != [answered]:
            findings.violate(rule, f"{asked.key}: answered with job {answered}, there: {there}")
        elif there:
            found.append((asked, there[0]))
    for what in ledger.contradicted:
        findings.violate(rule, what)
    if strangers := set(evidence.jobs) - {job["id"] for _, job in found}:
        findings.violate(rule, f"jobs that nobody asked for: {strangers}")
    findings.figures |= {
        "jobs": len(found),
        "  over HTTP": sum(asked.way == "http" for asked, _ in found),
        "  over the queue": sum(asked.way == "queue" for asked, _ in found),
        "  sent to the queue, gone with Redis before the inbox stored them": never_accepted,
        "  repeated submissions": ledger.repeats,
        "  cancelled": ledger.cancels,
        "  retried": ledger.retries,
        "requests": sum(len(asked.custom_ids) for asked, _ in found),
    }
    return found


def _call_by_own_names(
    ledger: Ledger, jobs: Iterable[tuple[Asked, Row]], evidence: Evidence
) -> None:
    """Book what was executed in batches that jobs shared under the producers' own custom_ids.

    There, a request is called by its job's id in base64url and its place in the input. A job may
    have been pruned since; its answer has told its id.
    """
    ids = {asked: job["id"] for asked, job in jobs}
    for asked in (*ledger.asked, *ledger.pruned):
        if asked.key in ledger.accepted:
            ids.setdefault(asked, ledger.accepted[asked.key])
    own: dict[str, str] = {}
    for asked, job_id in ids.items():
        prefix = base64.urlsafe_b64encode(job_id.bytes).decode().rstrip("=")
        own |= {f"{prefix}-{place}": name for place, name in enumerate(asked.custom_ids)}
    lines: dict[str, Counter[str]] = defaultdict(Counter)
    for name, booked in evidence.books["lines"].items():
        lines[own.get(name, name)].update(booked)
    evidence.books["lines"] = {name: dict(booked) for name, booked in lines.items()}
    evidence.outputs = {
        batch_id: [own.get(name, name) for name in names]
        for batch_id, names in evidence.outputs.items()
    }


def _check_results(
    asked: Asked, job: Row, evidence: Evidence, by_twins: Counter[str], findings: Findings
) -> None:
    """Exactly one line for each request, in input order, and each is what it should be."""
    lost, twice = "requests lost", "requests with two results"
    order, strange = "jobs out of order", "result lines that nobody asked for"
    for rule in (lost, twice, order, strange):
        findings.rule(rule)
    lines = evidence.results.get(job["id"], [])
    names = [line.get("custom_id") for line in lines]
    counts = Counter(names)
    for custom_id in asked.custom_ids:
        if counts[custom_id] == 0:
            findings.violate(lost, f"{custom_id} of job {job['id']} ({job['state']})")
        elif counts[custom_id] > 1:
            findings.violate(twice, f"{custom_id} of job {job['id']}")
    for stranger in set(counts) - set(asked.custom_ids):
        findings.violate(strange, f"{stranger} of job {job['id']}")
    if names != list(asked.custom_ids) and Counter(asked.custom_ids) == counts:
        findings.violate(order, str(job["id"]))
    for line in lines:
        _check_line(line, job["id"], evidence, by_twins, findings)


def _check_line(
    line: Row, job_id: UUID, evidence: Evidence, by_twins: Counter[str], findings: Findings
) -> None:
    wrong, dead = "wrong answers", "requests that failed for no reason of their own"
    paid = "requests shown as failed although a success was paid for"
    for rule in (wrong, dead, paid):
        findings.rule(rule)
    custom_id = str(line.get("custom_id"))
    kind = custom_id.rpartition("-")[2]
    if "error" not in line:
        if not _is_answer(line, custom_id):
            findings.violate(wrong, f"{custom_id} of job {job_id}: {line}")
        return
    if not _may_fail(kind, line, cancelled=job_id in evidence.cancelled):
        findings.violate(dead, f"{custom_id} of job {job_id}: {line['error']}")
    booked = evidence.books["lines"].get(custom_id, {"succeeded": 0})
    # What only a late twin served is not Haulier's to give: it was given up within the bound.
    if booked["succeeded"] > by_twins[custom_id] and kind not in UNREADABLE:
        findings.violate(paid, f"{custom_id} of job {job_id}: {line}")


def _may_fail(kind: str, line: Row, *, cancelled: bool) -> bool:
    code, message = line["error"]["code"], line["error"]["message"]
    return (
        code in MAY_FAIL.get(kind, ())
        or (code == "cancelled" and cancelled)
        # What the scenario lets happen to whole batches.
        or (code == "batch_failed" and message == "Unexpected condition 17")
    )


def _is_answer(line: Row, custom_id: str) -> bool:
    response = line.get("response") or {}
    choices = (response.get("body") or {}).get("choices") or [{}]
    said = (choices[0].get("message") or {}).get("content")
    return str(response.get("status_code")) == "200" and said == f"echo: Say {custom_id}"


# --- rows ---------------------------------------------------------------------------------------


def _check_counters(evidence: Evidence, findings: Findings) -> None:
    rule = "counters that disagree"
    findings.rule(rule)
    of_job: dict[UUID, list[Row]] = defaultdict(list)
    in_batch: dict[UUID, list[Row]] = defaultdict(list)
    for part in evidence.parts:
        of_job[part["job_id"]].append(part)
        in_batch[part["batch_id"]].append(part)
    for job_id, job in evidence.jobs.items():
        lines = evidence.results.get(job_id, [])
        dead = sum("error" in line for line in lines)
        tokens = sum(
            int(line["response"]["body"]["usage"]["total_tokens"])
            for line in lines
            if "error" not in line
        )
        told = {
            "total": len(lines),
            "succeeded": len(lines) - dead,
            "failed": dead,
            "pending": 0,
            "open_parts": 0,
            "total_tokens": tokens,
        }
        there = {name: job[name] for name in told}
        if there != told:
            findings.violate(rule, f"job {job_id} says {there}, its results {told}")
        if len(evidence.letters.get(job_id, {})) != dead:
            findings.violate(rule, f"job {job_id}: {dead} failures, other dead letters")
        if sum(part["succeeded"] for part in of_job[job_id]) != job["succeeded"]:
            findings.violate(rule, f"job {job_id}: its parts sum up to another count")
        for part in of_job[job_id]:
            if part["requests"] != part["succeeded"] + part["dead"] + part["carried"]:
                findings.violate(rule, f"part {part['id']} does not account for its requests")
    for batch in evidence.batches:
        parts = in_batch[batch["id"]]
        sums = {name: sum(part[name] for part in parts) for name in SUMMED}
        if (len(parts), *sums.values()) != (batch["parts"], *(batch[name] for name in SUMMED)):
            findings.violate(rule, f"batch {batch['id']} says another thing than its parts")
    shared = [parts for parts in in_batch.values() if len({part["job_id"] for part in parts}) > 1]
    findings.figures |= {
        "parts": len(evidence.parts),
        "batches that several jobs shared": len(shared),
        "  most parts in one": max(map(len, shared), default=0),
    }


def _check_rows(evidence: Evidence, findings: Findings) -> None:
    open_rows, held = "jobs and batches that have not ended", "rows still leased, or parked"
    findings.rule(open_rows)
    findings.rule(held)
    rows: Sequence[tuple[str, Row, set[str]]] = [
        *(("job", row, {"completed", "cancelled"}) for row in evidence.jobs.values()),
        *(("batch", row, {"settled", "failed", "cancelled"}) for row in evidence.batches),
    ]
    for what, row, ends in rows:
        if row["state"] not in ends:
            findings.violate(
                open_rows,
                f"{what} {row['id']} is {row['state']}, due {row['not_before']},"
                f" tries {row['tries']}, error {row['error'] if what == 'job' else ''}"
                f" {row['last_error']}",
            )
        if row["lease"] is not None or row["parked_at"] is not None:
            findings.violate(held, f"{what} {row['id']} ({row['state']}): {row['last_error']}")
    findings.figures["batches of ours"] = len(evidence.batches)


# --- what was bought ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Twin:
    """A provider batch that no row stands for."""

    id: str
    status: str
    spent: bool
    """Whether its file was given up, so that the twin is within the documented bound."""


def _check_batches(evidence: Evidence, broken: Sequence[Broken], findings: Findings) -> list[Twin]:
    """Each provider batch is a row's, or a late twin under a file that was given up."""
    twice, unknown = (
        "batches of Together created twice for one of ours",
        "batches that no row knows",
    )
    for rule in (twice, unknown):
        findings.rule(rule)
    made = evidence.books["batches"]
    rows = {row["provider_batch_id"]: row for row in evidence.batches}
    spent = {file_id for row in evidence.batches for file_id in row["spent_file_ids"]}
    by_name = {f"{row['id']}.jsonl": row for row in evidence.batches}
    twins: list[Twin] = []
    for batch in made:
        if batch["id"] in rows:
            continue
        row = by_name.get(str(batch["filename"]))
        text = f"{batch['id']} ({batch['status']}) of {batch['filename']}"
        if row is None:
            findings.violate(unknown, text)
        elif batch["input_file_id"] not in spent or not _excused(batch, broken):
            findings.violate(twice, f"{text}, row {row['state']} {row['provider_batch_id']}")
        twins.append(Twin(batch["id"], batch["status"], batch["input_file_id"] in spent))
    for file_id, count in Counter(batch["input_file_id"] for batch in made).items():
        if count > 1:
            findings.violate(twice, f"{count} batches of file {file_id}")
    statuses = Counter(twin.status for twin in twins if twin.spent)
    findings.figures |= {
        "batches of the provider": len(made),
        "  late twins within the documented bound": sum(statuses.values()),
        "    of those cancelled": statuses["CANCELLED"],
        "    of those that failed for want of their file": statuses["FAILED"],
    }
    return twins


def _excused(batch: Row, broken: Sequence[Broken]) -> bool:
    """Whether something was wrong at the time that Haulier does not promise to see through.

    Where its file was gone, nothing was bought, and no excuse is needed.
    """
    return batch["status"] == "FAILED" or any(
        fault.at - LAG <= batch["created_at"] <= fault.mended_at + 5
        for fault in broken
        if fault.kind in EXCUSES
    )


def _executed_by(twins: Sequence[Twin], evidence: Evidence) -> Counter[str]:
    """How often late twins within the bound have executed each request with success."""
    return Counter(
        custom_id for twin in twins if twin.spent for custom_id in evidence.outputs.get(twin.id, ())
    )


def _check_purchases(evidence: Evidence, by_twins: Counter[str], findings: Findings) -> None:
    """No request that succeeded is executed again, unless its answer could not be read."""
    rule = "requests executed again although a success existed"
    findings.rule(rule)
    unreadable = bounded = 0
    for custom_id, booked in evidence.books["lines"].items():
        again = booked["succeeded"] - 1
        if again <= 0:
            continue
        if custom_id.rpartition("-")[2] in UNREADABLE:
            unreadable += 1
            again -= 1
        within = min(again, by_twins[custom_id])
        bounded += within
        if again > within:
            findings.violate(rule, f"{custom_id}: {booked}")
    findings.figures |= {
        "requests paid for": sum(line["succeeded"] for line in evidence.books["lines"].values()),
        "  again, because the provider's line was unreadable": unreadable,
        "  again, by late twins within the documented bound": bounded,
    }


# --- faults -------------------------------------------------------------------------------------


def _tell_faults(ledger: Ledger, moves: Sequence[float], findings: Findings) -> None:
    """Faults by kind, each with the slowest recovery: from its end to the next move of a row."""
    by_kind: dict[str, list[Broken]] = defaultdict(list)
    for broken in ledger.broken:
        by_kind[broken.kind].append(broken)
    findings.figures["faults"] = len(ledger.broken)
    slowest = 0.0
    for kind, struck in sorted(by_kind.items()):
        recoveries = [_recovery(broken, moves) for broken in struck]
        slowest = max(slowest, *recoveries)
        findings.figures[f"  {kind}"] = f"{len(struck)} (slowest recovery {max(recoveries):.1f} s)"
    findings.figures["slowest recovery, seconds"] = round(slowest, 1)
    findings.figures["longest time without any move, seconds"] = round(
        max((later - one for one, later in itertools.pairwise(moves)), default=0.0), 1
    )
    findings.figures["processes that ended by themselves and were started again"] = (
        ", ".join(f"{name} {count}" for name, count in sorted(ledger.ended.items())) or 0
    )
    findings.figures["calls that the simulator got wrong"] = sum(ledger.played.values())
    findings.figures |= {f"  {kind}": count for kind, count in sorted(_merged(ledger.played))}


def _merged(played: Mapping[str, int]) -> list[tuple[str, int]]:
    kinds: Counter[str] = Counter()
    for name, count in played.items():
        kinds[name.partition(" ")[2]] += count
    return list(kinds.items())


def _recovery(broken: Broken, moves: Sequence[float]) -> float:
    """Seconds until something moved again; 0 where nothing was left to move."""
    return next((at - broken.mended_at for at in moves if at > broken.mended_at), 0.0)
