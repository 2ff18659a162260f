"""Every command and snippet of the tutorial and the guides, as a reader runs them.

`haulier up --simulate` runs once for all pages, on a free port, with its home linked into each
page's folder: `. ./.haulier/env` finds it there, as it would beside a reader's own. The pages run
side by side, since most of their time is waiting.
"""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.docs.reference import ROOT
from tests.docs.snippets import script

DOCS = ROOT / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]


def test_every_page_does_what_it_says(
    home_of_up: Path, environment_of_a_reader: dict[str, str], tmp_path: Path
) -> None:
    def read(page: Path) -> tuple[str, int, str]:
        folder = tmp_path / page.stem
        folder.mkdir()
        (folder / ".haulier").symlink_to(home_of_up)
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", script(page)],
            cwd=folder,
            env=environment_of_a_reader,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,  # all pages share the processors, with other tests too
            check=False,
        )
        return str(page.relative_to(DOCS)), done.returncode, done.stdout

    with ThreadPoolExecutor(len(PAGES)) as readers:
        read_pages = list(readers.map(read, PAGES))

    failed = [name for name, status, _ in read_pages if status]
    for name, _, output in read_pages:
        if name in failed or not failed:
            print(f"--- {name}\n{output}")
    assert not failed
    everything = "".join(output for _, _, output in read_pages)
    assert "Traceback" not in everything
    # What a page shows as refused is bad input, and not an API that is away.
    assert set(re.findall(r"^refused, with exit status (\d+)$", everything, re.MULTILINE)) == {"2"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_has_commands_and_a_reason_for_each_that_is_not_run(page: Path) -> None:
    assert len(script(page).splitlines()) >= 3


@pytest.mark.parametrize(
    "page",
    [
        "```console\n$ haulier jobs\n```\n",
        "<!-- not run: no block follows -->\n\n```bash\nhaulier jobs\n```\n",
        "<!-- not run -->\n```bash\nhaulier jobs\n```\n",
    ],
)
def test_a_block_that_is_neither_run_nor_excused_is_found(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(page)

    with pytest.raises(ValueError, match="run"):
        script(tmp_path / "page.md")
