"""All events of the log, found in the source."""

import ast
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from service.runner import worklog
from service.store import health

ROOT = Path(__file__).parents[2]
LEVELS = ("debug", "info", "warning", "error", "critical", "exception")

LANE_FIELDS = {"account", "endpoint", "model", "phase", "until", "rests", "failed", "text"}


@dataclass
class LogEvent:
    """One name, from wherever it is logged."""

    name: str
    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)


def events() -> list[LogEvent]:
    """Return all of them, by name."""
    found: dict[str, LogEvent] = {}
    for folder in ("config", "service", "workers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = str(path.relative_to(ROOT))
            for name, level, fields in _logged(ast.parse(path.read_text())):
                event = found.setdefault(name, LogEvent(name))
                event.levels.add("error" if level == "exception" else level)
                event.fields |= fields
                event.places.add(place)
    for table, fields, place in (
        (worklog.TROUBLE, {"reason"}, "service/runner/worklog.py"),
        (health.LOGGED, LANE_FIELDS, "service/store/health.py"),
    ):
        for number, name in table.values():
            event = found.setdefault(name, LogEvent(name))
            event.levels.add(logging.getLevelName(number).lower())
            event.fields |= fields
            event.places.add(place)
    return sorted(found.values(), key=lambda event: event.name)


def _logged(tree: ast.AST) -> Iterator[tuple[str, str, set[str]]]:
    """Yield the name, the level and the fields of each call that logs a constant event."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        first = node.args[0]
        if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
            continue
        # What is handed on as a whole has no names here.
        fields = {one.arg or "…" for one in node.keywords if one.arg != "exc_info"}
        match node.func:
            case ast.Attribute(value=ast.Name(id="log" | "_log"), attr=level) if level in LEVELS:
                yield first.value, level, fields
            case ast.Name(id="log_trouble"):
                yield first.value, "error", {"exception"}
