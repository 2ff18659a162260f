"""Templates, and what all of them may use."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from config.settings import Settings
from service.api.console import assets, wording

ROOT = "/console"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        ago=wording.ago,
        brief=wording.brief,
        exactly=wording.exactly,
        figure=wording.figure,
        plural=wording.plural,
        size=wording.size,
        span=wording.span,
        timed=wording.timed,
        usd=wording.usd,
    )
    return made


def draw(template: str, settings: Settings, values: Mapping[str, Any]) -> str:
    """Return a template filled with values."""
    prefix = below(settings)

    def url(*parts: object, **query: object) -> str:
        """The address of a page: `url("jobs", id, q="state:running")`."""
        path = "/".join(quote(str(part), safe="") for part in parts)
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return f"{prefix}/{path}" + (f"?{asked}" if asked else "")

    def asset(name: str) -> str:
        return f"{prefix}/assets/{assets.address(name)}"

    found = _environment().get_template(template)
    return found.render(**values, url=url, asset=asset)


def below(settings: Settings) -> str:
    """Return the path below which browsers find the console."""
    return urlsplit(settings.public_url or "").path + ROOT
