"""Producers and their tokens: for operators."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, StringConstraints

from service.api.auth import ADMIN
from service.api.openapi import problem
from service.api.problems import NAME_TAKEN, HttpProblem
from service.api.schemas import NewProducerView
from service.api.services import Uses
from service.errors import Conflict
from service.store.producers import add_producer as add

router = APIRouter(dependencies=[ADMIN])

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class NewProducer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name


@router.post(
    "/producers", status_code=201, responses={409: problem("There is a producer of this name")}
)
def add_producer(services: Uses, asked: NewProducer) -> NewProducerView:
    """Add a producer; its first token is shown this once."""
    try:
        token = add(services.db, asked.name)
    except Conflict as error:
        raise HttpProblem(NAME_TAKEN, str(error)) from None
    return NewProducerView(name=asked.name, token=token.text)
