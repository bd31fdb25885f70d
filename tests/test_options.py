"""What is declared once is checked, described and read alike everywhere."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from miil21k.decode.rules import RULES
from miil21k.errors import UsageError
from miil21k.options import Instead, check, declared, described, option
from miil21k.predict.options import PredictOptions


@described
@dataclass(frozen=True)
class Small:
    """A few options."""

    size: int | None = option(None, "edge in pixels", flags="-s --size", least=1, most=9)
    share: float = option(0.5, "part that is kept", above=0, most=1, instead={"--all": Instead(1.0, "keep all")})
    kind: str = option("a", "one of two", choices=("a", "b"))
    first: bool = option(False, "begin", one_of="order")
    last: bool = option(False, "end", one_of="order")

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 0}, "size lies between 1 and 9, not 0"),
        ({"size": "3"}, "size lies between 1 and 9, not 3"),
        ({"share": 0.0}, "share lies above 0 and up to 1, not 0.0"),
        ({"share": None}, "share lies above 0 and up to 1, not None"),
        ({"kind": "c"}, "kind must be a or b, not 'c'"),
        ({"first": True, "last": True}, "first and last exclude each other"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Small(**changes)  # type: ignore[arg-type]


def test_none_is_allowed_where_the_type_says_so() -> None:
    assert Small(size=None, share=1).share == 1


def test_a_class_of_options_describes_each_of_them() -> None:
    assert "    size: int | None = None\n        edge in pixels\n" in (Small.__doc__ or "")
    assert "one of two (a, b)" in (Small.__doc__ or "")
    for declaration, found in declared(PredictOptions):
        assert f"    {declaration.name}: {declaration.type} = {declaration.default!r}\n" in (
            PredictOptions.__doc__ or ""
        )
        assert found.meaning in (PredictOptions.__doc__ or "")


def test_every_field_of_the_predictor_is_a_declared_option() -> None:
    assert [field.name for field in fields(PredictOptions)] == [field.name for field, _ in declared(PredictOptions)]


def test_the_rule_that_is_declared_is_the_rule_of_the_decoders() -> None:
    assert [PredictOptions(rule=rule).rule for rule in RULES] == list(RULES)
    with pytest.raises(UsageError, match="rule must be coherent or min or sibling or product, not 'new'"):
        PredictOptions(rule="new")
