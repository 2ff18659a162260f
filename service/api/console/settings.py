"""Settings as this process of the API has them; secrets are only said to be set."""

from pydantic import SecretStr

from config.settings import Settings
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page

HIDDEN = {"database_url", "redis_url"}
"""They hold passwords beside what may be shown."""


def read(look: Look) -> Shown:
    settings = look.services.settings
    return {
        "settings": [
            (
                _variable(name),
                _shown(name, getattr(settings, name)),
                name in settings.model_fields_set,
            )
            for name in sorted(Settings.model_fields)
        ]
    }


def _variable(name: str) -> str:
    alias = Settings.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else f"HAULIER_{name.upper()}"


def _shown(name: str, value: object) -> str:
    if value is None or value in ((), {}):
        return ""
    if name in HIDDEN or isinstance(value, SecretStr):
        return "set, hidden"
    if name == "accounts" and isinstance(value, dict):
        return ", ".join(sorted(map(str, value)))
    if isinstance(value, dict):
        return ", ".join(sorted(map(str, value)))[:1000]
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return str(value)


PAGE = Page(
    path="/settings",
    title="Settings",
    menu="Settings",
    template="settings.html",
    read=read,
    operators_only=True,
    is_live=False,
)
