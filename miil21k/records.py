"""Parsed JSON into named tuples, driven by their annotations: every key known, present and of its type."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Reader = Callable[[object], Any]

__all__ = ["FrozenMapping", "StrictJsonError", "read_record", "to_json"]

_T = TypeVar("_T")
_SCALARS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}


class StrictJsonError(ValueError):
    """A value that does not fit; `path` leads to it and is put together while the exception travels up."""

    def __init__(self, found: str, path: str = "") -> None:
        super().__init__(found)
        self.found = found
        self.path = path

    def below(self, step: str) -> StrictJsonError:
        """Return the same complaint, seen from one level up."""
        dot = "." if self.path and not self.path.startswith("[") else ""
        return StrictJsonError(self.found, f"{step}{dot}{self.path}")


class FrozenMapping(Mapping[str, Any]):
    """A read-only dict that can be hashed, copied and pickled, as the models that carry one must be."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))

    def __repr__(self) -> str:
        return f"FrozenMapping({self._items!r})"


def read_record(cls: type[_T], raw: object) -> _T:
    """Return `raw`, parsed JSON, as a `cls`, a class of named tuples. Keys whose field has a default may be left out.

    The annotations may be str, int, float, bool, an alias of Literal, another such class of the same module,
    `tuple[X, ...]`, `tuple[X, X, X]`, `Mapping[str, X]`, and `X | None` of the scalar ones.
    Raises StrictJsonError for an unknown or missing key, a wrong type or an unknown choice.
    """
    if not isinstance(raw, dict):
        raise StrictJsonError(f"expected an object, found {_kind(raw)}")
    shape: Any = cls
    readers, required = _readers(shape)
    values = dict(raw)
    key = ""
    try:
        for key, value in raw.items():
            values[key] = readers[key](value)
    except KeyError:
        raise StrictJsonError(f"unknown key '{key}' (known: {', '.join(readers)})") from None
    except StrictJsonError as error:
        raise error.below(key) from None
    if not required <= values.keys():
        raise StrictJsonError(f"missing key '{next(k for k in readers if k in required - values.keys())}'")
    return cls(**values)


def to_json(value: Any) -> Any:
    """Return a named tuple, mapping or tuple as the plain dicts and lists that JSON writes."""
    if hasattr(value, "_asdict"):
        return to_json(value._asdict())
    if isinstance(value, Mapping):
        return {k: to_json(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    return value


@cache
def _readers(cls: Any) -> tuple[dict[str, Reader], frozenset[str]]:
    names = vars(sys.modules[cls.__module__])
    readers = {name: _reader(hint.__forward_arg__, names) for name, hint in cls.__annotations__.items()}
    return readers, frozenset(readers.keys() - cls._field_defaults)


def _reader(annotation: str, names: Mapping[str, Any]) -> Reader:
    """Return the function that checks a JSON value against an annotation and converts it."""
    base, _, optional = annotation.partition(" | ")
    if base in _SCALARS:
        return _scalar(base, bool(optional))
    kind, _, inner = base.removesuffix("]").partition("[")
    if kind == "Mapping":
        value_type = inner.removeprefix("str, ")
        return _mapping(None if value_type == "Any" else _reader(value_type, names))
    if kind == "tuple":
        items = inner.split(", ")
        return _sequence(_reader(items[0], names), None if items[-1] == "..." else len(items))
    named = names[base]
    if get_origin(named) is Literal:
        return _scalar("str", bool(optional), get_args(named))
    return partial(read_record, named)


def _scalar(base: str, optional: bool, choices: tuple[str, ...] = ()) -> Reader:
    types = _SCALARS[base]

    def scalar(value: object) -> object:
        if value is None and optional:
            return None
        if not isinstance(value, types) or (isinstance(value, bool) and base != "bool"):
            raise StrictJsonError(f"expected {base}{' or null' * optional}, found {_kind(value)}")
        if choices and value not in choices:
            raise StrictJsonError(f"{_kind(value)} is none of {', '.join(choices)}")
        return value

    return scalar


def _sequence(each: Reader, length: int | None) -> Reader:
    def sequence(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or length not in (None, len(value)):
            wanted = "a list" if length is None else f"a list of {length}"
            raise StrictJsonError(f"expected {wanted}, found {_kind(value)}")
        done: list[Any] = []
        try:
            done.extend(map(each, value))
        except StrictJsonError as error:
            raise error.below(f"[{len(done)}]") from None
        return tuple(done)

    return sequence


def _mapping(each: Reader | None) -> Reader:
    def mapping(value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise StrictJsonError(f"expected an object, found {_kind(value)}")
        if each is None:
            return FrozenMapping(value)
        done: list[Any] = []
        try:
            done.extend(map(each, value.values()))
        except StrictJsonError as error:
            raise error.below(list(value)[len(done)]) from None
        return FrozenMapping(dict(zip(value, done, strict=True)))

    return mapping


def _kind(value: object) -> str:
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return f"{value!r}"
