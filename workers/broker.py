"""How every process here talks to Redis."""

from typing import Any

SUBMIT = "haulier.submit"
"""The queue of producers' submissions; read by the inbox, never by a worker."""


def transport_options() -> dict[str, Any]:
    return {
        # Without a timeout, a publish to a frozen Redis blocks for ever.
        "socket_timeout": 5,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "visibility_timeout": 3600,
    }
