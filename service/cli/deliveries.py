"""A job's notices, and sending one again."""

from uuid import UUID

from service.cli.listing import listed
from service.cli.screen import Column, output
from service.cli.session import connected


def deliveries(job_id: UUID, *, as_json: bool) -> None:
    """The command: oldest first."""
    with connected() as client:
        listed(
            client.deliveries(job_id),
            (
                *(Column("delivery"), Column("event"), Column("state")),
                *(Column("tries", number=True), Column("to"), Column("last error", wrap=True)),
            ),
            lambda delivery: (
                *(delivery.id, delivery.event, delivery.state, delivery.tries),
                *(delivery.to, delivery.last_error),
            ),
            as_json=as_json,
        )


def redeliver(job_id: UUID, delivery_id: UUID, *, as_json: bool) -> None:
    """The command."""
    with connected() as client:
        document = client.redeliver(job_id, delivery_id)
        if as_json:
            output().line(document.line)
        else:
            output().line(f"Delivery {delivery_id} to {document.value.to} is sent again.")
