"""docs/simulator.md says what there is."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from service.simulator import control, scenario

DOCUMENT = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text()
STRUCTS: list[type[msgspec.Struct]] = [
    scenario.Scenario,
    scenario.Switches,
    scenario.LineRule,
    scenario.BatchRule,
    *get_args(scenario.AnyFault),
]
NAMES = {name for struct in STRUCTS for name in struct.__struct_fields__}
VALUES = {*get_args(scenario.Operation), *get_args(scenario.LineEffect)}


@pytest.mark.parametrize("name", sorted(NAMES | VALUES))
def test_every_field_operation_and_effect_is_documented(name: str) -> None:
    assert f"`{name}`" in DOCUMENT


def test_every_control_is_documented() -> None:
    paths = set(re.findall(r'"(?:GET|PUT|POST|PATCH|DELETE)", "(\w+)"', control_source()))
    assert paths
    assert [path for path in paths if f"/_control/{path}`" not in DOCUMENT] == []


def test_the_examples_are_scenarios() -> None:
    examples = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    played = [scenario.parse(one.encode(), source="docs/simulator.md") for one in examples]
    assert max(len(one.faults) for one in played) == 4


def control_source() -> str:
    return Path(control.__file__).read_text()
