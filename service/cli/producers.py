"""`haulier producer` and `haulier token`: every command, and nothing but their arguments."""

import re
from datetime import timedelta
from typing import Annotated

import typer

from service.rules.credentials import DEFAULT_SCOPES, Scope

producer_app = typer.Typer(no_args_is_help=True, help="Producers: who may submit, and how much.")
token_app = typer.Typer(no_args_is_help=True, help="The tokens of producers.")

AsJson = Annotated[bool, typer.Option("--json", help="JSON documents, one a line.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A producer.", show_default=False)]
TokenId = Annotated[str, typer.Argument(metavar="ID", help="A token's id.", show_default=False)]

_ENTRIES = "May be repeated; '*' is all there is, '' none."
Accounts = Annotated[
    list[str] | None, typer.Option("--account", help=f"An account it may use. {_ENTRIES}")
]
Roots = Annotated[
    list[str] | None, typer.Option("--input-root", help=f"Where `input` may lie. {_ENTRIES}")
]
Tasks = Annotated[
    list[str] | None, typer.Option("--notice-task", help=f"A task for notices. {_ENTRIES}")
]
Queues = Annotated[
    list[str] | None, typer.Option("--notice-queue", help=f"A queue for notices. {_ENTRIES}")
]
BodyBytes = Annotated[
    int | None, typer.Option(min=0, help="Bytes of one submission; 0 is no limit.")
]
OpenRequests = Annotated[
    int | None, typer.Option(min=0, help="Requests of all unfinished jobs; 0 is no limit.")
]
PerDay = Annotated[int | None, typer.Option(min=0, help="Requests a UTC day; 0 is no limit.")]

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _span(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise typer.BadParameter("is a number with s, m, h or d, such as 90d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


ExpiresIn = Annotated[
    timedelta | None, typer.Option(parser=_span, metavar="SPAN", help="Ends after that: 90d, 12h.")
]


@producer_app.command("add")
def add_producer(
    *,
    name: Name,
    account: Accounts = None,
    input_root: Roots = None,
    notice_task: Tasks = None,
    notice_queue: Queues = None,
    body_bytes: BodyBytes = None,
    open_requests: OpenRequests = None,
    requests_per_day: PerDay = None,
    json: AsJson = False,
) -> None:
    """Add a producer, and print its first token. It is shown this once."""
    from service.cli.access import Grants, add_producer

    lists = (account, input_root, notice_task, notice_queue)
    limits = (body_bytes, open_requests, requests_per_day)
    add_producer(name, Grants(*lists, *limits), as_json=json)


@producer_app.command("set")
def set_producer(
    *,
    name: Name,
    account: Accounts = None,
    input_root: Roots = None,
    notice_task: Tasks = None,
    notice_queue: Queues = None,
    body_bytes: BodyBytes = None,
    open_requests: OpenRequests = None,
    requests_per_day: PerDay = None,
    json: AsJson = False,
) -> None:
    """Change what a producer may use; what is left out stays as it is."""
    from service.cli.access import Grants, set_producer

    lists = (account, input_root, notice_task, notice_queue)
    limits = (body_bytes, open_requests, requests_per_day)
    set_producer(name, Grants(*lists, *limits), as_json=json)


@producer_app.command("list")
def list_producers(json: AsJson = False) -> None:
    """List the producers, what they may use, and how much."""
    from service.cli.access import list_producers

    list_producers(as_json=json)


@producer_app.command("secret")
def make_secret(name: Name, json: AsJson = False) -> None:
    """Make a new signing secret, and print it. The one before it stays valid."""
    from service.cli.access import make_secret

    make_secret(name, as_json=json)


@token_app.command("add")
def add_token(
    *,
    name: Name,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help=f"May be repeated; {', '.join(DEFAULT_SCOPES)} if left out."),
    ] = None,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    expires_in: ExpiresIn = None,
    json: AsJson = False,
) -> None:
    """Add a token of a producer, and print it. It is shown this once."""
    from service.cli.access import add_token

    add_token(name, scopes=scope, label=label, expires_in=expires_in, as_json=json)


@token_app.command("list")
def list_tokens(name: Name, json: AsJson = False) -> None:
    """List a producer's tokens, those that have ended too."""
    from service.cli.access import list_tokens

    list_tokens(name, as_json=json)


@token_app.command("rotate")
def rotate_token(
    *,
    name: Name,
    token: TokenId,
    grace: Annotated[
        timedelta | None,
        typer.Option(parser=_span, metavar="SPAN", help="How long the old one stays valid: 1h."),
    ] = None,
    expires_in: ExpiresIn = None,
    json: AsJson = False,
) -> None:
    """Replace a token by a new one with the same scopes and label, and print that."""
    from service.cli.access import rotate_token

    rotate_token(name, token, grace=grace, expires_in=expires_in, as_json=json)


@token_app.command("revoke")
def revoke_token(name: Name, token: TokenId) -> None:
    """End a token at once."""
    from service.cli.access import revoke_token

    revoke_token(name, token)
