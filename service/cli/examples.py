"""The examples at the end of every help text."""

from typing import Any

import typer
from typer.core import TyperGroup

EXAMPLES: dict[str, tuple[str, ...]] = {
    "up": ("haulier up --simulate", "haulier up --port 9000"),
    "migrate": ("haulier migrate", "haulier migrate --runtime-role haulier_runtime"),
    "api": ("haulier api --port 8080",),
    "openapi": ("haulier openapi > openapi.json",),
    "worker": ("haulier worker --concurrency 4", "haulier worker --queues transfer"),
    "scheduler": ("haulier scheduler",),
    "inbox": ("haulier inbox",),
    "simulator": ("haulier simulator --port 8099 --batch-seconds 5",),
    "notifier": ("haulier notifier",),
    "doctor": ("haulier doctor",),
    "submit": (
        "haulier submit questions.jsonl --model openai/gpt-oss-20b --wait -o answers.csv",
        "haulier submit texts.csv --template 'Translate: {text}' --model openai/gpt-oss-20b",
        "haulier submit --spec spec.json",
    ),
    "estimate": ("haulier estimate questions.jsonl",),
    "jobs": (
        "haulier jobs --state running --since 1h",
        "haulier jobs --metadata run=nightly --since yesterday --limit 100",
    ),
    "show": ("haulier show 93d16", "haulier show - --json"),
    "request": ("haulier request 93d16 question-7",),
    "logs": ("haulier logs 93d16 api.log worker.log", "haulier logs - worker.log --json"),
    "watch": ("haulier watch -",),
    "results": (
        "haulier results 93d16 --text",
        "haulier results 93d16 -o answers.csv",
        "haulier results - --partial --only failed",
    ),
    "failures": ("haulier failures 93d16", "haulier failures 93d16 --by cause"),
    "errors": ("haulier errors --since 1h", "haulier errors --since yesterday --until today"),
    "usage": ("haulier usage --by model", "haulier usage --from 2026-11-01 --to 2026-11-30"),
    "cancel": ("haulier cancel 93d16",),
    "retry": (
        "haulier retry 93d16",
        "haulier retry 93d16 question-7 question-9",
        "haulier retry 93d16 --cause 5fd924625f6a --limit 5",
    ),
    "release": ("haulier release 93d16", "haulier release 93d16 --max-cost 25"),
    "abandon": ("haulier abandon 93d16 --dead",),
    "deliveries": ("haulier deliveries 93d16",),
    "redeliver": ("haulier redeliver 93d16 d1b0c0de-52b5-4a56-9b83-0a1f6f0f8a11",),
    "accounts": ("haulier accounts",),
    "status": ("haulier status",),
    "top": ("haulier top", "haulier top --once", "haulier top --every 10"),
    "lanes": ("haulier lanes",),
    "audit": ("haulier audit --since 1d --verb cancel", "haulier audit --object producers/billing"),
    "producer add": ("haulier producer add billing --account default --usd-per-day 50",),
    "producer set": ("haulier producer set billing --open-requests 1000000",),
    "producer disable": ("haulier producer disable billing",),
    "producer enable": ("haulier producer enable billing",),
    "producer remove": ("haulier producer remove billing",),
    "producer list": ("haulier producer list",),
    "producer secret": ("haulier producer secret billing",),
    "pause account": ("haulier pause account default --reason 'budget review until Monday'",),
    "resume account": ("haulier resume account default",),
    "pause lane": ("haulier pause lane openai/gpt-oss-20b",),
    "drain": ("haulier drain worker@host-3:4711:9f3b1c", "haulier drain 9f3b1c --dry-run"),
    "resume process": ("haulier resume process 9f3b1c",),
    "resume lane": ("haulier resume lane openai/gpt-oss-20b",),
    "probe account": ("haulier probe account default",),
    "probe lane": ("haulier probe lane openai/gpt-oss-20b",),
    "token add": ("haulier token add billing --scope submit --scope read --expires-in 90d",),
    "token list": ("haulier token list billing",),
    "token rotate": ("haulier token rotate billing 3f9c2a --grace 1h",),
    "token revoke": ("haulier token revoke billing 3f9c2a",),
}


def with_examples(app: typer.Typer) -> Any:
    """Return the command line with its examples."""
    command = typer.main.get_command(app)
    for name, one in commands(command):
        if lines := EXAMPLES.get(name):
            # Each paragraph of an epilog becomes a line.
            one.epilog = "\n\n".join(("Examples:", *(f"  {line}" for line in lines)))
    return command


def commands(command: Any, above: str = "") -> list[tuple[str, Any]]:
    """Return all commands below a command that do something, with their full names."""
    if not isinstance(command, TyperGroup):
        return [(above, command)]
    return [
        found
        for name, one in command.commands.items()
        for found in commands(one, f"{above} {name}".strip())
    ]
