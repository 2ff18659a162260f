"""The stages, one function each: split and assemble a job; upload, create, poll and fetch a batch.

A stage gets a claim and clients and returns an outcome. It opens no session, writes no state, and
is safe to run twice. It may raise any error of `service.rules.errors`, which
`service.stages.refusals.weigh` or `service.rules.retry.after` turns into an outcome.
"""

from service.stages.assemble import assemble
from service.stages.clients import AccountClients, Clients, Lease
from service.stages.create import cancel_duplicates, create
from service.stages.dead_letters import refuse
from service.stages.endings import ended_here, give_up
from service.stages.fetch import fetch
from service.stages.lookup import Costs, Lookup
from service.stages.poll import poll
from service.stages.refusals import weigh
from service.stages.split import split
from service.stages.upload import upload

__all__ = [
    "AccountClients",
    "Clients",
    "Costs",
    "Lease",
    "Lookup",
    "assemble",
    "cancel_duplicates",
    "create",
    "ended_here",
    "fetch",
    "give_up",
    "poll",
    "refuse",
    "split",
    "upload",
    "weigh",
]
