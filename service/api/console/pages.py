"""What a page is: its address, its template, what it reads, and who may open it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from service.api.console.looking import Look, Read
from service.api.console.visitor import Power, Visitor


@dataclass(frozen=True, kw_only=True)
class Verb:
    """Something that can be done on a page, by a form that posts to `path`.

    `do` gets the look with the form's fields, and returns what was done, in words. It raises
    HttpProblem or BadInput where that is not possible.
    """

    path: str
    needs: Power
    do: Callable[[Look, Mapping[str, str]], str]
    operators_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page. Its template shows what `read` returns, and is drawn anew when that changes."""

    path: str
    title: str
    template: str
    read: Read
    menu: str | None = None
    """Its name in the menu; None for a page that is reached from others."""
    needs: Power = Power.READ
    operators_only: bool = False
    """Whether producers may not open it."""
    is_live: bool = True
    is_whole: bool = True
    """False for a piece that a page asks for."""
    verbs: tuple[Verb, ...] = field(default=())

    def is_open_to(self, visitor: Visitor) -> bool:
        return self.needs in visitor.powers and (visitor.sees_all or not self.operators_only)
