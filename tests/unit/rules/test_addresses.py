"""Which addresses are public: IANA's registries of special-purpose addresses, one by one."""

import sys
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from service.rules.addresses import EVERYWHERE, NOWHERE, is_public, literal, reach_of

# The registries of October 2025, and what multicast, site-local and translation set aside.
SPECIAL = [
    *("0.0.0.0/8", "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32"),
    *("192.0.0.10/32", "192.0.0.170/32", "192.0.0.171/32", "192.0.2.0/24", "192.31.196.0/24"),
    *("192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
    *("::1/128", "::/128", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64"),
    *("100:0:0:1::/64", "2001::/23", "2001::/32", "2001:1::1/128", "2001:1::2/128"),
    *("2001:1::3/128", "2001:2::/48", "2001:3::/32", "2001:4:112::/48", "2001:10::/28"),
    *("2001:20::/28", "2001:30::/28", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48"),
    *("3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    # IPv4 in IPv6, and ISATAP's identifiers under a public prefix.
    *("::ffff:10.0.0.0/104", "::ffff:127.0.0.1/128", "::ffff:0:10.0.0.1/128"),
    *("2600::5efe:10.0.0.1/128", "2600::200:5efe:192.168.0.1/128", "2600::300:5efe:127.0.0.1/128"),
]


@pytest.mark.parametrize("network", SPECIAL)
def test_a_special_address_is_not_public(network: str) -> None:
    found = ip_network(network)
    for address in {found[0], found[-1], found[found.num_addresses // 2]}:
        assert not is_public(address), address


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
        *("126.255.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.88.98.255"),
        *("198.17.255.255", "198.20.0.0", "223.255.255.255", "2001:200::", "2606:4700::1111"),
        *("2003::", "3ffe:ffff::", "2001:db7:ffff::", "2600::5efe:8.8.8.8", "::ffff:8.8.8.8"),
    ],
)
def test_an_address_beside_them_is_public(address: str) -> None:
    assert is_public(ip_address(address))


def test_no_release_of_python_knows_better() -> None:
    """Whatever `ipaddress` calls special is so here, too, in this release."""
    for number in range(1 << 16):
        four, six = IPv4Address(number << 16), IPv6Address(number << 112)
        assert four.is_global or not is_public(four), sys.version
        assert six.is_global or not is_public(six), sys.version


@pytest.mark.parametrize(
    ("host", "address"),
    [
        *(("127.0.0.1", "127.0.0.1"), ("2130706433", "127.0.0.1"), ("0x7f.1", "127.0.0.1")),
        *(("017700000001", "127.0.0.1"), ("10.1", "10.0.0.1"), ("LOCALHOST.", "127.0.0.1")),
        *(("a.localhost", "127.0.0.1"), ("fe80::1%eth0", "fe80::1"), ("8.8.8.8.", "8.8.8.8")),
    ],
)
def test_a_host_that_is_an_address_is_seen_as_one(host: str, address: str) -> None:
    assert literal(host) == ip_address(address)


def test_a_name_is_no_address() -> None:
    assert literal("example.com") is literal("localhost.example.com") is None


# --- what a producer may reach --------------------------------------------------------------------


def test_a_reach_covers_its_names_and_networks() -> None:
    reach = reach_of(["10.1.0.0/16", "fd00::/8", "192.168.0.7", "Hooks.Internal.", "localhost"])
    covered = ["10.1.0.0", "10.1.255.255", "fd12::1", "192.168.0.7", "::ffff:10.1.2.3"]
    others = ["10.0.255.255", "10.2.0.0", "192.168.0.8", "fc00::1", "::ffff:10.2.0.0"]
    assert all(reach.covers("x", ip_address(address)) for address in covered)
    assert not any(reach.covers("x", ip_address(address)) for address in others)
    assert reach.covers("hooks.internal", IPv6Address("fe80::1"))
    assert not reach.covers("sub.hooks.internal", None)
    assert not reach.covers("hooks.internal.example.com", None)
    assert EVERYWHERE.covers("x", None)
    assert (bool(reach), bool(EVERYWHERE), bool(NOWHERE), bool(reach_of([]))) == (
        *(True, True),
        *(False, False),
    )
    assert reach_of(None) == EVERYWHERE


@pytest.mark.parametrize(
    "entry",
    [
        *("", ".", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "2130706433", "0x7f.1", "a b", "*"),
        *("*.internal", "http://hooks.internal", "hooks.internal:80", "hooks.internal/x"),
        *("-a", "a..b", "ä.example", "fe80::/200", "a" * 64, "a." * 127 + "aa"),
    ],
)
def test_what_is_neither_a_host_nor_a_network_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host name, address or network"):
        reach_of([entry])
