"""A producer's permissions: its own allow-lists, within those of this deployment."""

from config.settings import Settings
from service.rules.addresses import EVERYWHERE, LOOPBACK, Reach, reach_of
from service.rules.permissions import Permissions, may_read
from service.store.engine import Database
from service.store.models import Producer


def permissions_of(producer: Producer | None, settings: Settings) -> Permissions:
    """Return a producer's permissions. None stands for the operator, who may use everything."""
    if producer is None:
        return Permissions(
            accounts=settings.account_names,
            input_roots=settings.input_roots,
            notice_tasks=None,
            notice_queues=None,
            priorities=None,
            private_webhooks=reach([], settings),
        )
    names = settings.account_names
    return Permissions(
        accounts=names if producer.accounts is None else names & set(producer.accounts),
        input_roots=settings.input_roots
        if producer.input_roots is None
        # What the settings no longer allow is nobody's.
        else tuple(root for root in producer.input_roots if may_read(root, settings.input_roots)),
        notice_tasks=_allowed(producer.notice_tasks),
        notice_queues=_allowed(producer.notice_queues),
        priorities=(producer.lowest_priority, producer.highest_priority),
        private_webhooks=reach(producer.private_webhooks, settings),
    )


def newcomer(name: str) -> Producer:
    """Return a producer with default permissions, for a name that no operator has added."""
    return Producer(
        name=name,
        accounts=["default"],
        input_roots=[],
        notice_tasks=[],
        notice_queues=[],
        private_webhooks=[],
        lowest_priority=0,
        highest_priority=9,
        signing_secrets=[],
    )


def permissions_for(db: Database, name: str, settings: Settings) -> Permissions:
    """Return the permissions of a producer by name; the fewest if there is none of that name."""
    with db.begin() as session:
        producer = session.get(Producer, name)
    return Permissions() if producer is None else permissions_of(producer, settings)


def reach(entries: list[str] | None, settings: Settings) -> Reach:
    """Return where a producer's webhooks may go although private, by its row and the settings."""
    if settings.webhook_allow_private == "loopback":
        return reach_of(None if entries is None else [*LOOPBACK, *entries])
    return EVERYWHERE if settings.webhook_allow_private else reach_of(entries)


def _allowed(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
