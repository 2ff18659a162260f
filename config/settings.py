"""Every setting of Haulier, read once from the environment and never changed after."""

import json
import re
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError


class SettingsError(Exception):
    """The environment is not usable. Each line names a variable and says what is wrong with it."""


def _base_url(value: object) -> object:
    """The host as Together's SDK takes it; a trailing `/v1` is tolerated."""
    if not isinstance(value, str):
        return value
    url = value.rstrip("/").removesuffix("/v1").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return url


def _url_of(*schemes: str) -> BeforeValidator:
    def check(value: object) -> object:
        if isinstance(value, str) and not value.startswith(schemes):
            raise ValueError(f"must start with {' or '.join(schemes)}")
        return value

    return BeforeValidator(check)


def _seconds(value: object) -> object:
    """Durations are plain seconds in the environment, timedeltas in the code."""
    if isinstance(value, str):
        try:
            return timedelta(seconds=float(value))
        except (ValueError, OverflowError):
            raise ValueError(f"must be a number of seconds, not {value!r}") from None
    return value


BaseUrl = Annotated[str, BeforeValidator(_base_url)]
Seconds = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0))]

TOGETHER = "https://api.together.ai"


class Account(BaseModel):
    """A named Together API key and base URL."""

    model_config = {"frozen": True, "extra": "forbid"}

    api_key: SecretStr
    base_url: BaseUrl = TOGETHER


def _day(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        raise ValueError(f"must be a day like 2026-01-31, not {value!r}")
    return value


def _money(value: object) -> object:
    """As it is written: a float would be another number."""
    if isinstance(value, int | str | Decimal) and not isinstance(value, bool):
        return value
    raise ValueError("must be a decimal number")


Usd = Annotated[Decimal, BeforeValidator(_money), Field(ge=0, le=1_000_000)]


class Price(BaseModel):
    """What a model costs from a day (UTC) on, in USD for a million tokens at full price."""

    model_config = {"frozen": True, "extra": "forbid"}

    since: Annotated[date, BeforeValidator(_day)] = Field(validation_alias="from")
    input: Usd
    output: Usd
    batch_discount: Annotated[Decimal, BeforeValidator(_money), Field(ge=0, le=1)] = Decimal("0.5")
    """The share that a batch takes off."""


def _exact_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_float=Decimal)
    except (ValueError, RecursionError):
        raise ValueError("is not valid JSON") from None


def _by_day(prices: tuple[Price, ...]) -> tuple[Price, ...]:
    if not prices:
        raise ValueError("needs at least one price")
    ordered = tuple(sorted(prices, key=lambda price: price.since))
    if len({price.since for price in ordered}) < len(ordered):
        raise ValueError("has two prices from the same day")
    return ordered


PriceTable = dict[str, Annotated[tuple[Price, ...], AfterValidator(_by_day)]]


class Settings(BaseSettings):
    """The settings, by the names that the environment gives them (`HAULIER_` + upper case)."""

    model_config = SettingsConfigDict(
        # Empty is unset: that is how compose files pass on what nobody has set.
        env_prefix="HAULIER_",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        use_attribute_docstrings=True,  # docs/reference/settings.md is made of them
    )

    database_url: Annotated[str | None, _url_of("postgresql://", "postgres://")] = Field(
        default=None, validation_alias="DATABASE_URL"
    )
    """Postgres, which holds the truth: `postgresql://…`."""
    redis_url: Annotated[str | None, _url_of("redis://", "rediss://")] = Field(
        default=None, validation_alias="REDIS_URL"
    )
    """The broker: `redis://…` or `rediss://…`. The API does not need it."""
    together_api_key: SecretStr | None = Field(default=None, validation_alias="TOGETHER_API_KEY")
    """The key of the account `default`."""
    together_base_url: BaseUrl = Field(default=TOGETHER, validation_alias="TOGETHER_BASE_URL")
    """The host of the account `default`."""

    accounts: dict[str, Account] = {}
    """More accounts by name, as JSON: `{"research": {"api_key": "…"}}`."""
    admin_token: SecretStr | None = None
    """A bearer token of the API that may do everything; the API does not start without."""
    url: BaseUrl | None = None
    """Where the command line finds the API."""
    token: SecretStr | None = None
    """What the command line shows it."""
    home: Path = Path(".haulier")
    """Where `haulier up` keeps its data, and where blobs go unless `blob_url` is set."""
    blob_url: Annotated[str | None, _url_of("file:///", "s3://")] = None
    """Where payloads lie: `file:///…`, shared by all processes, or `s3://bucket/prefix`."""
    scratch: Path | None = None
    """Local space for what is on its way (downloads, hashes of large inputs); the system's by
    default."""
    input_roots: tuple[str, ...] = ()
    """What `input` of a batch spec may point to: URL prefixes, as a JSON list."""

    queue_signed: bool = False
    """Whether submissions from the queue must be signed by the producer that they name."""

    permanent_errors: tuple[str, ...] = ()
    """Texts that mark a failed line as beyond hope, before the built-in table; a JSON list."""
    retryable_errors: tuple[str, ...] = ()
    """Texts that mark a failed line as worth another attempt, likewise."""

    poll_seconds: Seconds = timedelta(seconds=30)
    """The shortest time between two looks at a batch."""
    tick_seconds: Seconds = timedelta(seconds=1)
    """How often the scheduler looks for what is due."""
    lease_seconds: Seconds = timedelta(seconds=120)
    """For how long work belongs to a worker that says nothing; then another takes it."""
    create_grace_seconds: Seconds = timedelta(seconds=60)
    """How long a create without an answer is looked for before it is tried again."""
    retry_base_seconds: Seconds = timedelta(seconds=10)
    """The first pause before something is tried again; it doubles, up to 5 minutes."""
    probe_seconds: Seconds = timedelta(seconds=30)
    """How often a paused account is tried."""
    slowest_poll_seconds: Seconds | None = None
    """The longest time between two looks at a batch; ten times `poll_seconds` by default."""
    stage_tries: int = Field(default=25, ge=1)
    """How many workers may die over one stage."""
    max_inflight_batches: int | None = Field(default=None, ge=1)
    """How many batches an account may have at Together at once, for each model."""
    max_enqueued_tokens: int = Field(default=30_000_000_000, ge=1)
    """The tokens of all batches of a model that an account may have at Together at once
    (Together documents 30 billion for each model)."""
    control_requests_per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Calls of an account's control API, over all workers; uploads' bytes and downloads not
    counted."""
    prices: Annotated[PriceTable, NoDecode, BeforeValidator(_exact_json)] = {}
    """What models cost, by name and day, as JSON; unknown ones have no estimate."""
    retention_days: float | None = Field(default=None, gt=0, le=36_500)
    """How long finished jobs are kept, with their results; for ever by default."""
    webhook_allow_private: bool = False
    """Whether webhooks may go to private addresses, and without TLS."""
    notice_retry_seconds: Seconds = timedelta(days=1)
    """How long a notice that cannot be delivered is tried again before it is parked."""
    shard_requests: int = Field(default=50_000, ge=1, le=50_000)
    """The most requests of a provider batch."""
    shard_bytes: int = Field(default=100_000_000, ge=1, le=100_000_000)
    """The most bytes of a provider batch."""
    concurrency: int = Field(default=2, ge=1)
    """Processes of a worker for transfers; control calls get two of their own."""
    heartbeat_file: Path | None = None
    """Touched by a worker, scheduler or inbox as long as it does its work; for health checks."""
    log_format: Annotated[str, Field(pattern="^(auto|json|console)$")] = "auto"
    """`json`, `console`, or `auto`: readable on a terminal, JSON elsewhere."""
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    """`DEBUG`, `INFO`, `WARNING` or `ERROR`."""

    def account(self, name: str) -> Account | None:
        """The key and address behind a name, or None where it is not configured."""
        if name in self.accounts:
            return self.accounts[name]
        if name == "default" and self.together_api_key is not None:
            return Account(api_key=self.together_api_key, base_url=self.together_base_url)
        return None

    @property
    def account_names(self) -> frozenset[str]:
        return frozenset({"default", *self.accounts})

    @property
    def blobs(self) -> str:
        """URL of the blob storage."""
        return self.blob_url or f"file://{self.home.resolve()}/blobs"

    def required(self, *names: str) -> None:
        """Raise SettingsError unless these settings (by field name) have a value."""
        missing = [
            f"{_variable(name)}: is not set" for name in names if getattr(self, name) is None
        ]
        if missing:
            raise SettingsError("\n".join(missing))


def _variable(field: str) -> str:
    alias = (
        Settings.model_fields[field].validation_alias if field in Settings.model_fields else None
    )
    return alias if isinstance(alias, str) else f"HAULIER_{field.upper()}"


def _line(error: Any) -> str:
    name, *rest = (str(part) for part in error["loc"])
    # pydantic reports a field by its alias where it has one.
    variable = name if name.isupper() else _variable(name)
    where = f" at {'.'.join(rest)}" if rest else ""
    return f"{variable}{where}: {error['msg'].removeprefix('Value error, ')}"


def read_settings() -> Settings:
    """Read the environment. Raises SettingsError with one line for each bad variable."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [_line(e) for e in error.errors(include_input=False, include_url=False)]
        raise SettingsError("\n".join(lines)) from None
    except SourceError as error:
        found = re.search(r'field "(\w+)"', str(error))
        name = _variable(found[1]) if found else "the environment"
        raise SettingsError(f"{name}: is not valid JSON") from None


@cache
def settings() -> Settings:
    """The settings of this process, read at the first call."""
    return read_settings()
