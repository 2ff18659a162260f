"""What the simulator gets wrong during a chaos run, and the requests that it gets wrong.

What becomes of a request is written into its custom_id, where simulator and auditor find it.
"""

import random
from typing import Any

CHAT = "/v1/chat/completions"
MODELS = ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "deepseek-ai/DeepSeek-V3")

# By the last part of the custom_id: how often among a thousand requests, and the simulator's rule.
ODD: dict[str, tuple[int, dict[str, Any]]] = {
    "refused": (8, {"effect": "error", "message": "Maximum four stop sequences allowed"}),
    "flaky": (20, {"effect": "error", "message": "Internal Server Error", "times": 1}),
    "missing": (15, {"effect": "missing", "times": 1}),
    "twice": (10, {"effect": "duplicate"}),
    "broken": (8, {"effect": "broken", "times": 1}),
    "truncated": (4, {"effect": "truncated", "times": 1}),
    "stranger": (8, {"effect": "stranger"}),
    "inline": (8, {"effect": "error_in_output", "times": 1}),
    "status": (8, {"effect": "bad_status", "times": 1}),
    "both": (8, {"effect": "both_files"}),
    "poison": (2, {"effect": "poison", "message": "Invalid JSON format - line {line}"}),
}

CALLS: list[dict[str, Any]] = [
    {"operation": "create", "fault": "lost", "probability": 0.06},
    {"operation": "create", "fault": "lost", "after_commit": True, "probability": 0.08},
    {"operation": "create", "fault": "status", "status": 500, "after_commit": True,
     "probability": 0.03},
    {"operation": "create", "fault": "status", "status": 503, "body": "html",
     "probability": 0.03},
    {"operation": "create", "fault": "status", "status": 429, "reset_seconds": 0.5,
     "probability": 0.02},
    {"operation": "create", "fault": "slow", "seconds": 2.0, "probability": 0.02},
    {"operation": "list", "fault": "status", "status": 500, "probability": 0.05},
    {"operation": "list", "fault": "lost", "probability": 0.03},
    {"operation": "cancel", "fault": "lost", "after_commit": True, "probability": 0.1},
    {"operation": "put", "fault": "cut", "fraction": 0.5, "probability": 0.02},
    {"operation": "content", "fault": "cut", "fraction": 0.5, "probability": 0.04},
    {"operation": "content", "fault": "cut", "fraction": 0.7, "clean": True,
     "probability": 0.03},
    {"operation": "retrieve", "fault": "status", "status": 429, "reset_seconds": 0.5,
     "probability": 0.005},
    {"operation": "*", "fault": "lost", "probability": 0.01},
    {"operation": "*", "fault": "lost", "after_commit": True, "probability": 0.01},
    {"operation": "*", "fault": "status", "status": 502, "body": "html", "probability": 0.01},
    {"operation": "*", "fault": "slow", "seconds": 0.3, "probability": 0.02},
]  # fmt: skip

# Files are called `<batch id>.jsonl`, and batch ids are random.
BATCHES: list[dict[str, Any]] = [
    {"file_name": "^0", "outcome": "expire", "share": 0.5},
    {"file_name": "^1[0-7]", "outcome": "cancel", "share": 0.3},
    {"file_name": "^1[8-9a]", "outcome": "fail", "message": "Unexpected condition 17"},
    {"file_name": "^2[0-7]", "hang_seconds": 3.0},
    {"file_name": "^3[0-7]", "seconds": 0.05},
    {"file_name": "^4[0-7]", "shows": "PAUSED", "shows_seconds": 1.0},
]

LIST_LAG = 0.4
"""Seconds; less than the grace, as everywhere but in the fault `list lag`."""


LATE_READS = 1
"""How many reads of an ended batch show no files, as everywhere but in the fault `files late`."""


def bad_day(seed: int) -> dict[str, Any]:
    """Everything goes wrong now and then."""
    faults = [{"times": None, "seed": seed + number, **call} for number, call in enumerate(CALLS)]
    switches = {"list_lag_seconds": LIST_LAG, "terminal_reads_without_files": LATE_READS}
    return {"switches": switches, "faults": faults, "lines": _lines(), "batches": BATCHES}


def good_day() -> dict[str, Any]:
    """Nothing goes wrong any more but what is wrong with requests."""
    return {"lines": _lines()}


def _lines() -> list[dict[str, Any]]:
    # By what they say, since requests have other custom_ids in batches that jobs share.
    return [{"contains": f'-{kind}"', **rule} for kind, (_, rule) in ODD.items()]


def requests(luck: random.Random, name: str, count: int) -> list[dict[str, Any]]:
    """Request lines of one job; most jobs ask one model, some ask two."""
    kinds = random.Random(luck.random()).choices(
        ["fine", *ODD],
        [1000 - sum(share for share, _ in ODD.values()), *(share for share, _ in ODD.values())],
        k=count,
    )
    models = MODELS if luck.random() < 0.2 else MODELS[:1]
    return [
        _request(f"{name}-{number:04}-{kind}", luck.choice(models), luck.randrange(200))
        for number, kind in enumerate(kinds)
    ]


def _request(custom_id: str, model: str, padding: int) -> dict[str, Any]:
    said = [
        {"role": "system", "content": "." * padding},
        {"role": "user", "content": f"Say {custom_id}"},
    ]
    return {"custom_id": custom_id, "body": {"model": model, "messages": said}}
