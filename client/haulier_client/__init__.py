"""A client of Haulier's HTTP API: submit requests, wait, read the results.

`Client` and `AsyncClient` do the same. Their methods raise `HaulierError`s.
"""

from haulier_client.async_client import AsyncClient
from haulier_client.client import Client
from haulier_client.errors import (
    Conflict,
    Forbidden,
    HaulierError,
    Invalid,
    NotFound,
    NotHaulier,
    Problem,
    ProblemError,
    RateLimited,
    ResultsChanged,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unreachable,
    WaitTimeout,
)
from haulier_client.views import Failure, Forecast, Job, Result, Usage

__all__ = [
    "AsyncClient",
    "Client",
    "Conflict",
    "Failure",
    "Forbidden",
    "Forecast",
    "HaulierError",
    "Invalid",
    "Job",
    "NotFound",
    "NotHaulier",
    "Problem",
    "ProblemError",
    "RateLimited",
    "Result",
    "ResultsChanged",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "Usage",
    "WaitTimeout",
]
