"""What the console's tests and pictures show: work of every kind, and troubles of every kind.

Every text that a producer or a provider can choose tries to be HTML.
"""

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID, uuid4

from service.rules.lanes import Failure, Trouble
from service.rules.outcomes import Park, Usage
from service.rules.states import Stage
from service.store.heartbeats import beat
from service.store.producers import add_credential, add_producer
from tests.api import Api
from tests.factories import ill_lane, settlement

EVIL = "<img src=x class=evil onerror=alert(1)>\"'><script class=evil>alert(2)</script>"
"""Becomes elements of the class `evil` wherever it is not escaped."""
MODELS = (
    "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "Qwen/Qwen3-235B-A22B-Instruct-2507-tput",
    "openai/gpt-oss-120b",
)


class World:
    """Rows behind a running API, and the names by which tests find them."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._rows = api.harness
        add_producer(api.db, "billing", usd_per_day=Decimal(20), usd_per_month=Decimal(300))
        add_producer(api.db, "search")
        self.producers_token = add_credential(api.db, "billing").text
        self._processes()
        self.done = self._done()
        self.running = self._running()
        self.parked = self._parked()
        self.held = self._held()
        self.late = self._late()
        self.lane = self._ill_lane()
        self._blocked_account()
        self._dead_notice(self.done)
        self._older()

    def _processes(self) -> None:
        for kind in ("worker", "scheduler"):
            beat(
                self._api.db,
                name=f"{kind}@host",
                kind=kind,
                host="host-7",
                pid=4242,
                queues=["transfer", "control"] if kind == "worker" else [],
                slots=4 if kind == "worker" else 0,
            )
        self._rows.run("UPDATE haulier.heartbeats SET seen_at = now() + interval '1 hour'")

    def _done(self) -> UUID:
        """A job that is done, with some failures."""
        batch_id = self._rows.queued(40, producer="billing", metadata={"team": EVIL, EVIL: "run"})
        self._rows.settle(
            batch_id, settlement(34, dead=range(6), usage=Usage(2_000_000, 900_000, 2_900_000))
        )
        job_id = self._rows.part(batch_id).job_id
        self._api.assemble(job_id)
        self._rows.run(
            "UPDATE haulier.dead_letters SET message = :evil, custom_id = :short, cause = :evil"
            " WHERE job_id = :job AND ordinal < 3",
            evil=EVIL,
            short=EVIL[:60],
            job=job_id,
        )
        return job_id

    def _running(self) -> UUID:
        """A job with two shards, of which one is done."""
        first, *_ = self._rows.split(3000, 2000, producer="search", metadata={"team": "search"})
        self._rows.settle(
            first, settlement(2980, dead=range(20), usage=Usage(9_000_000, 4_000_000, 13_000_000))
        )
        return self._rows.part(first).job_id

    def _parked(self) -> UUID:
        """A job whose batch waits for an operator."""
        batch_id = self._rows.created(120, producer="billing")
        self.parked_batch = batch_id
        self._rows.due_now(batch_id)
        self._rows.apply(self._rows.claim(batch_id, Stage.POLL), Park(f"404: no batch {EVIL}"))
        return self._rows.part(batch_id).job_id

    def _held(self) -> UUID:
        """A job that is held since its canary failed."""
        job_id = self._rows.submitted(500, producer="search")
        self._rows.run(
            "UPDATE haulier.jobs SET held = 'canary', held_at = now(), canary = 10,"
            " canary_failures = 1, failed = 8, pending = 492 WHERE id = :job",
            job=job_id,
        )
        return job_id

    def _late(self) -> UUID:
        """A job that will miss its deadline."""
        job_id = self._rows.submitted(900, producer="billing")
        self._rows.run(
            "UPDATE haulier.jobs SET deadline = now() + interval '20 minutes',"
            " on_deadline = 'report', deadline_look_at = now() + interval '1 day',"
            " deadline_at_risk_since = now() - interval '5 minutes' WHERE id = :job",
            job=job_id,
        )
        return job_id

    def _ill_lane(self) -> str:
        now = self._rows.rows("SELECT now()")[0]
        found = Failure(
            batch=uuid4(),
            at=now,
            kind=Trouble.LINES,
            text=f"internal error {EVIL}",
            lines=40,
            producer="billing",
            jobs=(self.done,),
        )
        return ill_lane(self._api.db, EVIL, failures=(found,))

    def _blocked_account(self) -> None:
        self._rows.run(
            "INSERT INTO haulier.accounts (name, paused_until, blocked_since, reason) VALUES"
            " ('research', now() + interval '1 hour', now() - interval '2 hours', :reason)",
            reason=f"402: credit limit reached {EVIL}",
        )

    def _dead_notice(self, job_id: UUID) -> None:
        self._rows.run(
            "INSERT INTO haulier.deliveries (id, job_id, event, target, endpoint, tries,"
            " last_error, parked_at) VALUES (gen_random_uuid(), :job, 'completed',"
            " CAST(:target AS jsonb), 'hooks.example.com:443', 40, :evil, now())",
            job=job_id,
            target='{"webhook": "https://hooks.example.com/done"}',
            evil=f"503: {EVIL}",
        )

    def _older(self) -> None:
        """More finished jobs, so that the list has several pages."""
        ids: Sequence[UUID] = [self._rows.submitted(7, producer="search") for _ in range(60)]
        self._rows.run(
            "WITH numbered AS (SELECT id, row_number() OVER (ORDER BY id) AS place"
            " FROM haulier.jobs WHERE id = ANY(:ids))"
            " UPDATE haulier.jobs j SET created_at = now() - place * interval '137 minutes'"
            " FROM numbered n WHERE n.id = j.id",
            ids=list(ids),
        )
