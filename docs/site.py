"""What `make docs` does to the pages beyond Markdown.

Links into the sources lead out of the site: each is checked, and shown as the path alone. Long
names in tables may break behind an underscore, so that a table fits a narrow screen. Pages with
charts get the script that draws them.
"""

import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)\s#]+)(?:#[^)]*)?\)")
PAGES = {ROOT / "client" / "README.md": "client.md", ROOT / "docs" / "index.md": "index.md"}
"""Files outside of docs/ that are pages of the site."""
CELL_CODE = re.compile(r"(<td[^>]*>.*?</td>)", re.DOTALL)
CODE = re.compile(r"<code>([^<]*)</code>")
OPTION = re.compile(r"(?<=[ >])--[a-z-]+(?=[^<>]*</code>)")


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Replace links into the sources. Raises PluginError for one that leads nowhere."""
    source = Path(page.file.abs_src_path or "").parent

    def replaced(link: re.Match[str]) -> str:
        target = (source / link[2]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return link[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri}: {link[2]} does not exist")
        if target in PAGES:
            return f"[{link[1]}]({'../' * page.file.src_uri.count('/')}{PAGES[target]})"
        return link[1]

    return LINK.sub(replaced, markdown)


def on_page_content(html: str, *, page: Page, **_: object) -> str:
    """Let long names in table cells break behind `_`, `.`, `/` and `:`, and keep options whole.

    A page with charts gets Mermaid; without it, the theme would fetch it from the network.
    """

    def cell(found: re.Match[str]) -> str:
        return CODE.sub(lambda c: f"<code>{_breakable(c[1])}</code>", found[1])

    html = CELL_CODE.sub(cell, html)
    html = OPTION.sub(r'<span class="option">\g<0></span>', html)
    if 'class="mermaid"' in html:
        root = "../" * page.file.src_uri.count("/")
        html += f'\n<script src="{root}assets/mermaid.min.js"></script>'
    return html


def _breakable(code: str) -> str:
    return re.sub(r"(?<=[_./:])(?=\w)", "<wbr>", code)
