"""Prompts made from a row's cells: text with columns' names in braces."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

_BRACES = "write {{ and }} for braces themselves"


class BadTemplate(ValueError):
    """What is wrong with a template."""


@dataclass(frozen=True)
class Template:
    """Literal text, each piece with the name of the column that follows it (None: no more).

    Names are looked up and nothing else: whatever stands in braces, nothing is evaluated.
    """

    pieces: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.pieces if name is not None)

    def filled(self, cells: Mapping[str, str]) -> str:
        return "".join(
            text if name is None else f"{text}{cells[name]}" for text, name in self.pieces
        )


def column(name: str) -> Template:
    """A prompt that is one cell as it is."""
    return Template((("", name),))


def read_template(text: str) -> Template:
    """`Translate to French: {text}`; a brace itself is written twice. Raises BadTemplate."""
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise BadTemplate(f"{error}; {_BRACES}") from None
    for _, name, spec, conversion in parsed:
        if name == "":
            raise BadTemplate(f"{{}} names no column; write {{column}}; {_BRACES}")
        if spec or conversion:
            raise BadTemplate(f"{{{name}…}}: only a column's name may stand in braces; {_BRACES}")
    template = Template(tuple((literal, name) for literal, name, _, _ in parsed))
    if not template.columns:
        raise BadTemplate("names no column, so that all prompts would be the same; write {column}")
    return template
