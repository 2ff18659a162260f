"""Every setting of Haulier. A process reads them from the environment once, at its start."""

import json
import os
import re
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

from config.redis_url import SCHEMES
from config.secret_files import read_secret, secrets_in_files
from config.values import (
    AdminToken,
    BaseUrl,
    HeaderName,
    Name,
    Networks,
    PublicUrl,
    Role,
    Seconds,
    SecondsOrNone,
    Secret,
    of_postgres,
    of_redis,
    url_of,
    without_keys,
)


class SettingsError(Exception):
    """The environment has bad settings. Each line names a variable and what is wrong with it."""


TOGETHER = "https://api.together.ai"


class Account(BaseModel):
    """A named Together API key and base URL.

    A key of null is for processes that need the name alone, as the API does.
    """

    model_config = {"frozen": True, "extra": "forbid"}

    api_key: Secret | None
    base_url: BaseUrl = TOGETHER

    @property
    def key(self) -> str:
        """The API key. `Settings.account` returns only accounts that have one."""
        assert self.api_key is not None
        return self.api_key.get_secret_value()

    @model_validator(mode="before")
    @classmethod
    def _read_file(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "api_key_file" not in given:
            return given
        if "api_key" in given:
            raise ValueError("has `api_key` and `api_key_file`; give one of them")
        try:
            key = read_secret(str(given["api_key_file"]))
        except ValueError as error:
            raise ValueError(f"api_key_file: {error}") from None
        return {**{k: v for k, v in given.items() if k != "api_key_file"}, "api_key": key}


def _day(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        raise ValueError(f"must be a date like 2026-01-31, not {value!r}")
    return value


def _money(value: object) -> object:
    """Refuse floats: they would not be exactly the number that was written."""
    if isinstance(value, int | str | Decimal) and not isinstance(value, bool):
        return value
    raise ValueError("must be a decimal number")


Usd = Annotated[Decimal, BeforeValidator(_money), Field(ge=0, le=1_000_000)]


class Price(BaseModel):
    """A model's price from a date (UTC) on: USD per million tokens, before the batch discount."""

    model_config = {"frozen": True, "extra": "forbid"}

    since: Annotated[date, BeforeValidator(_day)] = Field(validation_alias="from")
    input: Usd
    output: Usd
    batch_discount: Annotated[Decimal, BeforeValidator(_money), Field(ge=0, le=1)] = Decimal("0.5")
    """The share of the price that batches save."""


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
        raise ValueError("has two prices from the same date")
    return ordered


PriceTable = dict[str, Annotated[tuple[Price, ...], AfterValidator(_by_day)]]


class Settings(BaseSettings):
    """All settings. A field's variable is `HAULIER_` and its name in upper case, or its alias."""

    model_config = SettingsConfigDict(
        # Compose files pass on an unset variable as an empty one.
        env_prefix="HAULIER_",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        use_attribute_docstrings=True,  # docs/reference/settings.md is made from them
    )

    database_url: Annotated[
        str | None, url_of("postgresql://", "postgres://"), AfterValidator(of_postgres)
    ] = Field(default=None, validation_alias="DATABASE_URL")
    """The URL of Postgres: `postgresql://…`, with one or several hosts, or that of a PgBouncer. It
    holds the state of every job."""
    redis_url: Annotated[str | None, url_of(*SCHEMES), AfterValidator(of_redis)] = Field(
        default=None, validation_alias="REDIS_URL"
    )
    """The URL of the broker, Redis or Valkey: `redis://…`, `rediss://…` with TLS, or
    `sentinel://…?master_name=…` for a primary that Sentinels name. The API does not need it."""
    together_api_key: Secret | None = Field(default=None, validation_alias="TOGETHER_API_KEY")
    """The API key of the account `default`."""
    together_base_url: BaseUrl = Field(default=TOGETHER, validation_alias="TOGETHER_BASE_URL")
    """The host that the account `default` calls."""

    accounts: Annotated[dict[Name, Account], NoDecode, BeforeValidator(_exact_json)] = {}
    """More accounts by name, as JSON: `{"research": {"api_key": "…"}}`. `api_key_file` names a file
    with the key instead. With `"api_key": null`, a process knows the name and has no key."""
    admin_token: AdminToken = None
    """A bearer token of at least 20 characters that may use the whole API. The API does not start
    without it."""
    url: BaseUrl | None = None
    """The URL of the API, for the command line."""
    token: Secret | None = None
    """The bearer token that the command line sends to the API."""
    public_url: PublicUrl | None = None
    """The URL at which clients reach the API, perhaps with a path: `https://haulier.example`.
    Default: the URL of each call, as the API or a trusted proxy sees it."""
    trusted_proxies: Networks = ()
    """The proxies whose `X-Forwarded-For`, `-Proto` and `-Host` the API believes: addresses and
    networks, with commas. None by default."""
    max_connections: int = Field(default=500, ge=1)
    """The most connections that the API holds open."""
    max_connections_per_address: int = Field(default=250, ge=1)
    """The most of them from one address (in IPv6: from one network of 64 bits). Trusted proxies may
    have more."""
    max_calls: int = Field(default=6000, ge=1)
    """The most calls that wait for their answers at one process of the API. Their connections do
    not count among `HAULIER_MAX_CONNECTIONS`."""
    max_calls_per_producer: int = Field(default=5000, ge=1)
    """The most of them from one producer, unless its `held_calls` says otherwise."""
    keep_alive_seconds: Seconds = timedelta(seconds=15)
    """How long the API keeps a connection for the next request. Behind a proxy, longer than the
    proxy keeps idle connections to the API."""
    failed_logins_per_minute: int = Field(default=60, ge=1)
    """How many wrong tokens from one address the API answers with 401 in a minute. It answers more
    of them with 429. Valid tokens are not affected."""
    console: bool = True
    """Whether the API serves the console at `/console`."""
    console_session_hours: float = Field(default=12, gt=0, le=8760)
    """How many hours a login to the console lasts."""
    console_user_header: HeaderName = None
    """The header in which a proxy that logs people in names them, as `X-Forwarded-User`. It is
    believed only if `HAULIER_TRUSTED_PROXIES` sends it, and the proxy must remove it from what
    clients send. Off by default."""
    console_roles: Annotated[dict[str, Role], NoDecode, BeforeValidator(_exact_json)] = {}
    """The roles of people whom `HAULIER_CONSOLE_USER_HEADER` names, as JSON:
    `{"ann@example.com": "admin", "*": "viewer"}`. `*` is everybody else; without it, nobody else
    gets in. The roles are `viewer`, `operator` and `admin`."""
    home: Path = Path(".haulier")
    """The directory for the data of `haulier up`, and for blobs unless `HAULIER_BLOB_URL` is
    set."""
    blob_url: Annotated[str | None, url_of("file:///", "s3://"), AfterValidator(without_keys)] = (
        None
    )
    """The storage for requests and results: `s3://bucket/prefix`, or a directory that all processes
    share, `file:///…`."""
    scratch: Path | None = None
    """A local directory for temporary files (downloads, hashes of large inputs). Default: the
    system's temporary directory."""
    unpacked_bytes: int = Field(default=10_000_000_000, ge=1)
    """The most bytes that gzipped request lines may unpack to: an uploaded file, a body, or what
    `input` names. A producer's `body_bytes` bounds what it sends, too. A batch whose answer file
    unpacks to more is parked."""
    input_roots: tuple[str, ...] = ()
    """The URL prefixes that the `input` of a batch spec may start with, as a JSON list."""

    queue_signed: bool = False
    """Whether a submission from the queue must be signed by the producer that it names."""
    queue_default_producer: Name = "default"
    """The producer of submissions from the queue that name none. Set to nothing, the inbox refuses
    them. Unless it is `default`, a submission in the name of `default` must be signed."""

    permanent_errors: tuple[str, ...] = ()
    """Error messages that mark a request as permanently failed, as a JSON list. They come before
    the built-in table."""
    retryable_errors: tuple[str, ...] = ()
    """Error messages that mark a request as worth another attempt, as a JSON list. They come before
    the built-in table."""

    poll_seconds: Seconds = timedelta(seconds=30)
    """The shortest time between two polls of a batch."""
    tick_seconds: Seconds = timedelta(seconds=1)
    """How often the scheduler looks for jobs and batches that are due."""
    lease_seconds: Seconds = timedelta(seconds=120)
    """How long a worker holds a job or batch without a sign of life. Then another worker may take
    it."""
    create_grace_seconds: Seconds = timedelta(seconds=60)
    """How long Haulier searches for the batch of a create that got no answer, before it creates the
    batch again."""
    settle_patience_seconds: Seconds = timedelta(hours=1)
    """How long Haulier looks again at a batch that Together completed without lines for all of its
    requests. Then it retries the requests that are missing."""
    retry_base_seconds: Seconds = timedelta(seconds=10)
    """The first pause before a retry. Pauses double, up to 5 minutes."""
    probe_seconds: Seconds = timedelta(seconds=30)
    """How often Haulier tries a paused account again."""
    slowest_poll_seconds: Seconds | None = None
    """The longest time between two polls of a batch. Default: ten times
    `HAULIER_POLL_SECONDS`."""
    stage_tries: int = Field(default=25, ge=1)
    """How many workers may die during one stage of a job or batch. Then Haulier fails or parks
    it."""
    max_inflight_batches: int | None = Field(default=None, ge=1)
    """The most batches of one model that an account may have at Together at once. No limit by
    default."""
    max_enqueued_tokens: int = Field(default=30_000_000_000, ge=1)
    """The most tokens, over all batches of one model, that an account may have at Together at once.
    Together documents 30 billion."""
    control_requests_per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The most calls per second that all workers together make to Together's API for one account.
    The bytes of uploads and downloads do not count. No limit by default."""
    prices: Annotated[PriceTable, NoDecode, BeforeValidator(_exact_json)] = {}
    """The prices of models by name and date, as JSON; `*` stands for every model that is not named.
    Other models have no cost estimate."""
    retention_days: float | None = Field(default=None, gt=0, le=36_500)
    """How many days Haulier keeps finished jobs and their results. Default: for ever."""
    call_days: float = Field(default=1, gt=0, le=36_500)
    """How many days Haulier keeps calls that are answered, and their results. Other jobs stay for
    `HAULIER_RETENTION_DAYS`."""
    file_days: float = Field(default=30, gt=0, le=36_500)
    """How many days Haulier keeps a file that was uploaded with Together's SDK, from when it was
    uploaded last. A file that a job still has to read stays longer."""
    webhook_allow_private: bool | Literal["loopback"] = False
    """Whether webhooks of all producers may go to any private address, and over plain HTTP;
    `loopback` allows this machine alone, as `haulier up --simulate` does. A producer's
    `private_webhooks` allows some to that producer alone."""
    notice_retry_seconds: Seconds = timedelta(days=1)
    """How long Haulier retries a notice that it cannot deliver. Then it parks the notice."""
    shard_requests: int = Field(default=10_000, ge=1, le=50_000)
    """The most requests in a provider batch."""
    shard_bytes: int = Field(default=100_000_000, ge=1, le=100_000_000)
    """The most bytes in a provider batch."""
    pack_seconds: SecondsOrNone = timedelta(seconds=5)
    """How long small jobs wait for others to fill a batch with, if their producer has sent a batch
    of the same model as recently."""
    rest_seconds: Seconds = timedelta(seconds=60)
    """How long a lane rests at first when requests of several jobs fail alike with trouble at
    Together. Rests double, up to an hour."""
    outage_hours: float = Field(default=72, gt=0, le=8760)
    """For how many hours the trouble of a lane costs a request no attempt. Then attempts count."""
    retry_pack_seconds: SecondsOrNone = timedelta(seconds=60)
    """How long requests that go again wait for others of their job, while it has open batches."""
    concurrency: int = Field(default=2, ge=1)
    """The number of processes for transfers. `haulier worker` adds two for control calls."""
    heartbeat_file: Path | None = None
    """A file that a worker, scheduler, inbox or notifier touches every few seconds while it works.
    Health checks look at its age."""
    log_format: Annotated[str, Field(pattern="^(auto|json|console)$")] = "auto"
    """The format of log lines: `json`, `console`, or `auto` (`console` on a terminal, else
    `json`)."""
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    """The least level of log lines: `DEBUG`, `INFO`, `WARNING` or `ERROR`."""

    def account(self, name: str) -> Account | None:
        """Return the key and base URL of an account, or None if it is not configured."""
        if name in self.accounts:
            account = self.accounts[name]
            return account if account.api_key is not None else None
        if name == "default" and self.together_api_key is not None:
            return Account(api_key=self.together_api_key, base_url=self.together_base_url)
        return None

    @property
    def account_names(self) -> frozenset[str]:
        return frozenset({"default", *self.accounts})

    @property
    def blobs(self) -> str:
        """Return the URL of the blob storage."""
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


def _keyword(variable: str) -> str:
    """Return what Settings(…) calls a variable."""
    return variable.removeprefix("HAULIER_").lower() if "HAULIER_" in variable else variable


def _line(error: Any) -> str:
    name, *rest = (str(part) for part in error["loc"])
    # pydantic reports a field by its alias where it has one.
    variable = name if name.isupper() else _variable(name)
    where = f" at {'.'.join(rest)}" if rest else ""
    return f"{variable}{where}: {error['msg'].removeprefix('Value error, ')}"


def read_settings() -> Settings:
    """Return the settings in the environment.

    Raises SettingsError with one line for each bad variable.
    """
    in_files, problems = secrets_in_files(os.environ)
    if problems:
        raise SettingsError("\n".join(problems))
    given: dict[str, Any] = {_keyword(name): value for name, value in in_files.items()}
    if os.environ.get("HAULIER_QUEUE_DEFAULT_PRODUCER") == "":
        given["queue_default_producer"] = ""  # the one variable that means something when empty
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [_line(e) for e in error.errors(include_input=False, include_url=False)]
        raise SettingsError("\n".join(lines)) from None
    except SourceError as error:
        found = re.search(r'field "(\w+)"', str(error))
        name = _variable(found[1]) if found else "the environment"
        raise SettingsError(f"{name}: is not valid JSON") from None


@cache
def settings() -> Settings:
    """Return this process's settings. The first call reads them."""
    return read_settings()
