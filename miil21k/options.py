"""An option, declared once: a field of a frozen dataclass that says what it means, its limits and how it is spelt.

The command line (`miil21k.cli.options`), the docstring of the class (`described`), the tables of the docs and the
checks at construction (`check`) read the same declaration:

```python
@described
@dataclass(frozen=True)
class ReadingOptions:
    \"\"\"How images are read.\"\"\"

    max_pixels: int = option(MAX_PIXELS, "refuse larger images", metavar="N", least=1)

    def __post_init__(self) -> None:
        check(self)
```
"""

from __future__ import annotations

import operator
from dataclasses import MISSING, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from miil21k.errors import UsageError
from miil21k.text import brief, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from dataclasses import Field

__all__ = ["Instead", "Option", "check", "declared", "described", "option", "option_again", "option_of"]

ClassT = TypeVar("ClassT", bound=type)


class Instead(NamedTuple):
    """A flag that stands for one value of an option. meaning: what it does, for the help."""

    value: Any
    meaning: str


class Option(NamedTuple):
    """What a field says about itself.

    meaning: one line. flags: how the command line spells it, in order; empty where it has no spelling that takes a
    value. instead: further flags, each for one value. metavar: what stands for the value in the help. choices: what it
    may be, or a function that says it, for tables that are costly to import. least, most: the bounds of a number;
    above, below: bounds that it may not reach. parse: from a word of the command line, where the type does not say it;
    parsed: what such a word may be besides, the end of the meaning there.
    repeats: the flag may be given several times. one_of: options with the same word exclude each other.
    """

    meaning: str
    flags: tuple[str, ...] = ()
    instead: Mapping[str, Instead] = {}
    metavar: str | None = None
    choices: Collection[str] | Callable[[], Collection[str]] | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    parse: Callable[[str], Any] | None = None
    parsed: str = ""
    repeats: bool = False
    one_of: str | None = None

    def allowed(self) -> tuple[str, ...] | None:
        """Return the values among which one chooses; None where any of the type will do."""
        if self.choices is None:
            return None
        return tuple(self.choices() if callable(self.choices) else self.choices)

    def refusal(self, value: Any) -> str | None:
        """Return what is wrong with `value`, to be put behind its name; None when it may be taken."""
        allowed = self.allowed()
        if allowed is not None:
            if value in allowed:
                return None
            near = did_you_mean(str(value), allowed)
            return f"must be {' or '.join(allowed)}, not '{value}'" + (f".{near}" if near else "")
        return None if self._fits(value) else f"{self._bounds()}, not {value}"

    def _fits(self, value: Any) -> bool:
        bounds = (
            (self.least, operator.ge),
            (self.above, operator.gt),
            (self.most, operator.le),
            (self.below, operator.lt),
        )
        given = [(bound, holds) for bound, holds in bounds if bound is not None]
        try:
            return all(holds(value, bound) for bound, holds in given)
        except TypeError:
            return False

    def _bounds(self) -> str:
        lower = f"at least {self.least:g}" if self.above is None else f"above {self.above:g}"
        upper = None if self.most is None else f"up to {self.most:g}"
        upper = upper if self.below is None else f"below {self.below:g}"
        if upper is None:
            return f"must be {lower}"
        if self.least is not None and self.most is not None:
            return f"lies between {self.least:g} and {self.most:g}"
        return f"lies {lower} and {upper}"


def option(default: Any, meaning: str, *, flags: str | None = "", **details: Any) -> Any:
    """Return the field of an option.

    flags: its spellings, separated by blanks; left out, `--` and the field's name; None for an option that the command
    line takes by `instead` alone, or not at all. details: see `Option`.
    """
    spelt = None if flags is None else tuple(flags.split())
    return field(default=default, metadata={"option": Option(meaning, spelt or (), **details), "named": spelt == ()})


def option_again(cls: Any, name: str, default: Any, meaning: str | None = None) -> Any:
    """Return the field `name` of `cls` with another default, and another meaning where one is given."""
    declared_before = next(declaration for declaration in fields(cls) if declaration.name == name).metadata
    found = declared_before["option"]
    changed = found if meaning is None else found._replace(meaning=meaning)
    return field(default=default, metadata={**declared_before, "option": changed})


def option_of(declaration: Field[Any]) -> Option | None:
    """Return what the field of a dataclass says as an option; None where it is none."""
    found: Option | None = declaration.metadata.get("option")
    if found is not None and declaration.metadata["named"]:
        return found._replace(flags=(f"--{declaration.name.replace('_', '-')}",))
    return found


def declared(of: Any) -> Iterator[tuple[Field[Any], Option]]:
    """Yield the options of a class, or of a value of one, in their order."""
    for declaration in fields(of):
        found = option_of(declaration)
        if found is not None:
            yield declaration, found


def check(value: Any, *, of: str = "") -> None:
    """Check every option of `value`; raises UsageError that names one that is out of bounds, or two that exclude.

    of: whose they are, in front of the name. A value that is the default is right, and so is None where the type says
    so.
    """
    chosen: dict[str, str] = {}
    for declaration, found in declared(value):
        given, usual = getattr(value, declaration.name), declaration.default
        if given is usual or (type(given) is type(usual) and given == usual):
            continue
        if given is not None or "None" not in str(declaration.type).split(" | "):
            refusal = found.refusal(given)
            if refusal is not None:
                raise UsageError(f"{of}{declaration.name} {refusal}{'' if refusal.endswith('?') else '.'}")
        if found.one_of is not None and chosen.setdefault(found.one_of, declaration.name) != declaration.name:
            raise UsageError(f"{chosen[found.one_of]} and {declaration.name} exclude each other.")


def described(cls: ClassT) -> ClassT:
    """Add a line for each option to the docstring of a dataclass: name, type, default, meaning, what it may be.

    Its `repr` shows the options that are not their defaults.
    """
    lines = [cls.__doc__ or "", ""]
    for declaration, found in declared(cls):
        usual = "" if declaration.default is MISSING else f" = {declaration.default!r}"
        lines.append(f"    {declaration.name}: {declaration.type}{usual}")
        allowed = "" if found.choices is None or callable(found.choices) else f" ({', '.join(found.choices)})"
        lines.append(f"        {found.meaning}{allowed}")
    cls.__doc__ = "\n".join(lines) + "\n"
    cls.__repr__ = brief  # type: ignore[assignment]
    return cls
