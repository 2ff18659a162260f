"""Names: what a reader sees is what is there, in whatever language it is written."""

import unicodedata

import pytest

from service.rules.names import hidden_in, trouble_with

HIDDEN = {
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    *"\u00ad\u200b\u2028\u2029\u2060\ufeff",
    *"\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufff0\U0001bca0\U0001d173",  # seem empty
}

ORDINARY = [
    "request-1",
    "with a space",
    "no-break\u00a0space",
    "全角\u3000空白",
    "é e\u0301 ñ ß",
    "请求-42 リクエスト 요청",
    "запрос طلب בקשה",
    "می\u200cشود",  # a joiner between Persian letters
    "क्\u200dष",
    "👩\u200d👩\u200d👧 ❤\ufe0f 👍🏽 🇫🇷",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # flag of England
    "\ue000 private",
    "",
]


@pytest.mark.parametrize("character", sorted(HIDDEN))
def test_a_character_that_nobody_sees_is_found_wherever_it_stands(character: str) -> None:
    code = f"U+{ord(character):04X}"
    for name in (character, f"a{character}", f"{character}a", f"é{character}请"):
        assert (hidden_in(name) or "").startswith(code)
        assert code in (trouble_with(name) or "")


@pytest.mark.parametrize("name", ORDINARY)
def test_a_name_in_any_language_is_fine(name: str) -> None:
    assert hidden_in(name) is None
    assert trouble_with(name) is None


@pytest.mark.parametrize("name", ["ab\u200dc", "\u200cab", "a\U000e0061\U000e0062", "\U000e0001"])
def test_a_joiner_or_a_tag_has_its_place(name: str) -> None:
    assert hidden_in(name) is not None


def test_every_control_character_and_direction_mark_of_unicode_is_found() -> None:
    marks = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) in {"Cc", "Zl", "Zp"} or (
            unicodedata.bidirectional(character) in marks
        ):
            assert hidden_in(character), f"U+{code:04X}"
