"""The Batch API: create, retrieve, list, cancel."""

import asyncio
import functools
import random
import re
from typing import Any
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.simulator import wire
from service.simulator.operations import Call
from service.simulator.outages import Outage, lasting
from service.simulator.rows import TERMINAL, BatchRow
from service.simulator.simulation import Simulation
from service.simulator.validation import first_model


class CreateBatch(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a create; what else it has is ignored."""

    endpoint: str
    input_file_id: str
    model_id: str | None = None


async def create_targets(simulation: Simulation, request: Request) -> tuple[str, ...]:
    """The input file's id and name and its first model, for faults that aim at them."""
    try:
        wanted = msgspec.json.decode(await request.body(), type=CreateBatch)
    except msgspec.DecodeError:
        return ()
    file = simulation.storage.file(wanted.input_file_id)
    if file is None:
        return (wanted.input_file_id,)
    model = first_model(simulation.storage.path(wanted.input_file_id))
    return (wanted.input_file_id, file.filename, *([model] if model else []))


def _outage(simulation: Simulation, file_id: str) -> Outage | None:
    """The outage that keeps a batch of this file from being created."""
    found = lasting(simulation.scenario.outages, "creates", wire.now())
    model = first_model(simulation.storage.path(file_id)) if found else None
    return next((outage for outage in found if outage.hits_model(model)), None)


async def create(simulation: Simulation, call: Call) -> Response:
    """POST /v1/batches."""
    try:
        wanted = msgspec.json.decode(await call.request.body(), type=CreateBatch)
    except msgspec.DecodeError as error:
        return wire.string_error(400, f"Invalid request body: {error}")
    if wanted.endpoint not in wire.ENDPOINTS:
        return wire.string_error(400, f"Invalid endpoint: {wanted.endpoint}")
    switches = simulation.scenario.switches
    file = simulation.storage.file(wanted.input_file_id, account=call.account)
    outage = await asyncio.to_thread(_outage, simulation, wanted.input_file_id)
    if outage is not None:
        return wire.string_error(outage.status, outage.message)
    if file is None and switches.refuse_unknown_file:
        return wire.string_error(400, f"Input file not found: {wanted.input_file_id}")
    filename = file.filename if file else ""
    rules = [
        (
            rule,
            rule.key in (None, call.key)
            and (rule.file_name is None or re.search(rule.file_name, filename) is not None),
        )
        for rule in simulation.scenario.batches
    ]
    batch = await asyncio.to_thread(
        functools.partial(
            simulation.storage.add_batch,
            id=str(uuid4()),
            account=call.account,
            input_file_id=wanted.input_file_id,
            endpoint=wanted.endpoint,
            model_id=wanted.model_id,
            file_size_bytes=file.bytes if file else 0,
            seconds=simulation.batch_seconds,
            rules=rules,
        )
    )
    simulation.engine.run(batch.id)
    shown = None if switches.job_null_on_create else _job(simulation, batch)
    created: dict[str, object] = {"job": shown}
    if switches.create_warning is not None:
        created["warning"] = switches.create_warning
    return wire.answer(created, 201)


async def retrieve(simulation: Simulation, call: Call) -> Response:
    """GET /v1/batches/{id}."""
    batch = _asked_for(simulation, call)
    if batch is None:
        return wire.string_error(404, "Job not found")
    return wire.answer(await _looked_at(simulation, batch))


async def list_all(simulation: Simulation, call: Call) -> Response:
    """GET /v1/batches: a bare array, or null when there is none."""
    switches = simulation.scenario.switches
    latest = wire.now() - switches.list_lag_seconds
    batches = [row for row in simulation.storage.batches(call.account) if row.created_at <= latest]
    match switches.list_order:
        case "shuffled":
            random.shuffle(batches)
        case "newest":
            batches.reverse()
        case "oldest":
            pass
    jobs: list[Any] = [await _looked_at(simulation, batch) for batch in batches]
    if switches.odd_types and jobs:
        jobs[:0] = [None, {"object": "alien", "id": 7}, "text"]
    return wire.answer(jobs or None)


async def cancel(simulation: Simulation, call: Call) -> Response:
    """POST /v1/batches/{id}/cancel."""
    batch = _asked_for(simulation, call)
    if batch is None:
        return wire.string_error(404, "Job not found")
    now = wire.now()
    cancelled = await asyncio.to_thread(
        functools.partial(
            simulation.storage.cancel_batch,
            batch.id,
            at=now,
            share=wire.share_done(batch, now=now),
        )
    )
    after = simulation.storage.batch(batch.id) or batch
    if after.status in TERMINAL:
        return wire.string_error(409, f"Job cannot be cancelled in status {after.status}")
    if cancelled:
        simulation.engine.notice_cancel(batch.id)
    return wire.answer(_job(simulation, after))


def _asked_for(simulation: Simulation, call: Call) -> BatchRow | None:
    batch_id = str(call.request.path_params["batch_id"])
    return simulation.storage.batch(batch_id, account=call.account)


async def _looked_at(simulation: Simulation, batch: BatchRow) -> wire.Job:
    """Show a batch, without its files for its first terminal reads if the switch says so."""
    held_back = simulation.scenario.switches.terminal_reads_without_files
    if held_back <= batch.terminal_reads or batch.status not in TERMINAL:
        return _job(simulation, batch)
    reads = await asyncio.to_thread(simulation.storage.count_terminal_read, batch.id)
    return _job(simulation, batch, files_ready=reads >= held_back)


def _job(simulation: Simulation, batch: BatchRow, *, files_ready: bool = True) -> wire.Job:
    return wire.job(
        batch,
        simulation.scenario.switches,
        now=wire.now(),
        files_ready=files_ready,
    )
