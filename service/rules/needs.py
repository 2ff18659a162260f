"""What can wait for a person, in words, and the command that looks at it or ends it. Pure."""

from enum import StrEnum


class NeedKind(StrEnum):
    """What waits for a person, the most urgent first."""

    PROCESS_MISSING = "process_missing"
    ACCOUNT_BLOCKED = "account_blocked"
    LANE_UNWELL = "lane_unwell"
    LANE_PAUSED = "lane_paused"
    BATCH_PARKED = "batch_parked"
    JOB_PARKED = "job_parked"
    JOB_HELD = "job_held"
    COST_REACHED = "cost_reached"
    BUDGET_REACHED = "budget_reached"
    DEADLINE_MISSED = "deadline_missed"
    DEADLINE_AT_RISK = "deadline_at_risk"
    NOTICE_GIVEN_UP = "notice_given_up"


_WORDS = {
    NeedKind.PROCESS_MISSING: (
        "kind of process is not running",
        "kinds of processes are not running",
    ),
    NeedKind.ACCOUNT_BLOCKED: (
        "account is refused by Together",
        "accounts are refused by Together",
    ),
    NeedKind.LANE_UNWELL: (
        "lane rests after trouble at Together",
        "lanes rest after trouble at Together",
    ),
    NeedKind.LANE_PAUSED: ("lane is paused by an operator", "lanes are paused by an operator"),
    NeedKind.BATCH_PARKED: ("batch is parked", "batches are parked"),
    NeedKind.JOB_PARKED: ("job is parked", "jobs are parked"),
    NeedKind.JOB_HELD: (
        "job waits for a decision after its canary",
        "jobs wait for a decision after their canaries",
    ),
    NeedKind.COST_REACHED: ("job has reached its max_cost", "jobs have reached their max_cost"),
    NeedKind.BUDGET_REACHED: ("producer has reached a budget", "producers have reached a budget"),
    NeedKind.DEADLINE_MISSED: ("job has missed its deadline", "jobs have missed their deadlines"),
    NeedKind.DEADLINE_AT_RISK: (
        "job is likely to miss its deadline",
        "jobs are likely to miss their deadlines",
    ),
    NeedKind.NOTICE_GIVEN_UP: (
        "address gets no notices, which were given up",
        "addresses get no notices, which were given up",
    ),
}

_COMMANDS = {
    NeedKind.PROCESS_MISSING: "haulier {name}",
    NeedKind.ACCOUNT_BLOCKED: "haulier probe account {name}",
    NeedKind.LANE_UNWELL: "haulier probe lane {name}",
    NeedKind.LANE_PAUSED: "haulier resume lane {name}",
    NeedKind.BATCH_PARKED: "haulier show {name}",
    NeedKind.JOB_PARKED: "haulier show {name}",
    NeedKind.JOB_HELD: "haulier release {name}",
    NeedKind.COST_REACHED: "haulier release {name} --max-cost USD",
    NeedKind.BUDGET_REACHED: "haulier producer set {name} --usd-per-day USD",
    NeedKind.DEADLINE_MISSED: "haulier show {name}",
    NeedKind.DEADLINE_AT_RISK: "haulier show {name}",
    NeedKind.NOTICE_GIVEN_UP: "haulier deliveries {name}",
}


def words(kind: NeedKind, number: int, *, at_least: bool = False) -> str:
    """Say how many of a kind wait for a person: "2 jobs are parked"."""
    one, many = _WORDS[kind]
    more = " or more" if at_least else ""
    return f"{number:,}{more} {one if number == 1 else many}"


def command(kind: NeedKind, name: str) -> str:
    """Return the command that helps, or shows more."""
    return _COMMANDS[kind].format(name=name)
