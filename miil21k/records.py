"""Strict JSON for every file that we read: size, depth and numbers in bounds, each key known, present and of its type.

`read_json(path)` and `parse(text)` return plain values, with a class of named tuples its record.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, overload

from miil21k.errors import Miil21kError
from miil21k.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    RecordReader = Callable[[object], Any]

__all__ = ["FrozenMapping", "StrictJsonError", "parse", "read_json", "read_record", "to_json"]

_T = TypeVar("_T")
_SCALARS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}
MAX_BYTES = 256 << 20  # the label space of 21,843 classes as JSON has 5 MB
MAX_DEPTH = 64
MAX_DIGITS = 40  # of a whole number; 2**64 has 20
MAX_NUMBER = 400  # characters of a decimal number; the exact value of the smallest float is longer, nobody writes it


class StrictJsonError(Miil21kError, ValueError):
    """A text or a value that does not fit.

    found: what is wrong. path: leads to it, and is put together while the exception travels up. file: where it was
    read.
    """

    def __init__(self, found: str, path: str = "", file: str = "") -> None:
        self.found = printable(found)
        self.path = printable(path)
        self.file = file
        where = f" at '{self.path}'" if path else ""
        super().__init__(f"'{printable(file)}' is damaged{where}: {self.found}." if file else self.found)

    def below(self, step: str) -> StrictJsonError:
        """Return the same complaint, seen from one level up."""
        dot = "." if self.path and not self.path.startswith("[") else ""
        return StrictJsonError(self.found, f"{step}{dot}{self.path}", self.file)

    def inside(self, file: str) -> StrictJsonError:
        """Return the same complaint with the name of the file."""
        return StrictJsonError(self.found, self.path, file)


@overload
def read_json(path: str | Path, cls: None = None, *, max_bytes: int = MAX_BYTES) -> Any: ...
@overload
def read_json(path: str | Path, cls: type[_T], *, max_bytes: int = MAX_BYTES) -> _T: ...
def read_json(path: str | Path, cls: type[_T] | None = None, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the JSON in the file at `path` as `parse` does.

    Raises OSError when it cannot be read, StrictJsonError, which names the file, for all that is wrong in it.
    """
    with Path(path).open("rb") as file:
        content = file.read(max_bytes + 1)
    try:
        return parse(content, cls, max_bytes=max_bytes)
    except StrictJsonError as error:
        raise error.inside(str(path)) from None


@overload
def parse(text: str | bytes, cls: None = None, *, max_bytes: int = MAX_BYTES) -> Any: ...
@overload
def parse(text: str | bytes, cls: type[_T], *, max_bytes: int = MAX_BYTES) -> _T: ...
def parse(text: str | bytes, cls: type[_T] | None = None, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return JSON as plain values (with `dict`, none but an object), or as a `cls` by `read_record`.

    text: bytes are UTF-8, with or without a byte order mark. max_bytes: a longer text is refused.
    Raises StrictJsonError, in one sentence, for what is no JSON, a key that an object has twice, NaN and infinity
    (also as 1e400), whole numbers of more than 40 digits, and nesting below 64 levels.
    """
    if len(text) > max_bytes:
        raise StrictJsonError(f"larger than the {max_bytes:,} bytes that are read")
    try:
        value = _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8-sig"))
        depth = _depth(value)
    except StrictJsonError:
        raise
    except UnicodeDecodeError:
        raise StrictJsonError("no text in UTF-8") from None
    except RecursionError:
        depth = MAX_DEPTH + 1
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"no JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    if depth > MAX_DEPTH:
        raise StrictJsonError(f"nested deeper than {MAX_DEPTH} levels")
    if cls is dict and not isinstance(value, dict):
        raise StrictJsonError(f"expected an object, found {_kind(value)}")
    return value if cls in (None, dict) else read_record(cls, value)


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise StrictJsonError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def _decimal(digits: str) -> float:
    if len(digits) > MAX_NUMBER:
        raise StrictJsonError(f"a number of {len(digits):,} digits")
    value = float(digits)
    if math.isinf(value):
        raise StrictJsonError(f"the number {digits}, larger than any that can be computed with")
    return value


def _constant(name: str) -> float:
    raise StrictJsonError(f"the number {name}, which is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise StrictJsonError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' twice")
    return values


# Made once: a decoder with functions of its own costs more than the parsing of a short line.
_DECODER = json.JSONDecoder(parse_int=_whole, parse_float=_decimal, parse_constant=_constant, object_pairs_hook=_object)


def _depth(value: Any) -> int:
    """Return how many containers lie in each other at most, counted no further than one too many."""
    depth, level = 0, [value]
    while depth <= MAX_DEPTH and (level := [one for one in level if type(one) is dict or type(one) is list]):
        depth += 1
        level = [one for each in level for one in (each.values() if type(each) is dict else each)]
    return depth


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
    """Return `raw`, parsed JSON, as a `cls`, a class of named tuples or a dataclass; defaults stand for what is absent.

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
def _readers(cls: Any) -> tuple[dict[str, RecordReader], frozenset[str]]:
    names = vars(sys.modules[cls.__module__])
    hints = {
        name: hint if isinstance(hint, str) else hint.__forward_arg__ for name, hint in cls.__annotations__.items()
    }
    readers = {name: _reader(hint, names) for name, hint in hints.items()}
    if is_dataclass(cls):
        return readers, frozenset(f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING)
    return readers, frozenset(readers.keys() - cls._field_defaults)


def _reader(annotation: str, names: Mapping[str, Any]) -> RecordReader:
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


def _scalar(base: str, optional: bool, choices: tuple[str, ...] = ()) -> RecordReader:
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


def _sequence(each: RecordReader, length: int | None) -> RecordReader:
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


def _mapping(each: RecordReader | None) -> RecordReader:
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
