"""split, assemble (a job); upload, create, poll, fetch (a batch): one function each.

A stage gets a claim and clients and returns an outcome. It opens no session, writes no state, and
is safe to run twice. It may let any error of `service.rules.errors` pass;
`service.rules.retry.after` turns it into an outcome.
"""

from service.stages.assemble import assemble
from service.stages.clients import AccountClients, Clients, Lease
from service.stages.create import create
from service.stages.fetch import fetch
from service.stages.listing import Costs, View
from service.stages.poll import poll
from service.stages.split import split
from service.stages.twins import cancel_twins
from service.stages.unserved import settle_unserved
from service.stages.upload import upload

__all__ = [
    "AccountClients",
    "Clients",
    "Costs",
    "Lease",
    "View",
    "assemble",
    "cancel_twins",
    "create",
    "fetch",
    "poll",
    "settle_unserved",
    "split",
    "upload",
]
