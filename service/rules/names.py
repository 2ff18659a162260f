"""Characters that have no place in a name: nobody sees them, or a terminal obeys them.

A name is what people read in lists and type in commands: a custom_id, a model, a key of metadata,
an idempotency key, a producer.
"""

import re

# Control characters, separators of lines, marks that turn the direction of writing, and characters
# without width. Some of these mean something in their place: a joiner behind a letter (Persian) or
# behind an emoji, and tags behind a black flag.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff0-\ufffb"
    # Letters and marks by their class, but nothing on a screen: fillers, and signs of notation.
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U0001bca0-\U0001bca3\U0001d173-\U0001d17a]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]"
    "|(?<![\U0001f3f4\U000e0020-\U000e007e])[\U000e0000-\U000e007f]"
)


def hidden_in(name: str) -> str | None:
    """Return the first character of a name that has no place in it, as `U+202E`, or None."""
    if name.isascii() and name.isprintable():  # much faster, and true of nearly every name
        return None
    found = _HIDDEN.search(name)
    if found is None:
        return None
    return "U+0000 (NUL)" if found[0] == "\0" else f"U+{ord(found[0]):04X}"


def trouble_with(name: str) -> str | None:
    """Return what is wrong with a name, to stand behind what it names, or None."""
    found = hidden_in(name)
    return f"holds {found}, a control or invisible character: leave it out" if found else None
