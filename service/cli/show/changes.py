"""What a dry run says."""

from service.cli.documents import Change, Preview
from service.cli.screen import Screen, clean


def tell_changes(screen: Screen, preview: Preview) -> None:
    """Write each change that a verb would make, and that it made none."""
    for change in preview.changes:
        screen.line(clean(f"Would {change.verb} {change.object}: {_words(change)}"))
    screen.line("Nothing was changed: this was a dry run.")


def _words(change: Change) -> str:
    before, after = change.before or {}, change.after or {}
    words = [
        f"{name} {_text(before[name])}"
        if name in before and before[name] == after.get(name, before[name])
        else f"{name} {_text(before[name])} → {_text(after.get(name))}"
        if name in before
        else f"{name} {_text(after[name])}"
        for name in dict.fromkeys((*before, *after))
    ]
    return ", ".join(words) or "no detail"


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
    return str(value)
