"""Sends webhooks by the rules of Standard Webhooks, and never into a private network.

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
from ipaddress import IPv4Address, IPv6Address, ip_address

import httpx

from service.rules.notices import is_public, webhook_trouble
from service.rules.signatures import sign

DEADLINE = timedelta(seconds=15)
"""The longest time for one webhook, from resolving the name to the answer."""
MOST_ANSWER = 1_000
"""The most bytes of an answer that are read. They are shown after its status."""

_TIMEOUT = httpx.Timeout(DEADLINE.total_seconds(), connect=5)

Address = IPv4Address | IPv6Address


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

    allow_private: bool
    """Whether webhooks may go to private addresses, and over plain HTTP."""
    resolvers: Executor
    """Threads for resolving names, so that a slow resolver delays only its own webhook."""
    tls: ssl.SSLContext

    async def send(self, url: str, message_id: str, body: str, secrets: Sequence[str]) -> None:
        """POST one message, signed with each of the secrets. Raises NotDelivered."""
        try:
            async with asyncio.timeout(DEADLINE.total_seconds()):
                await self._send(httpx.URL(url), _headers(message_id, body, secrets), body)
        except TimeoutError:
            raise NotDelivered(f"no answer within {DEADLINE.seconds} seconds") from None
        except httpx.HTTPError as error:
            raise NotDelivered(f"{type(error).__name__}: {error}") from None
        except (httpx.InvalidURL, ValueError) as error:
            raise NotDelivered(f"the URL cannot be used: {error}") from None

    async def _send(self, url: httpx.URL, headers: Mapping[str, str], body: str) -> None:
        # The settings may have changed since the job was submitted.
        trouble = webhook_trouble(str(url), private=self.allow_private)
        if trouble is not None:
            raise NotDelivered(trouble)
        addresses = await self._addresses(url)
        for number, address in enumerate(addresses):
            try:
                await self._post(url, address, headers, body)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number + 1 == len(addresses):
                    raise
            else:
                return

    async def _addresses(self, url: httpx.URL) -> list[Address]:
        """Return the host's addresses. Raises NotDelivered if one is private and must not be."""
        host = url.raw_host.decode("ascii")
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self.resolvers, resolve, host)
        except OSError as error:
            raise NotDelivered(f"{host} cannot be resolved: {error}") from None
        addresses = [ip_address(text.partition("%")[0]) for text in found]
        private = [address for address in addresses if not is_public(address)]
        if private and not self.allow_private:
            raise NotDelivered(f"{host} has a private address ({private[0]})")
        if not addresses:
            raise NotDelivered(f"{host} has no address")
        return addresses

    async def _post(
        self, url: httpx.URL, address: Address, headers: Mapping[str, str], body: str
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
                raise await _refusal(response)


async def _refusal(response: httpx.Response) -> NotDelivered:
    status = response.status_code
    if response.is_redirect:
        return NotDelivered(f"{status}: redirects are not followed; give the final URL")
    text = b""
    async for block in response.aiter_raw(MOST_ANSWER):
        text = block[:MOST_ANSWER]
        break
    shown = text.decode(errors="replace").replace("\x00", "\ufffd").strip()
    words = f"{status} {shown}".strip()
    return Gone(words) if status == 410 else NotDelivered(words)


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
