"""The snippets of a page as one script, as a reader would go through it.

Commands (```bash) are typed one after another into one shell, in an empty folder. A ```python
block with a title is saved under that name; one without is run. A block is passed over if the line
before it is `<!-- not run: reason -->`, which readers do not see.
"""

import re
from pathlib import Path

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r'^```(?P<language>bash|console|sh|python)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


def script(page: Path) -> str:
    """What bash is to run. Raises ValueError for a block that would be neither run nor excused."""
    text = page.read_text()
    blocks = list(_BLOCK.finditer(text))
    if text.count("<!-- not run") != sum(block["reason"] is not None for block in blocks):
        raise ValueError("`<!-- not run: reason -->` without a reason, or not right before a block")
    return "\n".join(_commands(block) for block in blocks if block["reason"] is None)


def titled(page: Path) -> dict[str, str]:
    """The page's Python programs that have a title, run or not, by that title."""
    blocks = _BLOCK.finditer(page.read_text())
    return {block["title"]: block["text"] for block in blocks if block["title"]}


def _commands(block: re.Match[str]) -> str:
    match block["language"], block["title"]:
        case "bash", None:
            return block["text"]
        case "python", None:
            return f"python - <<'END OF SNIPPET'\n{block['text']}END OF SNIPPET\n"
        case "python", title:
            return f"cat > {title} <<'END OF SNIPPET'\n{block['text']}END OF SNIPPET\n"
        case language, _:
            raise ValueError(f"```{language} is not run; use ```bash: {block['text']}")
