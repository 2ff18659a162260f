"""The queue of submissions in Redis, read so that no message is lost and nobody else is touched.

A message moves into a list of this inbox's own and is deleted from there once it is stored. What
an inbox held that died is put back. All keys begin with `haulier.`: other applications on the same
Redis keep their messages in kombu's own keys, which are never touched.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

from workers.broker import connect

SUBMIT = "haulier.submit"
"""The queue of producers' submissions. The inbox reads it; a worker never does."""
PRIORITY_QUEUES = [f"{SUBMIT}\x06\x16{step}" for step in range(1, 10)]
"""Where kombu puts messages with a priority, in as many steps as the producer's settings say."""
HELD = "haulier.inbox.held"
"""Messages that wait because another transaction holds their idempotency key."""
UNREADABLE = "haulier.inbox.unreadable"
"""The newest messages that could not be read and have no task id."""
INBOXES = "haulier.inbox.alive"
"""The inboxes, by when they last took messages."""
_PAGE = "haulier.inbox.page."

DEAD = 60
"""Seconds after which an inbox that took no messages is taken for dead."""
MOST_UNREADABLE = 1_000
UNREADABLE_BYTES = 64 * 1024
"""What is kept of a message that cannot be read."""

# KEYS: inboxes, own page, queues. ARGV: id, most messages, enough bytes. One of each queue in turn.
_TAKE = """
redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[1])
local page, bytes, found = {}, 0, true
while found do
  found = false
  for i = 3, #KEYS do
    if #page >= tonumber(ARGV[2]) or bytes >= tonumber(ARGV[3]) then return page end
    local message = redis.call('RPOPLPUSH', KEYS[i], KEYS[2])
    if message then
      page[#page + 1], bytes, found = message, bytes + #message, true
    end
  end
end
return page
"""

# KEYS: own page, queue. The oldest goes back last, so that it is read first.
_GIVE_BACK = """
local count = 0
while true do
  local message = redis.call('LPOP', KEYS[1])
  if not message then return count end
  redis.call('RPUSH', KEYS[2], message)
  count = count + 1
end
"""

# KEYS: inboxes. ARGV: seconds. Those that took nothing for so long.
_SILENT = """
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1] - ARGV[1])
"""


class SubmitQueue:
    """One inbox's hold on the queue. Raises RedisError where Redis is away."""

    def __init__(self, url: str) -> None:
        self._redis = connect(url)
        self._id = uuid4().hex
        self._page = _PAGE + self._id
        self._take = self._redis.register_script(_TAKE)
        self._give_back = self._redis.register_script(_GIVE_BACK)
        self._silent = self._redis.register_script(_SILENT)

    def take(self, most: int, enough_bytes: int, *, wait: int) -> list[bytes]:
        """Return up to `most` messages, oldest first, once there are any or `wait` seconds passed.

        No more are added once they have `enough_bytes`.
        """
        keys = [INBOXES, self._page, SUBMIT, *PRIORITY_QUEUES]
        page: list[bytes] = self._take(keys, [self._id, most, enough_bytes])
        if page or not wait:
            return page
        first: Any = self._redis.brpoplpush(SUBMIT, self._page, timeout=wait)
        if first is None:
            return []
        # What arrived together with it.
        return [first, *self.take(most - 1, enough_bytes - len(first), wait=0)]

    def take_held(self, most: int) -> list[bytes]:
        """Return messages that were set aside because their keys were held."""
        page: list[bytes] = self._take([INBOXES, self._page, HELD], [self._id, most, 10**8])
        return page

    def done(self, *, held: Sequence[bytes] = (), unreadable: Iterable[bytes] = ()) -> None:
        """Delete the page, in one step with setting some of it aside."""
        with self._redis.pipeline(transaction=True) as steps:
            if held:
                steps.lpush(HELD, *held)
            for message in unreadable:
                steps.lpush(UNREADABLE, message[:UNREADABLE_BYTES])
                steps.ltrim(UNREADABLE, 0, MOST_UNREADABLE - 1)
            steps.delete(self._page)
            steps.execute()

    def give_back(self) -> int:
        """Put back what this inbox holds, and what dead ones held. Returns how many messages."""
        count = int(self._give_back([self._page, SUBMIT]))
        for inbox in self._silent([INBOXES], [DEAD]):
            count += int(self._give_back([_PAGE + inbox.decode(), SUBMIT]))
            self._redis.zrem(INBOXES, inbox)
        return count

    def leave(self) -> None:
        """Give everything back and be forgotten."""
        self._give_back([self._page, SUBMIT])
        self._redis.zrem(INBOXES, self._id)
        self._redis.close()
