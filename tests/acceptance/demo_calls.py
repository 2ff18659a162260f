"""The demo of calls: one script with Together's own SDK makes many ordinary calls at once."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import httpx
from together import AsyncTogether, DefaultAsyncHttpxClient

from service.cli.api import Api
from service.cli.place import Place
from service.cli.screen import Screen
from service.simulator.books import Books
from tests.acceptance.demo_instance import Instance

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
DISCOUNT = Decimal("0.5")
PRICES = (
    f'{{"{MODEL}": [{{"from": "2026-01-01", "input": "0.88", "output": "0.88",'
    f' "batch_discount": "{DISCOUNT}"}}]}}'
)
"""An example of `HAULIER_PRICES`: USD for a million tokens."""


@dataclass(frozen=True)
class Calls:
    """What became of them. `wrong` are those that were not answered as they should be."""

    calls: int
    wrong: int
    books: Books
    cost: Decimal
    """USD, as Haulier estimates it."""
    took: float
    """Seconds."""

    def problems(self) -> Iterator[str]:
        """What is wrong, in words."""
        totals = self.books.totals
        if self.wrong:
            yield f"{self.wrong} calls have other answers than they should"
        if totals.duplicate_successes:
            yield f"{totals.duplicate_successes} calls were bought twice"
        if totals.lines_billed != self.calls:
            yield f"{totals.lines_billed} calls were bought, {self.calls} made"

    def summarize(self, screen: Screen) -> None:
        totals = self.books.totals
        failed = totals.lines_executed - totals.lines_billed
        screen.line("")
        screen.fields(
            [
                ("calls", self.calls),
                ("failed and tried again", failed),
                ("batches bought", totals.batches_created),
                ("their price", f"${self.cost:f}, instead of ${self.cost / (1 - DISCOUNT):f}"),
                ("all answered after", f"{self.took:.1f} s"),
            ]
        )
        screen.line("")


def play(screen: Screen, instance: Instance, calls: int) -> Calls:
    """Make so many calls at once, each on its own connection, and check each one's answer."""
    place, simulator = instance.place, instance.simulator
    # The custom_id of a call begins with its job's id, in base64url.
    simulator.rule(lines=[{"pattern": "[A-F].*", "effect": "error", "times": 1}])
    simulator.fault("put", "status", status=503, body="html")
    simulator.fault("create", "lost", after_commit=True)
    simulator.fault("content", "cut", fraction=0.5)
    screen.line(
        "Trouble ahead: one call in ten failing once, one upload refused, the answer to one create"
    )
    screen.line("  lost, one download cut short")
    screen.line(f"{calls:,} calls of client.chat.completions.create(…) at once")
    started = time.monotonic()
    texts = asyncio.run(_answers(place, calls))
    took = time.monotonic() - started
    with Api(place) as api:
        cost = api.usage(since=None, until=None, by="model").value.total.estimated_cost
    return Calls(
        calls=calls,
        wrong=sum(text != f"echo: Say {number}" for number, text in enumerate(texts)),
        books=simulator.books(),
        cost=Decimal(cost or 0),
        took=took,
    )


async def _answers(place: Place, calls: int) -> list[str | None]:
    """The text of each answer: all that differs from calls of Together is the URL."""
    everyone = DefaultAsyncHttpxClient(limits=httpx.Limits(max_connections=None))
    async with AsyncTogether(
        base_url=f"{place.url}/together",
        api_key=place.token,
        max_retries=10,
        http_client=everyone,
    ) as client:

        async def ask(number: int) -> str | None:
            answer = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": f"Say {number}"}]
            )
            content = answer.choices[0].message.content if answer.choices[0].message else None
            return content if isinstance(content, str) else None

        return await asyncio.gather(*map(ask, range(calls)))
