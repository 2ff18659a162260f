"""Looks for lists where messages of producers lie that nobody reads.

A producer with a `global_keyprefix`, another separator of priorities, another database or quotes
in a name writes where no inbox looks, and hears nothing of it.
"""

from collections.abc import Iterable
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import ResponseError

from service.store import counters
from service.store.engine import Database
from workers.broker import connect
from workers.process import Every
from workers.submit_queue import DEAD, INBOXES, PRIORITY_QUEUES, SUBMIT

log = structlog.get_logger()

READ = frozenset({SUBMIT, *PRIORITY_QUEUES})
_LIKE = "*[Hh]aulier?[Ss]ubmit*"
_AT_ONCE = 1_000
"""Keys that Redis looks at in one step: it does nothing else meanwhile."""
_AGAIN = 600.0
"""Seconds after which the same is said again."""


def lists_nobody_reads(url: str, *, steps: int) -> dict[str, int]:
    """Return the lists, with how many messages each holds. Looks at 1,000 keys a step.

    Raises RedisError.
    """
    with connect(url) as redis:
        cursor, names = 0, set[bytes]()
        for _ in range(steps):
            cursor, found = _scan(redis, cursor)
            names |= found
            if cursor == 0:
                break
        return _held(redis, url, names)


class UnreadLists:
    """Looks at a few keys at a time, and tells what it found once it has seen all."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._redis = connect(url)
        self._cursor = 0
        self._names = set[bytes]()
        self._known: dict[str, int] | None = None
        self._say = Every(_AGAIN)

    def look(self, db: Database) -> None:
        """Look at the next keys. Raises RedisError and what the database raises."""
        try:
            self._cursor, found = _scan(self._redis, self._cursor)
            self._names |= found
            if self._cursor == 0:
                names, self._names = self._names, set()
                self._tell(db, _held(self._redis, self._url, names))
        except ResponseError as error:  # a right that the inbox does not need for its work
            if self._say.due():
                log.warning("queues_not_looked_for", reason=str(error))

    def close(self) -> None:
        self._redis.close()

    def _tell(self, db: Database, held: dict[str, int]) -> None:
        before, self._known = self._known, held
        messages = sum(held.values())
        if before is None or messages != sum(before.values()):
            counters.put(db, counters.UNREAD, messages)
        is_new = held.keys() != (before or {}).keys()
        if held and (self._say.due() or is_new):
            log.warning(
                "messages_nobody_reads",
                lists=held,
                action="correct the settings of the producer, see docs/producers.md",
            )


def _scan(redis: Redis, cursor: int) -> tuple[int, set[bytes]]:
    found: Any = redis.scan(cursor, _LIKE, _AT_ONCE, _type="list")
    return found[0], {name for name in found[1] if _text(name) not in READ}


def _held(redis: Redis, url: str, names: Iterable[bytes]) -> dict[str, int]:
    """Return how many messages there are in these lists, and in the queue of other databases."""
    lengths = {_text(name): redis.llen(name) for name in sorted(names)}
    here = redis.connection_pool.connection_kwargs.get("db") or 0
    for database in redis.info("keyspace"):
        number = int(str(database).removeprefix("db"))
        if number != here:
            with connect(url, database=number) as other:
                lengths |= _in_other(other, number)
    return {name: length for name, length in lengths.items() if length}


def _in_other(redis: Redis, number: int) -> dict[str, int]:
    """Return what lies in the queue of a database where no inbox is alive."""
    seconds, _ = redis.time()
    if redis.zcount(INBOXES, seconds - DEAD, "+inf"):
        return {}
    with redis.pipeline(transaction=False) as asked:
        for name in sorted(READ):
            asked.llen(name)
        lengths = asked.execute(raise_on_error=False)
    return {
        f"{name} in database {number}": length
        for name, length in zip(sorted(READ), lengths, strict=True)
        if isinstance(length, int)
    }


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
