"""The simulator's parts in one place: what an operation works with."""

import asyncio
from pathlib import Path

import msgspec

from service.simulator import wire
from service.simulator.calls import CallLog
from service.simulator.engine import Engine
from service.simulator.faults import Faults, Holds
from service.simulator.outages import declared
from service.simulator.scenario import Scenario
from service.simulator.storage import Storage


class Simulation:
    """State on disk, batches under way, and what shall go wrong."""

    def __init__(self, root: Path, *, batch_seconds: float, scenario: Scenario | None) -> None:
        """`scenario` None: the one last saved under `root`, if any. Faults are never saved."""
        self.storage = Storage(root)
        self.faults = Faults()
        self.holds = Holds()
        self.calls = CallLog()
        self.scenario = scenario or self.storage.saved_scenario() or Scenario()
        outages = declared(self.scenario.outages, wire.now())
        self.scenario = msgspec.structs.replace(self.scenario, outages=outages)
        self.faults.arm(self.scenario.faults)
        self._initial = scenario or Scenario()
        self._batch_seconds = batch_seconds
        self.engine = Engine(self.storage, lambda: self.scenario)

    @property
    def batch_seconds(self) -> float:
        """How long a batch executes if no rule says otherwise."""
        chosen = self.scenario.switches.batch_seconds
        return self._batch_seconds if chosen is None else chosen

    def play(self, scenario: Scenario) -> None:
        """Follow another scenario from now on; its faults take the place of all others."""
        self.faults.clear()
        self.faults.arm(scenario.faults)
        self.follow(scenario)

    def follow(self, scenario: Scenario) -> None:
        """Take up switches, keys and rules, and leave the queue of faults as it is."""
        outages = declared(scenario.outages, wire.now())
        scenario = msgspec.structs.replace(scenario, outages=outages)
        self.scenario = scenario
        self.storage.save_scenario(scenario)

    async def reset(self) -> None:
        """Forget all that happened and go back to the scenario of the start."""
        self.holds.release(answered=False)
        await self.engine.stop()
        await asyncio.to_thread(self.storage.clear)
        self.calls.clear()
        self.play(self._initial)

    async def close(self) -> None:
        """Stop; what is unfinished goes on at the next start."""
        self.holds.release(answered=False)
        await self.engine.close()
        self.storage.close()
