"""The query of a request as options of its answer, under the names that the command line gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.errors import UsageError
from miil21k.hierarchy.bin_lines import parse_bins
from miil21k.options import Instead, declared
from miil21k.predict.options import AnswerOptions, PredictOptions, RunOptions
from miil21k.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from dataclasses import Field

    from miil21k.hierarchy.bin_lines import BinLine
    from miil21k.options import Option

__all__ = ["PARAMETERS", "Asked", "Parameter", "asked_of"]

_OPERATORS = ("calibration", "include_removed_labels")  # what a client shall not decide
_LARGEST = 999_999_999


class Asked(NamedTuple):
    """How one request is to be answered.

    label_type: a label to add to every node, one of `LABEL_TYPES`. heat: the concept whose evidence is to be shown.
    """

    options: PredictOptions
    label_type: str | None
    heat: str | None = None


class Parameter(NamedTuple):
    """One name of the query, as its option declares it.

    field: which option it changes. read: its value, from name and text. schema: in JSON. stands_for: the one value
    that it gives the option where it is true.
    """

    field: str
    option: Option
    read: Callable[[str, str], Any]
    schema: dict[str, Any]
    meaning: str
    stands_for: Instead | None = None


def asked_of(usual: Asked, query: Iterable[tuple[str, str]], known: Collection[str] | None = None) -> Asked:
    """Return `usual` with what the pairs of the query change. known: which names it may hold; None for all.

    `under` may be repeated; `classes` and `exclude` are lists with commas; `bins` is the text of a CSV; `levels` and
    `no_hedge` are true or false.
    Nothing that needs another network can be changed, nor what a client shall not decide: the calibration and
    whether withdrawn classes are shown. Raises UsageError for an unknown name, a value that makes no sense, or two
    values where one is meant.
    """
    given: dict[str, Any] = {}
    known = PARAMETERS if known is None else known
    for name, text in query:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(f"No parameter '{name}'.{hint} The parameters are: {', '.join(known)}.")
        repeats = PARAMETERS[name].option.repeats
        if name in given and not repeats:
            raise UsageError(f"The parameter '{name}' is given twice.")
        value = PARAMETERS[name].read(name, text)
        given[name] = (*given.get(name, ()), value) if repeats else value
    names: dict[str, str] = {}
    found: dict[str, Any] = {}
    for name, value in given.items():
        parameter = PARAMETERS[name]
        if parameter.stands_for is not None and not value:
            continue
        other = names.setdefault(parameter.field, name)
        if other != name:
            raise UsageError(f"The parameters '{other}' and '{name}' exclude each other.")
        found[parameter.field] = value if parameter.stands_for is None else parameter.stands_for.value
    label_type, heat = found.pop("label_type", usual.label_type), found.pop("heat", usual.heat)
    return Asked(replace(usual.options, **found), label_type, heat)


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:10]) <= _LARGEST):
        raise UsageError(f"{name} is a whole number, not '{text}'.")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name} is a number, not '{text}'.") from None


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise UsageError(f"{name} is true or false, not '{text}'.")
    return text.lower() in ("true", "1")


def _name(name: str, text: str) -> str:
    if not text.strip():
        raise UsageError(f"{name} is a wnid or a name, and here it is empty.")
    return text.strip()


def _names(name: str, text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise UsageError(f"{name} is a list of wnids or names with commas, and here it is empty.")
    return found


def _bins(name: str, text: str) -> tuple[BinLine, ...]:
    return parse_bins(text, name)


def _parameters(cls: type, *, only: Iterable[str] | None = None) -> Iterator[tuple[str, Parameter]]:
    """Yield what a query may ask of the options of `cls`: each that the command line can spell, and no file."""
    for field, option in declared(cls):
        if field.name in _OPERATORS or (only is not None and field.name not in only):
            continue
        if option.flags:
            read, schema = _reading(field, option)
            yield _spelt(option.flags), Parameter(field.name, option, read, schema, option.meaning)
        for flag, instead in option.instead.items():
            parameter = Parameter(field.name, option, _flag, {"type": "boolean"}, instead.meaning, instead)
            yield _spelt([flag]), parameter


def _spelt(flags: Iterable[str]) -> str:
    """Return the first long one of the flags of an option, as a name of the query."""
    return next(flag for flag in flags if flag.startswith("--"))[2:].replace("-", "_")


def _reading(field: Field[Any], option: Option) -> tuple[Callable[[str, str], Any], dict[str, Any]]:
    """Return what reads the text of a parameter, within the bounds of its option, and its schema."""
    bounds = {"minimum": option.least, "exclusiveMinimum": option.above, "maximum": option.most}
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    kind = str(field.type).split(" | ", maxsplit=1)[0]
    readers: dict[str, tuple[Callable[[str, str], Any], dict[str, Any]]] = {
        "int": (_whole, {"type": "integer", "maximum": _LARGEST, **bounds}),
        "float": (_number, {"type": "number", **bounds}),
        "bool": (_flag, {"type": "boolean"}),
        "str": (_name, {"type": "string", "pattern": "\\S"}),
        "Sequence[str]": (_names, {"type": "string", "pattern": "[^,\\s]"}),
        "GivenBins": (_bins, {"type": "string", "pattern": "\\S"}),
    }
    allowed = option.allowed()
    parse, schema = readers["str" if option.repeats or allowed is not None else kind]
    if allowed is not None:
        schema = {"type": "string", "enum": list(allowed)}

    def read(name: str, text: str) -> Any:
        value = parse(name, text)
        refusal = option.refusal(value)
        if refusal is not None:
            raise UsageError(f"{name} {refusal}{'' if refusal.endswith('?') else '.'}")
        return value

    return read, schema


PARAMETERS: dict[str, Parameter] = {
    **dict(_parameters(AnswerOptions)),
    **dict(_parameters(RunOptions, only=["label_type", "heat"])),
}
PARAMETERS["heat"] = PARAMETERS["heat"]._replace(
    meaning="where in the image the evidence for this concept is, in torch"
)
