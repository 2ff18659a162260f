"""`haulier audit`, as a process against a real API."""

import os
from pathlib import Path

from tests.api import TOKEN, Api
from tests.cli import Cli


def test_an_operator_reads_what_operators_did(api: Api, tmp_path: Path) -> None:
    cli = Cli(api.url, tmp_path, dict(os.environ, HAULIER_TOKEN=TOKEN))
    api.http.post("/v1/producers", json={"name": "billing"})
    api.http.patch("/v1/producers/billing", json={"open_requests": 5})

    shown = cli("audit", "--limit", "2").out
    assert "producers/billing" in shown
    assert "open_requests=5" in shown
    (line,) = cli("audit", "--json", "--verb", "change", "--object", "producers/billing").documents
    assert (line["actor"], line["after"]) == ("admin", {"open_requests": 5})
    assert cli("audit", "--since", "lately").status == 2
