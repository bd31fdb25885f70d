"""Declared options as arguments of the command line, and back: one function each way, for every verb."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TypeVar

from miil21k.errors import UsageError
from miil21k.options import declared
from miil21k.runtime.options import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from dataclasses import Field
    from typing import TypeAlias

    from miil21k.calibrate.record import Calibration
    from miil21k.options import Option

    Parser: TypeAlias = argparse._ActionsContainer

__all__ = [
    "add_loudness",
    "add_model_name",
    "add_options",
    "given",
    "names_of",
    "opened_calibration",
    "value_of",
    "whole",
]

ValueT = TypeVar("ValueT")


def _whole(text: str) -> int:
    return int(text.replace(",", "").replace("_", ""))


def whole(least: int) -> Callable[[str], int]:
    """Return the type of an argument that is a whole number of at least `least`."""

    def number(text: str) -> int:
        value = _whole(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    return number


_PARSERS: dict[str, Callable[[str], Any]] = {"int": _whole, "float": float, "str": str, "Path": str}
_WORDS = {_whole: "whole number", float: "number", str: "text"}


def add_options(
    parser: Parser,
    cls: type,
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    meanings: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
    also: Mapping[str, str] | None = None,
) -> None:
    """Declare the options of the dataclass `cls` to a parser, or to a group of one.

    What is not given leaves no trace in the namespace, so that the default of the class holds (`value_of`).
    only, without: names of fields; without may also name a flag that stands for one value (`--no-hedge`). defaults,
    meanings: of this verb, where they differ. more: what a meaning ends with in this verb. also: further flags of a
    field.
    Raises KeyError for a field that `cls` does not have, TypeError for one whose type no word can be read as.
    """
    defaults, meanings, more, also = defaults or {}, meanings or {}, more or {}, also or {}
    found = {declaration.name: (declaration, option) for declaration, option in declared(cls)}
    left_out = {name for name in without if name.startswith("--")}
    for name in (*(only or ()), *(set(without) - left_out), *defaults, *meanings, *more, *also):
        if name not in found:
            raise KeyError(f"{cls.__name__} has no option '{name}'")
    exclusive: dict[str, Parser] = {}
    for name, (declaration, option) in found.items():
        if name in without or (only is not None and name not in only):
            continue
        changed = option._replace(meaning=meanings.get(name, option.meaning + option.parsed) + more.get(name, ""))
        if name in also:
            changed = changed._replace(flags=(*option.flags, *also[name].split()))
        kept = {flag: value for flag, value in option.instead.items() if flag not in left_out}
        changed = changed._replace(instead=kept)
        key = option.one_of or (name if changed.instead else "")
        if key and key not in exclusive:
            exclusive[key] = parser.add_mutually_exclusive_group()
        usual = defaults.get(name, declaration.default)
        _add(exclusive.get(key, parser), declaration, changed, usual, set_here=name in defaults)


def _add(parser: Parser, declaration: Field[Any], option: Option, usual: Any, *, set_here: bool) -> None:
    shared: dict[str, Any] = {"dest": declaration.name, "default": usual if set_here else argparse.SUPPRESS}
    if option.flags and str(declaration.type).startswith("bool"):
        parser.add_argument(*option.flags, action="store_true", help=option.meaning, **shared)
    elif option.flags:
        allowed = option.choices if option.choices is not None and not callable(option.choices) else None
        metavar = option.metavar or (f"{{{','.join(allowed)}}}" if allowed else None)
        parser.add_argument(
            *option.flags,
            action="append" if option.repeats else "store",
            type=_type(declaration, option),
            metavar=metavar,
            help=_help(option, usual),
            **shared,
        )
    for flag, (value, meaning) in option.instead.items():
        parser.add_argument(flag, action="store_const", const=value, help=meaning, **shared)


def _help(option: Option, usual: Any) -> str:
    """Return the meaning, and the default where there is one to tell."""
    if usual is None or usual == () or "(default" in option.meaning:
        return option.meaning.replace("%", "%%")
    shown = f"{usual:,}" if isinstance(usual, int) else f"{usual:g}" if isinstance(usual, float) else usual
    return f"{option.meaning} (default: {shown})".replace("%", "%%")


def _type(declaration: Field[Any], option: Option) -> Callable[[str], Any]:
    """Return what reads a word of the command line: as the type says, within the bounds of the option."""
    kinds = str(declaration.type).split(" | ")
    parse = option.parse or (str if option.choices is not None or option.repeats else None)
    parse = parse or next((_PARSERS[kind] for kind in kinds if kind in _PARSERS), None)
    if parse is None:
        raise TypeError(f"{declaration.name}: nothing reads a word as {declaration.type}")

    def read(text: str) -> Any:
        try:
            value = parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        refusal = option.refusal(value)
        if refusal is not None:
            raise argparse.ArgumentTypeError(refusal)
        return value

    read.__name__ = _WORDS.get(parse, "value")
    return read


def names_of(cls: type) -> list[str]:
    """Return the names of the options of `cls`."""
    return [declaration.name for declaration, _ in declared(cls)]


def given(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """Return which options of `cls` the command line gives, by field; what may be repeated as a tuple."""
    spelt = [field.name for field, option in declared(cls) if option.flags or option.instead]
    found = {name: getattr(args, name) for name in spelt if hasattr(args, name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def value_of(args: argparse.Namespace, cls: type[ValueT], **changes: Any) -> ValueT:
    """Return the value of `cls` that the command line describes, with `changes`; raises what its constructor does."""
    return cls(**{**given(args, cls), **changes})


def opened_calibration(args: argparse.Namespace) -> Calibration | None:
    """Return the calibration that the command line names, beside its `ModelOptions`; None where it names none."""
    named = getattr(args, "calibration", None)
    if named is None:
        return None
    from miil21k.zoo.names import named_calibration

    model = value_of(args, ModelOptions)
    return named_calibration(named, revision=model.revision, cache_dir=model.cache_dir, offline=model.offline)


def add_model_name(parser: Parser, *, required: bool = False, also: str = "") -> None:
    """Declare which network answers; the options beside it are `ModelOptions`. also: a further flag for it."""
    parser.add_argument(
        "-m",
        "--model",
        *also.split(),
        dest="model",
        metavar="NAME",
        required=required,
        help=("" if required else "default: tresnet_m_21k, else embedded; ")
        + "a name of the zoo; an .onnx file of miil21k export; a .safetensors file of miil21k train; an architecture "
        "of timm with --checkpoint and --label-space",
    )


def add_loudness(parser: Parser) -> None:
    """Declare how much is said on standard error."""
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="errors only")
    loudness.add_argument(
        "-v", "--verbose", action="store_true", help="also batches, threads, preprocessing, and why this backend"
    )
