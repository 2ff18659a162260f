"""What `haulier estimate` says of a file: its requests, batches, tokens and cost."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from math import ceil
from typing import IO, Any

import msgspec
import typer

from config.settings import PriceTable, Settings, settings
from service.cli.exits import Exit
from service.cli.screen import clean, escaped, output
from service.cli.submit import tables
from service.cli.submit.asked import Asked
from service.cli.submit.blocks import request_blocks
from service.cli.submit.sources import Bar, opened
from service.cli.tables import Column
from service.payloads.blobs import packed, unpacked
from service.payloads.intake import Intake, Taken
from service.payloads.private import private_folder
from service.rules.admission import TOKENS_PER_BYTE
from service.rules.errors import BadInput, Problem
from service.rules.prices import Tokens, written
from service.rules.prices import estimate as priced
from service.rules.requests import AUDIO, CHAT, ENDPOINTS
from service.rules.work import Entry, Manifest, Shard

NO_BAR = Bar(lambda _: None, lambda _: None)
MOST_TOKENS = 10_000_000
"""A larger `max_tokens` is no bound."""


class _Body(msgspec.Struct, gc=False):
    max_tokens: Any = None
    max_completion_tokens: Any = None
    n: Any = None

    @property
    def most(self) -> int | None:
        """The tokens that its answer may have; None where the request sets no bound."""
        bounds = [
            bound
            for bound in (self.max_tokens, self.max_completion_tokens)
            if type(bound) is int and 0 <= bound <= MOST_TOKENS
        ]
        answers = self.n if type(self.n) is int and 0 < self.n < MOST_TOKENS else 1
        return min(bounds) * answers if bounds else None


class _Line(msgspec.Struct, gc=False):
    body: _Body


_line = msgspec.json.Decoder(_Line)


@dataclass
class ModelMeasure:
    """Stands in for the blob of one model's lines: keeps their measure."""

    name: str
    size: int = 0
    output_tokens: int = 0
    unbounded: int = 0
    """Requests that set no bound to their answers."""

    def write(self, data: bytes) -> None:
        self.size += len(data)
        for line in data.removesuffix(b"\n").split(b"\n"):
            most = _line.decode(line).body.most
            if most is None:
                self.unbounded += 1
            else:
                self.output_tokens += most


@dataclass
class Measure:
    """Stands in for blob storage: what is written is measured, manifests go to scratch space."""

    scratch: IO[bytes]
    models: dict[str, ModelMeasure] = field(default_factory=dict)

    @contextmanager
    def writer(self, name: str) -> Iterator[ModelMeasure]:
        yield self.models.setdefault(name, ModelMeasure(name))

    def put_manifest(self, _name: str, entries: list[Entry]) -> Manifest:
        data = packed(entries)
        start = self.scratch.seek(0, 2)
        self.scratch.write(data)
        return f"{start}:{len(data)}"

    def get_manifest(self, manifest: Manifest) -> list[Entry]:
        start, length = map(int, str(manifest).split(":"))
        self.scratch.seek(start)
        return unpacked(self.scratch.read(length))


class ModelEstimate(msgspec.Struct, kw_only=True):
    """Of one model. Tokens are None for audio, whose lines do not tell its length."""

    model: str
    requests: int
    shards: int
    bytes: int
    prompt_tokens: int | None
    completion_tokens_at_most: int | None
    """None where a request sets no `max_tokens`."""
    prompt_cost: str | None
    """USD, a decimal number; None where the price is not known."""
    cost_at_most: str | None


class FileEstimate(msgspec.Struct, kw_only=True):
    requests: int
    shards: int
    bytes: int
    models: list[ModelEstimate]
    prompt_cost: str | None
    cost_at_most: str | None
    unknown_models: list[str]
    """Those without a price."""


def show_estimate(asked: Asked, *, as_json: bool, chosen: list[str] | None = None) -> None:
    """Print the estimate of a file. Bad lines end the command as they would end a submission."""
    envelope, recipe = asked.envelope(), asked.recipe()
    endpoint = CHAT if envelope is None else envelope.endpoint
    if endpoint not in ENDPOINTS:
        raise typer.BadParameter(f"--endpoint: use {', '.join(ENDPOINTS)}")
    config = settings()
    try:
        with opened(asked.source()) as file:
            if envelope is None:
                lines, endpoint = _of_spec(file.read())
            else:
                lines, _ = request_blocks(asked, file, recipe, NO_BAR)
            found = measured(lines, endpoint, config)
    except tables.BadInput as error:
        _refuse(BadInput([Problem(str(error))]))
        raise typer.Exit(Exit.REFUSED) from None
    except BadInput as error:
        _refuse(error)
        raise typer.Exit(Exit.REFUSED) from None
    screen = output()
    if as_json:
        screen.line(escaped(msgspec.json.encode(found).decode()))
    else:
        _show(found, chosen)


class _Spec(msgspec.Struct):
    endpoint: str
    requests: list[msgspec.Raw] | None = None
    input: str | None = None


def _of_spec(spec: bytes) -> tuple[Iterator[bytes], str]:
    """The request lines of a batch spec, and its endpoint. Raises BadInput."""
    try:
        read = msgspec.json.decode(spec, type=_Spec)
    except msgspec.DecodeError as error:
        raise BadInput([Problem(f"this is no batch spec: {error}")]) from None
    if read.endpoint not in ENDPOINTS:
        raise BadInput([Problem(f"`endpoint` must be one of {', '.join(ENDPOINTS)}")])
    if read.requests is None:
        words = "the requests lie in its `input`, which only Haulier reads: estimate that file"
        raise BadInput([Problem(words)])
    # Compact, since a line of JSONL is one line.
    lines = (msgspec.json.format(bytes(raw), indent=-1) + b"\n" for raw in read.requests)
    return lines, read.endpoint


def measured(lines: Iterable[bytes], endpoint: str, config: Settings) -> FileEstimate:
    """Read request lines as Haulier would take them in. Raises BadInput."""
    if config.scratch is not None:
        private_folder(config.scratch)
    with tempfile.TemporaryFile(dir=config.scratch) as scratch:
        measure = Measure(scratch)
        with Intake(measure, "estimate", endpoint, config) as intake:
            for block in lines:
                intake.feed(block)
            taken = intake.finish()
    return _summed(taken, measure, endpoint, config.prices)


def _summed(taken: Taken, measure: Measure, endpoint: str, prices: PriceTable) -> FileEstimate:
    shards: dict[str, list[Shard]] = {}
    for shard in taken.shards:
        shards.setdefault(shard.model, []).append(shard)
    models = [
        _model(model, cut, measure.models[cut[0].input_blob], endpoint, prices)
        for model, cut in shards.items()
    ]
    return FileEstimate(
        requests=taken.total,
        shards=len(taken.shards),
        bytes=sum(model.bytes for model in models),
        models=models,
        prompt_cost=_sum(model.prompt_cost for model in models),
        cost_at_most=_sum(model.cost_at_most for model in models),
        unknown_models=sorted(name for name in shards if _cost(prices, name, 0, 0) is None),
    )


def _model(
    model: str, cut: list[Shard], lines: ModelMeasure, endpoint: str, prices: PriceTable
) -> ModelEstimate:
    prompt = None if endpoint in AUDIO else ceil(lines.size * TOKENS_PER_BYTE)
    most = None if lines.unbounded or endpoint in AUDIO else lines.output_tokens
    return ModelEstimate(
        model=model,
        requests=sum(shard.requests for shard in cut),
        shards=len(cut),
        bytes=lines.size,
        prompt_tokens=prompt,
        completion_tokens_at_most=most,
        prompt_cost=_cost(prices, model, prompt, 0),
        cost_at_most=_cost(prices, model, prompt, most),
    )


def _cost(prices: PriceTable, model: str, prompt: int | None, completion: int | None) -> str | None:
    if prompt is None or completion is None:
        return None
    today = datetime.now(UTC).date()
    return written(priced(prices, [Tokens(model, today, prompt, completion)]).usd)


def _sum(costs: Iterable[str | None]) -> str | None:
    total = Decimal(0)
    for cost in costs:
        if cost is None:
            return None
        total += Decimal(cost)
    return written(total)


def _show(found: FileEstimate, chosen: list[str] | None) -> None:
    screen = output()
    screen.fields(
        [
            ("requests", f"{found.requests:,}"),
            ("batches", f"{found.shards:,}"),
            ("bytes", f"{found.bytes:,}"),
        ]
    )
    screen.line("")
    numbers = {
        "requests": 1,
        "batches": 4,
        "bytes": 3,
        **dict.fromkeys(("tokens in, about", "tokens out, at most"), 2),
    }
    costs = ("USD in, about", "USD in all, at most")
    screen.table(
        (
            Column("model"),
            *(Column(title, number=True, rank=rank) for title, rank in numbers.items()),
            *(Column(title, number=True, rank=0) for title in costs),
        ),
        (
            (
                *(one.model, one.requests, one.shards, one.bytes, one.prompt_tokens),
                *(one.completion_tokens_at_most, one.prompt_cost, one.cost_at_most),
            )
            for one in found.models
        ),
        chosen,
    )
    for line in _notes(found):
        screen.line(line)


def _notes(found: FileEstimate) -> Iterator[str]:
    yield ""
    if any(model.prompt_tokens is None for model in found.models):
        yield "Audio costs by its length, which these lines do not tell."
        return
    yield "Tokens in are taken to be four bytes each; what fails and is run again costs anew."
    if any(model.completion_tokens_at_most is None for model in found.models):
        yield "Without max_tokens in every request there is no bound to what comes out."
    if found.unknown_models:
        yield f"No price in HAULIER_PRICES for: {', '.join(map(clean, found.unknown_models))}"


def _refuse(error: BadInput) -> None:
    typer.echo("haulier: these lines would be refused", err=True)
    for problem in error.problems:
        typer.echo(f"  {clean(str(problem))}", err=True)
    if error.more:
        typer.echo(f"  and {error.more:,} more", err=True)
