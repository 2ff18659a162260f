"""The list of crash points in docs/reliability.md, made from the code.

To write it anew: python -m tests.faults.crash_point_list
"""

import inspect
import re
from pathlib import Path

from service.rules import crashpoints
from service.rules.crashpoints import CrashPoint

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- crash points -->", "<!-- end -->"

_MEMBER = re.compile(r'^    (\w+) = "([a-z.]+)"  # (.+)$', re.MULTILINE)


def from_code() -> str:
    """The enum's names and comments as a table."""
    members = _MEMBER.findall(inspect.getsource(crashpoints))
    assert [CrashPoint[name] for name, _, _ in members] == list(CrashPoint)
    rows = "".join(f"| `{value}` | {comment} |\n" for _, value, comment in members)
    return f"\n| point | what has just happened |\n| --- | --- |\n{rows}"


def from_document() -> str:
    """What the document says."""
    return DOCUMENT.read_text().split(BEGIN, 1)[1].split(END, 1)[0]


if __name__ == "__main__":
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + from_code() + END + rest.partition(END)[2])
