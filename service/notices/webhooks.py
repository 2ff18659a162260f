"""Sending webhooks as Standard Webhooks prescribes, and never into a private network.

The name is resolved once, every address of it is checked, and the connection goes to one of
those very addresses: asked a second time, a resolver could answer something else.

NotDelivered        try again later
└── Gone            never again: the receiver has said so (410)
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
from standardwebhooks import Webhook

from service.rules.notices import is_public, webhook_trouble

DEADLINE = timedelta(seconds=15)
"""For all of one call, from the name's resolution to the answer."""
MOST_ANSWER = 1_000
"""Bytes of an answer that are read, to be shown beside its status."""

_TIMEOUT = httpx.Timeout(DEADLINE.total_seconds(), connect=5)

Address = IPv4Address | IPv6Address


class NotDelivered(Exception):
    """Says in one line why."""


class Gone(NotDelivered):
    """Nobody wants to hear of it any more."""


def tls_context() -> ssl.SSLContext:
    """Checks certificates; takes a while to make. SSL_CERT_FILE adds authorities of one's own."""
    return httpx.create_ssl_context()


@dataclass(frozen=True)
class Sender:
    """`resolvers` are threads for names: a resolver that hangs must hold up nobody else."""

    private: bool
    resolvers: Executor
    tls: ssl.SSLContext

    async def send(self, url: str, message_id: str, body: str, secrets: Sequence[str]) -> None:
        """POST one message. Raises NotDelivered."""
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
        # What was allowed when the job was submitted may not be any more.
        trouble = webhook_trouble(str(url), private=self.private)
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
        """Where the host is. Raises NotDelivered if any of it is private and may not be."""
        host = url.raw_host.decode("ascii")
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self.resolvers, resolve, host)
        except OSError as error:
            raise NotDelivered(f"{host} is not known: {error}") from None
        addresses = [ip_address(text.partition("%")[0]) for text in found]
        private = [address for address in addresses if not is_public(address)]
        if private and not self.private:
            raise NotDelivered(f"{host} is at a private address ({private[0]})")
        if not addresses:
            raise NotDelivered(f"{host} has no address")
        return addresses

    async def _post(
        self, url: httpx.URL, address: Address, headers: Mapping[str, str], body: str
    ) -> None:
        # A client for each call: kept connections are told apart by their address, behind which
        # other hosts may live.
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
    """The addresses of a host, in the order to try them. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _headers(message_id: str, body: str, secrets: Sequence[str]) -> dict[str, str]:
    """Signed with every secret, so that the receiver may take its time to change from one."""
    now = datetime.now(UTC)
    signatures = (Webhook(secret).sign(message_id, now, body) for secret in secrets)
    return {
        "content-type": "application/json",
        "user-agent": "haulier",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
