"""What `haulier submit` is asked for, and whether its options go together."""

from dataclasses import dataclass
from pathlib import Path

import typer

from service.cli.api import Envelope
from service.cli.submit.formats import NO_PARQUET, Format, format_of, parquet_is_there
from service.cli.submit.rows import Recipe, params_of
from service.cli.submit.template import BadTemplate, Template, column, read_template
from service.rules.deadlines import OnDeadline
from service.rules.requests import CHAT


@dataclass(frozen=True, kw_only=True)
class Table:
    """The options for CSV and Parquet. None, and no params: not given."""

    prompt_column: str | None = None
    template: str | None = None
    system: str | None = None
    id_column: str | None = None
    delimiter: str | None = None
    params: tuple[str, ...] = ()

    def named(self) -> list[str]:
        """Those that were given."""
        return given(
            {
                "--prompt-column": self.prompt_column,
                "--template": self.template,
                "--system": self.system,
                "--id-column": self.id_column,
                "--delimiter": self.delimiter,
                "--param": self.params or None,
            }
        )

    def recipe(self, model: str | None) -> Recipe:
        """Raises BadParameter."""
        if model is None:
            raise typer.BadParameter("a table names no model: give --model")
        try:
            params = params_of(self.params)
        except ValueError as error:
            raise typer.BadParameter(f"--param: {error}") from None
        return Recipe(model, self._prompt(), self.system, self.id_column, params)

    def delimiter_for(self, form: Format) -> str:
        """What separates the cells of a CSV file. Raises BadParameter."""
        if self.delimiter is None:
            return "\t" if form is Format.TSV else ","
        found = _DELIMITERS.get(self.delimiter, self.delimiter)
        if len(found) != 1 or found in _NO_DELIMITERS:
            raise typer.BadParameter(
                f"--delimiter {self.delimiter!r}: give one character, such as ';' or '\\t'"
            )
        return found

    def _prompt(self) -> Template:
        if (self.prompt_column is None) == (self.template is None):
            raise typer.BadParameter(
                "say where prompts come from: --prompt-column NAME, or --template '… {NAME} …'"
            )
        if self.prompt_column is not None:
            return column(self.prompt_column)
        try:
            return read_template(self.template or "")
        except BadTemplate as error:
            raise typer.BadParameter(f"--template: {error}") from None


_DELIMITERS = {"\\t": "\t", "tab": "\t"}
_NO_DELIMITERS = frozenset('"\r\n\0 ')
"""What has another meaning in a table, or stands in most cells."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for on the command line. None: not given."""

    file: Path | None
    spec: Path | None
    model: str | None
    form: Format | None
    table: Table
    endpoint: str | None = None
    account: str | None = None
    max_attempts: int | None = None
    priority: int | None = None
    metadata: str | None = None
    check: str | None = None
    canary: int | None = None
    canary_failures: int | None = None
    max_cost: str | None = None
    deadline: str | None = None
    on_deadline: OnDeadline | None = None
    idempotency_key: str | None = None

    def source(self) -> Path:
        """The file to read. Raises BadParameter unless there is one, of one kind."""
        if self.file is not None and self.spec is not None:
            raise typer.BadParameter("give a FILE of requests or a --spec, not both")
        source = self.file or self.spec
        if source is None:
            raise typer.BadParameter("give a FILE of requests (JSONL, CSV, Parquet), or a --spec")
        return source

    @property
    def kind(self) -> Format:
        """What the file is. Only tables have a delimiter."""
        otherwise = Format.JSONL if self.table.delimiter is None else Format.CSV
        return format_of(self.source(), self.form, otherwise=otherwise)

    @property
    def delimiter(self) -> str:
        return self.table.delimiter_for(self.kind)

    def envelope(self) -> Envelope | None:
        """What surrounds the requests; None for a spec, which has it within."""
        if self.spec is not None:
            named = given(
                {
                    "--model": self.model,
                    "--endpoint": self.endpoint,
                    "--account": self.account,
                    "--max-attempts": self.max_attempts,
                    "--priority": self.priority,
                    "--metadata": self.metadata,
                    "--check": self.check,
                    "--canary": self.canary,
                    "--canary-failures": self.canary_failures,
                    "--max-cost": self.max_cost,
                    "--deadline": self.deadline,
                    "--on-deadline": self.on_deadline,
                }
            )
            if named := [*named, *self.table.named()]:
                raise typer.BadParameter(f"{', '.join(named)}: write it into the --spec instead")
            return None
        return Envelope(
            endpoint=self.endpoint or CHAT,
            account=self.account,
            max_attempts=self.max_attempts,
            priority=self.priority,
            metadata=self.metadata,
            check=self.check,
            canary=self.canary,
            canary_failures=self.canary_failures,
            max_cost=self.max_cost,
            deadline=self.deadline,
            on_deadline=self.on_deadline,
        )

    def recipe(self) -> Recipe | None:
        """How rows become requests; None where the input is no table. Raises BadParameter."""
        if self.spec is not None:
            return None
        form = self.kind
        if form is Format.JSONL:
            if named := self.table.named():
                raise typer.BadParameter(
                    f"{', '.join(named)}: for CSV and Parquet only (--format csv says it is one)"
                )
            return None
        if form is Format.PARQUET and not parquet_is_there():
            raise typer.BadParameter(NO_PARQUET)
        if form is Format.PARQUET and self.table.delimiter is not None:
            raise typer.BadParameter("--delimiter: for CSV only")
        self.table.delimiter_for(form)
        if self.endpoint not in {None, CHAT}:
            raise typer.BadParameter(f"tables make chat requests; write JSONL for {self.endpoint}")
        return self.table.recipe(self.model)


def given(options: dict[str, object]) -> list[str]:
    """The names of options that have a value."""
    return [name for name, value in options.items() if value is not None]
