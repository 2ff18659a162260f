"""Amounts of money in bodies: exact, as a number or as the text of one."""

from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field, PlainSerializer

from service.rules.budgets import MOST_COST, cost_problems
from service.rules.prices import written


def _checked(amount: Decimal) -> Decimal:
    for problem in cost_problems(amount):
        raise ValueError(problem.removeprefix("`max_cost` "))
    return amount


Usd = Annotated[
    Decimal,
    Field(gt=0, le=MOST_COST),
    AfterValidator(_checked),
    PlainSerializer(written, return_type=str),
]
"""USD, with six decimal places at most."""
