"""The checks of the VALIDATING phase: any one of them fails the whole batch."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from service.simulator.scenario import LineRule, Switches

BUFFER = 1 << 20
MAX_CUSTOM_ID = 64


class _Frame(msgspec.Struct, gc=False):
    custom_id: str
    body: msgspec.Raw


class _Model(msgspec.Struct, gc=False):
    model: str


_frames = msgspec.json.Decoder(_Frame)
_models = msgspec.json.Decoder(_Model)


def problem(
    path: Path, file_id: str, switches: Switches, poisons: Sequence[LineRule]
) -> str | None:
    """Why this input file cannot be run, in the provider's words; None if it can.

    Reads the file once, line by line. `poisons` are the rules for lines that fail all.
    """
    try:
        size = path.stat().st_size
        with path.open("rb", buffering=BUFFER) as lines:
            if size > switches.max_file_bytes:
                return (
                    f"Input file too large: {size} bytes,"
                    f" the maximum is {switches.max_file_bytes} bytes"
                )
            seen: set[str] = set()
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                found = _line_problem(line, seen, switches)
                place = (number - 1) % switches.chunk_lines + 1
                if found is not None:
                    return (
                        "Failed to calculate tokens: input format error:"
                        f" Line {place} (within chunk): {found}"
                    )
                if poisons and (poison := _poison(line, poisons)) is not None:
                    return poison.message.replace("{line}", str(place))
                if len(seen) > switches.max_requests:
                    return f"Input file has more than {switches.max_requests} requests"
                if len(seen) == 1 and (model := model_of(line)) in switches.refused_models:
                    return f"Invalid model ID: Unable to access non-serverless model {model}"
    except FileNotFoundError:
        return not_there(file_id)
    return None if seen else "Input file is empty"


def not_there(file_id: str) -> str:
    """What a batch fails with whose file the provider does not find."""
    return f"Failed to download input file: file {file_id}: status code: 404 Not Found"


def _line_problem(line: bytes, seen: set[str], switches: Switches) -> str | None:
    if len(line) > switches.max_line_bytes:
        return f"Line too long - more than {switches.max_line_bytes} bytes"
    try:
        frame = _frames.decode(line)
    except msgspec.ValidationError as error:
        return f"Invalid request - {error}"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"Invalid JSON format - {error}"
    custom_id = frame.custom_id
    if not custom_id:
        return "Missing required field 'custom_id'"
    if len(custom_id) > MAX_CUSTOM_ID:
        return f"custom_id longer than {MAX_CUSTOM_ID} characters"
    if custom_id in seen:
        return f"Duplicate custom_id '{custom_id}'"
    if not bytes(frame.body).lstrip().startswith(b"{"):
        return "Field 'body' must be an object"
    seen.add(custom_id)
    return None


def _poison(line: bytes, poisons: Sequence[LineRule]) -> LineRule | None:
    custom_id = _frames.decode(line).custom_id
    return next((rule for rule in poisons if rule.matches(custom_id, line)), None)


def first_model(path: Path) -> str | None:
    """The model that the first line of a file asks for, if there is such a line."""
    try:
        with path.open("rb") as lines:
            return model_of(lines.readline(BUFFER))
    except OSError:
        return None


def model_of(line: bytes) -> str | None:
    """The model a line asks for, if it says so properly."""
    try:
        return _models.decode(_frames.decode(line).body).model
    except msgspec.DecodeError:
        return None
