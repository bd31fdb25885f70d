import numpy as np
import pytest

from miil21k.decode.logits import check_allowed, check_logits, inverse_temperature
from miil21k.errors import LogitsError, UsageError
from miil21k.hierarchy.tree import Tree

SUCH = (
    r"\(the first of 1 such values in that row\); decoding in float32 needs finite logits\. "
    r"Mask classes with `allowed` instead\.$"
)
PAIR = Tree.from_parents(["a", "b"], [None, None])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_row_with_a_value_that_is_not_finite_is_named(value: float) -> None:
    logits = np.zeros((4, 3), np.float32)
    logits[2:, 1] = value
    with pytest.raises(LogitsError, match=rf"^Row 2 of the logits holds {value} at class 1 {SUCH}"):
        check_logits(logits, 3)


def test_opposite_infinities_in_one_row_are_refused() -> None:
    with pytest.raises(LogitsError, match="Row 0"):
        check_logits(np.array([[np.inf, -np.inf]]), 2)


def test_finite_logits_whose_sum_overflows_are_accepted() -> None:
    logits = np.full((1, 4), 3e38, np.float32)
    assert check_logits(logits, 4) is logits


def test_a_double_too_large_for_single_precision_is_refused() -> None:
    with pytest.raises(LogitsError, match=rf"^Row 1 of the logits holds 1e\+300 at class 0 {SUCH}"):
        check_logits(np.array([[0.0], [1e300]]), 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.uint8])
def test_other_real_dtypes_become_float32(dtype: type) -> None:
    checked = check_logits(np.array([[1, 2]], dtype), 2)
    assert checked.dtype == np.float32
    assert checked.tolist() == [[1.0, 2.0]]


def test_half_precision_logits_whose_half_precision_sum_overflows_are_accepted() -> None:
    assert check_logits(np.full((1, 8), 6e4, np.float16), 8).sum() > 4e5


@pytest.mark.parametrize("logits", [np.array([["1"]]), np.array([[1j]]), np.array([[True]])])
def test_what_is_no_real_number_is_refused(logits: np.ndarray) -> None:
    with pytest.raises(LogitsError, match=rf"^Logits must be real numbers, not {logits.dtype}\.$"):
        check_logits(logits, 1)


def test_a_wrong_shape_names_both_shapes() -> None:
    with pytest.raises(LogitsError, match=r"^Logits must have the shape \[batch, 3\], not \[2, 4\]\.$"):
        check_logits(np.zeros((2, 4)), 3)


def test_a_missing_batch_axis_is_explained() -> None:
    with pytest.raises(
        LogitsError,
        match=r"^Logits must have the shape \[batch, 3\], not \[3\]; add a batch axis with logits\[None\]\.$",
    ):
        check_logits(np.zeros(3), 3)


def test_a_mask_must_be_boolean_of_the_right_length_and_leave_something() -> None:
    with pytest.raises(UsageError, match=r"bool array of shape \[2\], not int64 \[2\]"):
        check_allowed(PAIR, np.array([0, 1]))
    with pytest.raises(UsageError, match=r"not bool \[3\]"):
        check_allowed(PAIR, np.ones(3, bool))
    with pytest.raises(UsageError, match=r"^The class mask allows no class at all; at least one must remain\.$"):
        check_allowed(PAIR, np.zeros(2, bool))


@pytest.mark.parametrize("bad", [0, -1.0, np.nan, np.inf, 1e-300, [1.0, 0.0]])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(bad: object) -> None:
    with pytest.raises(UsageError, match="Temperatures must be finite"):
        inverse_temperature(bad, 2)


def test_temperatures_need_one_value_per_level() -> None:
    assert inverse_temperature([2.0, 4.0], 2).tolist() == [0.5, 0.25]
    assert inverse_temperature(None, 2).tolist() == [1.0, 1.0]
    with pytest.raises(UsageError, match=r"one per level \(2\), not an array of \[3\]"):
        inverse_temperature([1.0, 1.0, 1.0], 2)
