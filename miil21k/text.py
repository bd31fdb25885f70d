"""Text to show: from elsewhere (file names, cards, archives) made safe, values made short, the name that was meant."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["brief", "did_you_mean", "duration", "near_names", "printable"]

# Python calls no space but U+0020 printable. The two joiners shape Persian words and emoji, and move nothing.
_ALLOWED = frozenset(
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\u200c\u200d"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object, *, lines: bool = False) -> str:
    r"""Return `text` with every character that a terminal acts on written out: `\x1b`, `\u202e`, `\n`.

    Those are control characters, among them the one that begins colours and cursor moves; what turns the direction of
    writing or cannot be seen; what no font has; and bytes of a file name that are no UTF-8, as `\xff`. Letters, marks
    and spaces of every script stay. lines: line breaks stay, and what follows one is indented, so that no file name
    can begin a line of its own.
    """
    text = str(text)
    if text.isprintable():
        return text
    if lines:
        return "\n  ".join(printable(line) for line in text.split("\n"))
    return "".join(c if c.isprintable() or c in _ALLOWED else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that it could not decode
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def brief(value: Any, *, most: int = 48) -> str:
    """Return the short `repr` of a dataclass: its name, and the fields that are not their defaults.

    What takes more than `most` characters is cut; of an array, type and shape are shown. For use as `__repr__`.
    """
    assert is_dataclass(value)
    shown = []
    for field in fields(value):
        content = getattr(value, field.name)
        usual = field.default if field.default_factory is MISSING else field.default_factory()
        if content is not usual and not (type(content) is type(usual) and bool(content == usual)):
            shown.append(f"{field.name}={_cut(content, most)}")
    return f"{type(value).__name__}({', '.join(shown)})"


def _cut(content: Any, most: int) -> str:
    if hasattr(content, "dtype") and hasattr(content, "shape"):
        return f"<{content.dtype} {tuple(content.shape)}>"
    words, _, further = repr(content).partition("\n")
    return words if len(words) <= most and not further else f"{words[: most - 3]}..."


def near_names(word: str, known: Iterable[str], *, most: int = 3, alike: float = 0.6) -> list[str]:
    """Return up to `most` of the `known` names that `word` may be a misspelling of, the nearest first.

    alike: the least share of characters in common, between 0 and 1, as `difflib.SequenceMatcher.ratio` counts it.
    """
    import difflib

    folded: dict[str, str] = {}
    for name in known:
        folded.setdefault(name.casefold(), name)
    return [folded[name] for name in difflib.get_close_matches(word.casefold(), folded, n=most, cutoff=alike)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" to be put behind the sentence that refuses `word`, or "" when nothing is near."""
    near = near_names(word, known, most=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def duration(seconds: float) -> str:
    """Return a length of time in words, in the largest unit of which there are two."""
    for least, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * least:
            return f"{seconds / least:.0f} {unit}"
    whole = max(1, round(seconds))
    return f"{whole} second{'' if whole == 1 else 's'}"
