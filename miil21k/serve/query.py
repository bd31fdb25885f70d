"""The query of a request as options of its answer, under the names that the command line gives them."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.decode.rules import RULES
from miil21k.errors import UsageError
from miil21k.writers.labels import LABEL_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from miil21k.predict.options import PredictOptions

__all__ = ["PARAMETERS", "Asked", "Parameter", "asked_of"]


class Asked(NamedTuple):
    """How one request is to be answered. label_type: a label to add to every node, one of `LABEL_TYPES`."""

    options: PredictOptions
    label_type: str | None


class Parameter(NamedTuple):
    """One name of the query: how its text is read, its JSON schema, and what it means."""

    read: Callable[[str, str], Any]
    schema: dict[str, Any]
    meaning: str


def asked_of(usual: Asked, query: Iterable[tuple[str, str]]) -> Asked:
    """Return `usual` with what the pairs of the query change.

    `under` may be repeated; `classes` and `exclude` are lists with commas; `levels` and `no_hedge` are true or false.
    Nothing that needs another network can be changed, nor what a client shall not decide: the calibration and
    whether withdrawn classes are shown. Raises UsageError for an unknown name, a value that makes no sense, or two
    values where one is meant.
    """
    found: dict[str, Any] = {}
    for name, text in query:
        if name not in PARAMETERS:
            near = difflib.get_close_matches(name, PARAMETERS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"No parameter '{name}'.{hint} The parameters are: {', '.join(PARAMETERS)}.")
        if name in found and name != "under":
            raise UsageError(f"The parameter '{name}' is given twice.")
        value = PARAMETERS[name].read(name, text)
        found[name] = (*found.get(name, ()), value) if name == "under" else value
    label_type = found.pop("label_type", usual.label_type)
    if "level" in found:
        found["max_depth"] = found.pop("level")
    if found.pop("no_hedge", False):
        if "hedge" in found:
            raise UsageError("The parameters 'hedge' and 'no_hedge' exclude each other.")
        found["hedge"] = None
    return Asked(replace(usual.options, **found), label_type)


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{name} is a whole number, not '{text}'.")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name} is a number between 0 and 1, not '{text}'.") from None


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


def _rule(name: str, text: str) -> str:
    if text not in RULES:
        raise UsageError(f"{name} is {', '.join(RULES)}, not '{text}'.")
    return text


def _label_type(name: str, text: str) -> str:
    if text not in LABEL_TYPES:
        raise UsageError(f"{name} is {', '.join(LABEL_TYPES)}, not '{text}'.")
    return text


_FRACTION = {"type": "number", "minimum": 0, "maximum": 1}
_LIST = {"type": "string", "pattern": "[^,\\s]"}

PARAMETERS: dict[str, Parameter] = {
    "topk": Parameter(_whole, {"type": "integer", "minimum": 1, "maximum": 999_999_999}, "how many classes are listed"),
    "threshold": Parameter(_number, _FRACTION, "least probability of a listed class"),
    "hedge": Parameter(_number, _FRACTION, "stop the path where it is less sure"),
    "no_hedge": Parameter(_flag, {"type": "boolean"}, "follow the path down to a leaf, sure or not"),
    "level": Parameter(_whole, {"type": "integer", "minimum": 0, "maximum": 999_999_999}, "cut the path at this depth"),
    "levels": Parameter(_flag, {"type": "boolean"}, "add one label per level (the published rule)"),
    "under": Parameter(_name, {"type": "string", "pattern": "\\S"}, "only classes at or below it; may be repeated"),
    "classes": Parameter(_names, _LIST, "only these wnids or names, with commas"),
    "exclude": Parameter(_names, _LIST, "all but these and what lies below them, with commas"),
    "rule": Parameter(
        _rule, {"type": "string", "enum": list(RULES)}, "how the levels of a level_softmax head become one tree"
    ),
    "label_type": Parameter(
        _label_type, {"type": "string", "enum": list(LABEL_TYPES)}, "add a label of this kind to every node"
    ),
}
