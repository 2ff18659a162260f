"""Alert rules, dashboard and runbooks: they fit each other and what a service exports."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.api import Api
from tests.prometheus import (
    OBSERVABILITY,
    RULES,
    needs_prometheus,
    needs_promtool,
    promtool,
    scraping,
)

RUNBOOKS = OBSERVABILITY.parents[1] / "docs" / "runbooks"
PARTS = [
    "## What it means",
    "## What it costs",
    "## How to look",
    "## What to do",
    "## How to know that it is over",
]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        (OBSERVABILITY / "haulier.dashboard.json").read_text()
    )["panels"]
    return found


def queries() -> dict[str, str]:
    """Every expression of the dashboard and of the alerts, by where it stands."""
    found = {alert["alert"]: alert["expr"] for alert in alerts()}
    for panel in panels():
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


@needs_promtool
def test_the_rules_are_sound_and_fire_when_they_should() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(OBSERVABILITY / "haulier.rules.test.yml"))


def test_every_alert_has_a_unit_test() -> None:
    tested = yaml.safe_load((OBSERVABILITY / "haulier.rules.test.yml").read_text())["tests"]

    assert [one["name"] for one in tested] == [alert["alert"] for alert in alerts()]


def test_every_alert_leads_to_a_page_and_every_page_belongs_to_one() -> None:
    leads = {alert["alert"]: alert["annotations"]["runbook_url"] for alert in alerts()}
    pages = {f"runbooks/{page.stem}.html" for page in RUNBOOKS.glob("*.md")}

    assert sorted(leads.values()) == sorted(pages - {"runbooks/index.html"})
    for name, url in leads.items():
        page = (RUNBOOKS / f"{Path(url).stem}.md").read_text()
        assert page.startswith(f"# {name}\n")
        assert [line for line in page.splitlines() if line.startswith("## ")] == PARTS
        assert f"{Path(url).stem}.md" in (RUNBOOKS / "index.md").read_text()


def test_every_metric_that_is_asked_for_is_exported(api: Api) -> None:
    text = httpx.get(f"{api.url}/metrics", trust_env=False).text
    exported = set(re.findall(r"^(haulier_\w+)", text, re.MULTILINE))
    # Told by workers, of which none runs here.
    exported |= {"haulier_scratch_free_bytes", "haulier_heartbeat_age_seconds"}
    # Told of lanes, of which none has had a forecast here.
    exported |= {"haulier_forecasts_in_time_total", "haulier_forecasts_ended_total"}
    asked = {
        (place, name)
        for place, expression in queries().items()
        for name in re.findall(r"haulier_\w+", expression)
    }

    assert not {(place, name) for place, name in asked if name not in exported}


@needs_prometheus
def test_prometheus_understands_every_expression(api: Api, tmp_path: Path) -> None:
    with scraping(api.url.removeprefix("http://"), tmp_path / "prometheus") as prometheus:
        for place, expression in queries().items():
            assert isinstance(prometheus.value(_filled(expression)), list), place


def _filled(expression: str) -> str:
    """With Grafana's own variables as they would be."""
    return expression.replace("$__rate_interval", "1m").replace("$__range", "1h")


@pytest.mark.parametrize("severity", ["page", "ticket"])
def test_an_alert_that_wakes_somebody_has_a_time_in_which_it_may_pass(severity: str) -> None:
    chosen = [alert for alert in alerts() if alert["labels"]["severity"] == severity]

    assert chosen
    if severity == "page":
        assert [alert["alert"] for alert in chosen if "for" not in alert] == []
