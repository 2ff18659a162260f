"""Pages of docs/reference/ that are made from the code. `python -m tests.docs.reference` writes."""

from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from config.secret_files import SECRETS, file_of
from config.settings import Settings
from service.api.app import application
from service.api.openapi import KINDS
from tests.docs.log_events import events

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


@cache
def pages() -> dict[str, str]:
    """What each page should hold, by its name."""
    return {
        "settings.md": _settings(),
        "spec.md": _spec(),
        "problems.md": _problems(),
        "log.md": _log(),
    }


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads)]
    lines.append(["---"] * len(lines[0]))
    lines += [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _settings() -> str:
    rows = [
        (f"`{_variable(name, field)}`", _default(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return (
        "# Settings\n\nSettings are environment variables. A process reads them once, at its start."
        " An empty variable counts as unset, but for"
        " `HAULIER_QUEUE_DEFAULT_PRODUCER`. A bad value stops the process with a message that"
        " names the variable. Times are in seconds, and may be fractions.\n\n"
        + _table(("variable", "default", ""), rows)
        + "\nA secret may also stand in a file, as container platforms mount it: "
        + ", ".join(f"`{file_of(variable)}`" for variable in SECRETS)
        + " name a file each. White space around a secret does not count.\n"
    )


def _variable(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    return alias if isinstance(alias, str) else f"HAULIER_{name.upper()}"


def _default(value: Any) -> str:
    match value:
        case None | () | {} | SecretStr():
            return ""
        case timedelta():
            return f"`{value.total_seconds():g}`"
        case _:
            return f"`{value}`"


def _spec() -> str:
    schema = application().openapi()["components"]["schemas"]["Spec"]
    rows = [
        (f"`{name}`", _type(field), _default(field.get("default")), field.get("description", ""))
        for name, field in schema["properties"].items()
    ]
    return (
        "# The batch spec\n\nA batch spec is submitted as JSON, or with its requests as JSONL and"
        " the other fields as query parameters. `endpoint` is required, and either `requests` or"
        " `input`. Fields that are not listed are refused. `null` means that a field was left out,"
        " and so it does in the query.\n\n"
        + _table(("field", "type", "default", ""), rows)
        + _LINES
    )


_LINES = """
## Request lines

A request is `{"custom_id", "body"}`; for the audio endpoints it also has `"method": "FILE"`. The
shape of OpenAI's Batch API is taken as well: `{"custom_id", "method": "POST", "url", "body"}`.

- `url` must be the job's `endpoint`. It may lack the `/v1`, and may be a whole URL, of any host:
  `/v1/chat/completions`, `/chat/completions` and `https://api.openai.com/v1/chat/completions` are
  the same. A line with another `url` is refused by its number.
- `method` may be `POST`, and for audio `FILE`. `null` for either means that it was left out.
- Together gets `{"custom_id", "body"}`, with `"method": "FILE"` for audio, and never `url`. The
  body stays as it is, byte for byte, and so does a line that needs no change.
- For [idempotency](../api.md#submitting) the line counts as it is sent. So in a JSON spec
  either shape is the same content. In JSONL, a line that was changed counts as
  `{"custom_id":…,"body":…}`, without spaces between its members.

## Inputs as they are

A JSONL submission, the file behind `input`, and a file that was uploaded with Together's SDK are
read alike. Lines end in LF or CR LF, blank lines are skipped, and a byte order mark is passed over.
What is gzipped is unpacked, up to `HAULIER_UNPACKED_BYTES` and the producer's `body_bytes`: a
body with `Content-Encoding: gzip`, and a file that was gzipped before it was sent. What is
something else (a JSON array, pretty-printed JSON, UTF-16, CSV, a zip archive, Parquet, a web page
…) is refused in one line, which names it and what to do. The place of a fault is a byte of the line
as it stands in the file, and bytes are counted from 1. After 100,000 bad lines an input is not
read on.
"""


def _type(field: dict[str, Any]) -> str:
    kinds = [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]
    words = []
    for kind in kinds:
        word = kind.get("type", "any")
        for least, most in (("minimum", "maximum"), ("minLength", "maxLength")):
            if least in kind and most in kind:
                word += f", {kind[least]} to {kind[most]}"
        words.append(word + (" characters" if "maxLength" in kind else ""))
    return " or ".join(words)


def _problems() -> str:
    rows = [
        (f"`{kind.type}`", str(kind.status), kind.title)
        for kind in sorted(KINDS, key=lambda kind: (kind.status, kind.slug))
    ]
    return (
        "# Problems\n\nEvery error of the API is a problem document (RFC 9457,"
        " `application/problem+json`). Programs should check `type`; `detail` is for people and may"
        " change. [What to do about each](../api.md#errors).\n\n"
        + _table(("type", "status", "title"), rows)
    )


def _log() -> str:
    rows = [
        (
            f"`{event.name}`",
            ", ".join(sorted(event.levels)),
            ", ".join(f"`{name}`" for name in sorted(event.fields)),
            ", ".join(f"`{place}`" for place in sorted(event.places)),
        )
        for event in events()
    ]
    return f"{_LOG}\n{_table(('event', 'level', 'its own fields', 'written by'), rows)}"


_LOG = """# Log events

Every process writes its log to standard error: JSON, one line for each event, or lines for people
if standard error is a terminal (`HAULIER_LOG_FORMAT`). `event` names what happened and is always
one of these words; whatever differs stands in fields of its own. Libraries (Celery, uvicorn) write
sentences as their events.

Beside its own fields, each line has `timestamp` (UTC), `level` and `logger`. A line about a row has
`job` or `batch` (their ids), `stage` and `account`; a worker's has `task_id`, too. `haulier logs
JOB` picks out what names a job or one of its batches: `split`, then for each batch `advanced`
(`to` uploaded, created, ended) and `settled`, and `assembled`. What keeps a row is `postponed`,
`lane_held`, `account_paused` or `parked`, with the `reason`.

No line holds a request, an answer or a secret.
"""


def write() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (REFERENCE / name).write_text(text)


if __name__ == "__main__":
    write()
