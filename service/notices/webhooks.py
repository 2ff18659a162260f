"""Sends webhooks by the rules of Standard Webhooks, into no private network that is not allowed.

The sender resolves a host name once, checks every address, and connects to one of the addresses
that it checked. A resolver that is asked twice could give another answer the second time.

NotDelivered        try again later
└── Gone            do not try again: the receiver answered 410
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import httpx

from service.rules.addresses import Address, Reach, is_public
from service.rules.notices import address_trouble, webhook_trouble
from service.rules.signatures import sign

DEADLINE = timedelta(seconds=15)
"""The longest time for one webhook, from resolving the name to the answer."""
MOST_ANSWER = 200
"""The most bytes of an answer that are read. They are shown after its status."""

_TIMEOUT = httpx.Timeout(DEADLINE.total_seconds(), connect=5)


class NotDelivered(Exception):
    """The receiver did not take the webhook. The message says why, in one line."""


class Gone(NotDelivered):
    """The receiver wants no more webhooks at this URL."""


def tls_context() -> ssl.SSLContext:
    """Return a context that checks certificates. Making one is slow, so share it.

    The variable SSL_CERT_FILE names a file with more certificate authorities.
    """
    return httpx.create_ssl_context()


@dataclass(frozen=True)
class Sender:
    """Sends webhooks. It keeps nothing between two of them."""

    resolvers: Executor
    """Threads for resolving names, so that a slow resolver delays only its own webhook."""
    tls: ssl.SSLContext

    async def send(
        self, url: str, message_id: str, body: str, secrets: Sequence[str], private: Reach
    ) -> None:
        """POST one message, signed with each of the secrets. Raises NotDelivered.

        `private` is where it may go although the address is private, and over plain HTTP.
        """
        try:
            async with asyncio.timeout(DEADLINE.total_seconds()):
                await self._send(httpx.URL(url), _headers(message_id, body, secrets), body, private)
        except TimeoutError:
            raise NotDelivered(f"no answer within {DEADLINE.seconds} seconds") from None
        except (httpx.InvalidURL, ValueError) as error:
            raise NotDelivered(f"the URL cannot be used: {error}") from None

    async def _send(
        self, url: httpx.URL, headers: Mapping[str, str], body: str, private: Reach
    ) -> None:
        # What is allowed may have changed since the job was submitted.
        trouble = webhook_trouble(str(url), private=private)
        if trouble is not None:
            raise NotDelivered(trouble)
        addresses = await self._addresses(url, private)
        # What a private host says may be anything, so of that nothing is passed on.
        quoted = all(map(is_public, addresses))
        for number, address in enumerate(addresses):
            try:
                await self._post(url, address, headers, body, quoted=quoted)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if number + 1 == len(addresses):
                    raise _broken(error, quoted=quoted) from None
            except httpx.HTTPError as error:
                raise _broken(error, quoted=quoted) from None
            else:
                return

    async def _addresses(self, url: httpx.URL, private: Reach) -> list[Address]:
        """Return the host's addresses. Raises NotDelivered if it may not go to one of them."""
        host = url.raw_host.decode("ascii")
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self.resolvers, resolve, host)
        except OSError as error:
            raise NotDelivered(f"{host} cannot be resolved: {error}") from None
        addresses = [ip_address(text.partition("%")[0]) for text in found]
        for address in addresses:
            trouble = address_trouble(url.scheme, host, address, private=private)
            if trouble is not None:
                raise NotDelivered(trouble)
        if not addresses:
            raise NotDelivered(f"{host} has no address")
        return addresses

    async def _post(
        self,
        url: httpx.URL,
        address: Address,
        headers: Mapping[str, str],
        body: str,
        *,
        quoted: bool,
    ) -> None:
        # A client for each webhook: a client would reuse a connection to the same address for
        # another host that lives there.
        async with (
            httpx.AsyncClient(verify=self.tls, trust_env=False, timeout=_TIMEOUT) as client,
            client.stream(
                "POST",
                url.copy_with(host=str(address)),
                content=body,
                headers={**headers, "host": url.netloc.decode("ascii")},
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
                follow_redirects=False,
            ) as response,
        ):
            if not response.is_success:
                raise await _refusal(response, quoted=quoted)


def _broken(error: httpx.HTTPError, *, quoted: bool) -> NotDelivered:
    """Return what went wrong without an answer. Some errors quote what the other side sent."""
    kind = type(error).__name__
    return NotDelivered(f"{kind}: {_shown(str(error))}" if quoted else kind)


async def _refusal(response: httpx.Response, *, quoted: bool) -> NotDelivered:
    status = response.status_code
    if response.is_redirect:
        return NotDelivered(f"{status}: redirects are not followed; give the final URL")
    text = b""
    if quoted:
        async for block in response.aiter_raw(MOST_ANSWER):
            text = block
            break
    words = f"{status} {_shown(text.decode(errors='replace'))}".strip()
    return Gone(words) if status == 410 else NotDelivered(words)


def _shown(text: str) -> str:
    """The beginning of what somebody else wrote, in one line without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:MOST_ANSWER]).strip()


def resolve(host: str) -> list[str]:
    """Return the addresses of a host, in the order to try them. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _headers(message_id: str, body: str, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers of a webhook, with a signature by each of the producer's secrets.

    So a receiver can change from the old secret to the new one at any time.
    """
    now = datetime.now(UTC)
    signatures = sign(body, message_id=message_id, instant=now, by=secrets)
    return {
        "content-type": "application/json",
        "user-agent": "haulier",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
