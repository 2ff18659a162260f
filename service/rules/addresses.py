"""Which addresses are the public internet's, and which others a producer's webhooks may reach.

Pure: names are resolved elsewhere.
"""

import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's registry of special-purpose IPv4 addresses, and multicast. Spelt out, since `is_global`
# differs between releases of Python. Nobody serves webhooks at the few of them that are routed.
_SPECIAL_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' NAT
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, and clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments, NAT64 discovery
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # multicast tunnels
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
_GLOBAL_6 = IPv6Network("2000::/3")
"""All unicast addresses that are given out. The rest is loopback, mapped and translated IPv4
(64:ff9b::/96, 64:ff9b:1::/48), discard-only, 5f00::/16, fc00::/7, fe80::/10, fec0::/10, multicast
and reserved."""
# IANA's registry of special-purpose IPv6 addresses, within the former.
_SPECIAL_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks, AS112
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: embeds any IPv4 address
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, and embeds none that is not."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    inner = _isatap(address)
    if inner is not None and not is_public(inner):
        return False
    return address in _GLOBAL_6 and not any(address in network for network in _SPECIAL_6)


def _isatap(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address to which an ISATAP router would send (RFC 5214), or None."""
    number = int(address)
    # The u and g bits may be set or not.
    if number >> 32 & 0xFCFFFFFF != 0x00005EFE:
        return None
    return IPv4Address(number & 0xFFFFFFFF)


def literal(host: str) -> Address | None:
    """Return the address that a URL's host is by itself; None for a name that is to be resolved."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    with suppress(ValueError):
        return ip_address(name.partition("%")[0])
    return _number(name)


def _number(name: str) -> IPv4Address | None:
    """Return the address of 2130706433, 0x7f.1 or 127.1, which resolvers take for one; or None."""
    with suppress(OSError):
        return IPv4Address(socket.inet_aton(name))
    return None


# --- what a producer may reach --------------------------------------------------------------------

_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")


@dataclass(frozen=True)
class Reach:
    """Hosts and networks that webhooks may go to although private, and over plain HTTP."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    everywhere: bool = False

    def __bool__(self) -> bool:
        return self.everywhere or bool(self.hosts or self.networks)

    def covers(self, host: str, address: Address | None) -> bool:
        """Whether a host is listed by its name, or its address lies in a listed network."""
        if self.everywhere or host.rstrip(".").lower() in self.hosts:
            return True
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        return address is not None and any(address in network for network in self.networks)


LOOPBACK = ("localhost", "127.0.0.0/8", "::1")
"""What a machine is to itself, as entries of `reach_of`."""
NOWHERE = Reach()
EVERYWHERE = Reach(everywhere=True)


def reach_of(entries: Sequence[str] | None) -> Reach:
    """Return what a list of host names, addresses and networks covers; None is everything.

    Raises ValueError for an entry that is none of these.
    """
    if entries is None:
        return EVERYWHERE
    hosts, networks = set(), []
    for entry in entries:
        name = entry.rstrip(".").lower()
        try:
            networks.append(ip_network(name))
        except ValueError as error:
            if not _NAME.fullmatch(name) or _number(name) is not None:
                words = f"{entry!r} is no host name, address or network ({error})"
                raise ValueError(words) from None
            hosts.add(name)
    return Reach(frozenset(hosts), tuple(networks))
