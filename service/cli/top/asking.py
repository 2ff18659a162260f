"""Asking for the overview again and again, beside what is drawn: an answer may take its time."""

from threading import Event, Thread
from typing import Self

from haulier_client import HaulierError

from service.cli.api import Api, is_away
from service.cli.session import message_of
from service.cli.top.documents import Overview


class Asking:
    """The newest overview, from a thread of its own."""

    def __init__(self, api: Api, first: Overview, every: float) -> None:
        self.seen = first
        self.away: str | None = None
        """Why the API gives no answer now."""
        self.refused: HaulierError | None = None
        """Set once the API refuses to answer: there is nothing to wait for."""
        self._api = api
        self._every = every
        self._ended = Event()
        self._thread = Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not waited for: a call that hangs would keep the terminal.
        self._ended.set()

    def _ask(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self.seen = self._api.overview().value
                self.away = None
            except HaulierError as error:
                if not is_away(error):
                    self.refused = error
                    return
                self.away = message_of(error, self._api.place)
