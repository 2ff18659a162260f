"""Producers: their limits and use, their tokens, and their verbs."""

from collections.abc import Mapping
from datetime import timedelta

from pydantic import ValidationError

from service.api import cursors
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page, Verb
from service.api.console.visitor import Power
from service.api.problems import INVALID, NAME_TAKEN, TOKEN_ENDED, HttpProblem
from service.api.v1.producers import NewProducer, ProducerView, unknown_producer
from service.rules.credentials import DEFAULT_SCOPES, NewCredential, Scope, is_id
from service.rules.errors import Conflict
from service.rules.names import trouble_with
from service.store import credentials
from service.store import producers as store
from service.store.models import Producer

ROWS = 100
MOST_TOKENS = 200
MOST_LABEL = 200
GRACE = timedelta(hours=1)


def read(look: Look) -> Shown:
    place = look.query.get("after")
    after = cursors.read(place, cursors.AfterProducer).name if place else ""
    found = store.producers(look.services.db, after=after, limit=ROWS + 1)
    rows = found[:ROWS]
    more = len(found) > ROWS
    return {
        "producers": [ProducerView.of(row) for row in rows],
        "next": cursors.written(cursors.AfterProducer(rows[-1].name)) if more else None,
    }


def read_one(look: Look) -> Shown:
    row = _producer(look)
    return {
        "producer": ProducerView.of(row),
        "tokens": credentials.tokens(look.services.db, row.name, after=None, limit=MOST_TOKENS),
        "scopes": list(Scope),
        "usual": set(DEFAULT_SCOPES),
        "grace": GRACE,
    }


def _producer(look: Look) -> Producer:
    name = look.path["name"]
    row = None if "\x00" in name else store.producer(look.services.db, name)
    if row is None:
        raise unknown_producer()
    return row


def _shown_once(what: str, made: NewCredential) -> str:
    return f"{what} Its token is shown only now: {made.text}"


def _add(look: Look, sent: Mapping[str, str]) -> str:
    try:
        asked = NewProducer(name=sent.get("name", ""))
        fields = asked.given(look.services.settings)
        made = store.add_producer(look.services.db, asked.name, look.visitor.actor, **fields)
    except ValidationError:
        words = "a name has up to 63 lower-case letters, digits, dots, hyphens and underscores"
        raise HttpProblem(INVALID, words) from None
    except Conflict as error:
        raise HttpProblem(NAME_TAKEN, str(error)) from None
    return _shown_once(f"The producer {asked.name} is there.", made)


def _disable(look: Look, _sent: Mapping[str, str]) -> str:
    name = _producer(look).name
    store.disable(look.services.db, name, by=look.visitor.actor)
    return f"{name} is disabled: its tokens, uploads and streams are refused. Its jobs go on."


def _enable(look: Look, _sent: Mapping[str, str]) -> str:
    name = _producer(look).name
    store.enable(look.services.db, name, by=look.visitor.actor)
    return f"{name} is enabled."


def _add_token(look: Look, sent: Mapping[str, str]) -> str:
    name, label = _producer(look).name, sent.get("label", "")[:MOST_LABEL]
    if trouble := trouble_with(label):
        raise HttpProblem(INVALID, f"label: {trouble}")
    scopes = [scope for scope in Scope if sent.get(f"scope-{scope}")]
    if not scopes:
        raise HttpProblem(INVALID, "choose one scope at least")
    made = store.add_credential(
        look.services.db, name, scopes=scopes, label=label, by=look.visitor.actor
    )
    return _shown_once(f"{name} has a new token.", made)


def _token(look: Look) -> str:
    token = look.path["token"]
    if not is_id(token):
        raise HttpProblem(TOKEN_ENDED, "the producer has no such token")
    return token


def _rotate(look: Look, _sent: Mapping[str, str]) -> str:
    try:
        made = credentials.rotate_token(
            look.services.db, _producer(look).name, _token(look), grace=GRACE, by=look.visitor.actor
        )
    except Conflict as error:
        raise HttpProblem(TOKEN_ENDED, str(error)) from None
    if made is None:
        raise HttpProblem(TOKEN_ENDED, "the producer has no such token")
    return _shown_once("The old token ends in an hour.", made)


def _revoke(look: Look, _sent: Mapping[str, str]) -> str:
    name, token = _producer(look).name, _token(look)
    if not credentials.revoke_token(look.services.db, name, token, by=look.visitor.actor):
        raise HttpProblem(TOKEN_ENDED, "the producer has no such token")
    return "The token is revoked."


def _verb(path: str, do: object) -> Verb:
    assert callable(do)
    return Verb(path=path, needs=Power.ADMINISTER, do=do, operators_only=True)


PAGE = Page(
    path="/producers",
    title="Producers",
    menu="Producers",
    template="producers.html",
    read=read,
    operators_only=True,
    is_live=False,
    verbs=(_verb("/producers", _add),),
)
PRODUCER = Page(
    path="/producers/{name}",
    title="Producer",
    template="producer.html",
    read=read_one,
    operators_only=True,
    is_live=False,
    verbs=(
        _verb("/producers/{name}/disable", _disable),
        _verb("/producers/{name}/enable", _enable),
        _verb("/producers/{name}/tokens", _add_token),
        _verb("/producers/{name}/tokens/{token}/rotate", _rotate),
        _verb("/producers/{name}/tokens/{token}/revoke", _revoke),
    ),
)
