"""What the simulator is told to do: its switches, and what shall go wrong.

A scenario is plain frozen data, read once at the border from JSON (a file or the control
endpoint) and refused with the place and the reason where it is wrong. docs/simulator.md shows it.
"""

import re
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import msgspec

from service.simulator.outages import Outage

Operation = Literal[
    "create_file",
    "put",
    "preprocess",
    "upload",
    "create",
    "retrieve",
    "list",
    "cancel",
    "content",
    "object",
    "file",
    "files",
    "delete",
    "whoami",
]


class ScenarioError(Exception):
    """A scenario cannot be used. Says where in it, and why."""


class Switches(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One position for each thing about Together that nobody knows for sure. Times in seconds."""

    batch_seconds: float | None = None
    """Execution time of a batch; None: as started."""
    canceling_seconds: float = 0.05
    list_lag_seconds: float = 0.0
    """For how long a new batch is missing from the list."""
    list_order: Literal["shuffled", "newest", "oldest"] = "shuffled"
    job_null_on_create: bool = False
    create_warning: str | None = None
    refuse_unknown_file: bool = False
    """Answer 400 to a create with an unknown file, instead of a batch that fails later."""
    refused_models: tuple[str, ...] = ()
    """Models that cannot be batched: the batch fails if its first line asks for one, else the
    line does."""
    terminal_reads_without_files: int = 0
    """So many reads of an ended batch show no file ids yet."""
    progress_early: bool = False
    """Progress is 100 from the start of the execution on."""
    status_names: dict[str, str] = {}
    """Other names for statuses, such as {"CANCELLED": "CANCELED"}."""
    lower_case_statuses: bool = False
    range: Literal["honoured", "ignored"] = "honoured"
    content_length: bool = True
    content_redirect: Literal["none", "path", "host"] = "none"
    """Content is answered with a redirect to the object store, here or under another host."""
    upload_redirects: int = 0
    """So many redirects before the object store takes a PUT."""
    upload_redirect_status: Literal[301, 302, 303, 307, 308] = 307
    checksum_conflict: bool = True
    """Answer 409 to a checksum that is there already."""
    processing_status: str | None = "COMPLETED"
    """Of a stored file; None leaves the field out."""
    rate_limit_header: Literal["x-ratelimit-reset", "retry-after", "both", "none"] = (
        "x-ratelimit-reset"
    )
    requests_per_second: float | None = None
    """Per account; above it: 429."""
    refuse_default_agents: bool = False
    """Answer 403 with HTML to user agents that HTTP libraries send by default."""
    line_ids: bool = True
    """Whether output and error lines carry an `id`."""
    trailing_newline: bool = True
    """Whether the last line of an output or error file ends with one."""
    odd_types: bool = False
    """Numbers as text or the other way round, sizes that are null, alien entries in a list."""
    chunk_lines: int = 1000
    """Line numbers in validation messages count from 1 within chunks of so many lines."""
    max_requests: int = 50_000
    max_file_bytes: int = 100_000_000
    max_line_bytes: int = 10_000_000


class Fault(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="fault"
):
    """What all faults of API calls share: which call they befall."""

    operation: Operation | Literal["*"]
    times: int | None = 1
    """How often; None: for ever."""
    after: int = 0
    """So many calls of this kind pass first."""
    probability: float = 1.0
    seed: int = 0
    key: str | None = None
    """Only calls with this API key."""
    target: str | None = None
    """Only calls whose file id, file name or batch id this regular expression finds; of creates,
    also the model of the file's first line."""

    def __post_init__(self) -> None:
        """Refuse what could never fire."""
        _compiles("target", self.target)
        if not 0 < self.probability <= 1:
            raise ValueError("probability must be above 0 and at most 1")


class Lost(Fault, tag="lost", frozen=True, kw_only=True):
    """The connection is dropped without an answer; nothing was done, or all of it."""

    after_commit: bool = False


class Status(Fault, tag="status", frozen=True, kw_only=True):
    """An error answer, before or after the work was done."""

    status: int
    body: Literal["string", "object", "html", "empty"] = "string"
    message: str = "simulated error"
    headers: dict[str, str] = {}
    reset_seconds: float = 1.0
    """For the header of a 429, named by the switch `rate_limit_header`."""
    after_commit: bool = False


class Slow(Fault, tag="slow", frozen=True, kw_only=True):
    """The answer comes late, or bodies trickle (the request's for uploads, else the answer's)."""

    seconds: float = 0.0
    bytes_per_second: float | None = None
    after_commit: bool = True


class Cut(Fault, tag="cut", frozen=True, kw_only=True):
    """The body ends early: a file while it is uploaded, else the answer."""

    bytes: int | None = None
    fraction: float | None = None
    clean: bool = False
    """No connection is dropped: the body just ends, as if it were whole."""

    def __post_init__(self) -> None:
        """One measure, not both."""
        super().__post_init__()
        if (self.bytes is None) == (self.fraction is None):
            raise ValueError("cut needs either bytes or fraction")


class Hold(Fault, tag="hold", frozen=True, kw_only=True):
    """The call waits, before or after its work is done, until it is released."""

    after_commit: bool = False


AnyFault = Lost | Status | Slow | Cut | Hold

LineEffect = Literal[
    "error",
    "missing",
    "duplicate",
    "broken",
    "truncated",
    "stranger",
    "error_in_output",
    "bad_status",
    "both_files",
    "empty_length",
    "tool_call",
    "no_choices",
    "poison",
]


class LineRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What becomes of input lines that match all the given criteria (none given: every line)."""

    effect: LineEffect
    custom_id: str | None = None
    pattern: str | None = None
    """A regular expression for the whole custom_id."""
    contains: str | None = None
    """Text that occurs anywhere in the input line."""
    share: float | None = None
    """This share of custom_ids, the same ones every time for one seed."""
    seed: int = 0
    times: int | None = None
    """Only the first so many executions of a custom_id in its account; None: all."""
    code: str = "batch_client_error"
    message: str = "Internal Server Error"
    """In the error; for `poison` the batch's error, `{line}` in it becomes a line number."""
    status: int = 500
    """For `bad_status`."""

    def __post_init__(self) -> None:
        """Refuse what could never match."""
        _compiles("pattern", self.pattern)
        if self.share is not None and not 0 <= self.share <= 1:
            raise ValueError("share must lie between 0 and 1")
        if self.effect == "poison" and self.times is not None:
            raise ValueError("a poisoned line is never executed, so times cannot be counted")

    def matches(self, custom_id: str, line: bytes) -> bool:
        """Whether this input line is meant, its history aside."""
        return (
            (self.custom_id is None or self.custom_id == custom_id)
            and (self.pattern is None or re.fullmatch(self.pattern, custom_id) is not None)
            and (self.contains is None or self.contains.encode() in line)
            and (self.share is None or _lot(custom_id, self.seed) < self.share)
        )


class BatchRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How batches go that match all the given criteria (none given: every batch)."""

    nth: int | None = None
    """The so-manieth batch created, from 1, over all accounts."""
    file_name: str | None = None
    """A regular expression found in the input file's name."""
    key: str | None = None
    times: int | None = None
    """Only the first so many batches that match; None: all."""
    outcome: Literal["complete", "expire", "cancel", "fail"] = "complete"
    share: float = 0.5
    """Of the lines, done before the batch expires, is cancelled or hangs."""
    message: str = "Internal error"
    """The batch's `error` if it fails."""
    seconds: float | None = None
    """Execution time of this batch."""
    hang: bool = False
    """Stay in progress for good."""
    hang_seconds: float = 0.0
    """Stay in progress for so long on top of the execution."""
    shows: str | None = None
    """A status shown instead of the true one, for `shows_seconds` from the start of execution."""
    shows_seconds: float = 0.0
    progress: float | None = None
    """Progress shown as long as the batch is unfinished."""

    def __post_init__(self) -> None:
        """Refuse what could never match."""
        _compiles("file_name", self.file_name)
        if not 0 <= self.share <= 1:
            raise ValueError("share must lie between 0 and 1")


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All there is to tell the simulator."""

    switches: Switches = Switches()
    keys: dict[str, Literal[401, 402, 403]] = {}
    """API keys that are refused: bad (401), out of credit (402), forbidden (403)."""
    faults: tuple[AnyFault, ...] = ()
    lines: tuple[LineRule, ...] = ()
    batches: tuple[BatchRule, ...] = ()
    outages: tuple[Outage, ...] = ()


def parse(content: bytes, *, source: str) -> Scenario:
    """Read a scenario from JSON. `source` names it in the ScenarioError raised if it is wrong."""
    try:
        return msgspec.json.decode(content, type=Scenario)
    except msgspec.DecodeError as error:
        raise ScenarioError(f"{source}: {error}") from error


def load(path: Path) -> Scenario:
    """Read a scenario file. Raises ScenarioError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror}") from error
    return parse(content, source=str(path))


def _compiles(field: str, pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{field} is no regular expression: {error}") from error


def _lot(custom_id: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = blake2b(f"{seed}:{custom_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
