"""What a producer may use: accounts, input roots, notice targets and priorities."""

from posixpath import normpath
from urllib.parse import unquote, urlsplit

import msgspec

from service.rules.addresses import NOWHERE, Reach


class Permissions(msgspec.Struct, frozen=True):
    """What a producer may use.

    `notice_tasks` and `notice_queues` are None where every one is allowed.
    """

    accounts: frozenset[str] = frozenset({"default"})
    input_roots: tuple[str, ...] = ()
    notice_tasks: frozenset[str] | None = frozenset()
    notice_queues: frozenset[str] | None = frozenset()
    priorities: tuple[int, int] | None = (0, 9)
    """The lowest and the highest; None where every one is allowed."""
    private_webhooks: Reach = NOWHERE
    """Where webhooks may go although the address is private, and without TLS."""


def may_read(url: str, roots: tuple[str, ...]) -> bool:
    """Whether `input` lies under a root, whole path segments, after normalising. Never http(s)."""
    target = place(url)
    if target is None:
        return False
    for root in roots:
        allowed = place(root)
        if allowed is not None and (
            target[:2] == allowed[:2]
            and (target[2] == allowed[2] or target[2].startswith(allowed[2].rstrip("/") + "/"))
        ):
            return True
    return False


def place(url: str) -> tuple[str, str, str] | None:
    """(scheme, host or bucket, normalised path) of a file or S3 URL; None for anything else.

    What is opened must be this, never the URL again: read anew, `%252e%252e` becomes `..`.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in {"file", "s3"} or parts.query or parts.fragment:
        return None
    path = unquote(parts.path) or "/"
    if "\x00" in path or "\\" in path or not path.startswith("/"):
        return None
    return parts.scheme, parts.netloc, normpath("/" + path.lstrip("/"))
