"""A step is done once: what makes it done, begun, damaged, or that of another plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from miil21k.errors import UsageError
from miil21k.teachers.steps import Step, perform, record_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FACTS = {"k": 10, "recipe": {"lr": 0.1, "drops": (1, 2)}}


def working(folder: Path, calls: list[tuple[bool, bool]], text: str = "made") -> Callable[[bool, bool], Any]:
    def work(resume: bool, anew: bool) -> tuple[Path, dict[str, Any]]:
        calls.append((resume, anew))
        (folder / "out.txt").write_text(text, encoding="utf-8")
        return folder / "out.txt", {"rows": 3}

    return work


def test_a_step_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    calls: list[tuple[bool, bool]] = []
    said: list[str] = []
    step = Step("select", tmp_path, FACTS)
    first = perform(step, working(tmp_path, calls), said.append)
    second = perform(step, working(tmp_path, calls), said.append)
    assert calls == [(False, False)]
    assert first == second
    assert (second.output, dict(second.report), len(second.sha256)) == ("out.txt", {"rows": 3}, 64)
    assert said[-1] == "select: done before, out.txt"


def test_a_step_that_was_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    calls: list[tuple[bool, bool]] = []
    step = Step("select", tmp_path, FACTS)

    def cut(_resume: bool, _anew: bool) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(step, cut, print)
    perform(step, working(tmp_path, calls), print)
    assert calls == [(True, False)]


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_an_output_that_is_gone_or_another_one_is_made_anew(tmp_path: Path, damage: str) -> None:
    calls: list[tuple[bool, bool]] = []
    step = Step("select", tmp_path, FACTS)
    perform(step, working(tmp_path, calls), print)
    if damage == "gone":
        (tmp_path / "out.txt").unlink()
    else:
        (tmp_path / "out.txt").write_text("Made", encoding="utf-8")
    perform(step, working(tmp_path, calls), print)
    assert calls == [(False, False), (False, True)]


@pytest.mark.parametrize("finished", [True, False])
def test_a_step_of_another_plan_is_refused_by_what_differs_unless_it_may_be_replaced(
    tmp_path: Path, finished: bool
) -> None:
    calls: list[tuple[bool, bool]] = []
    perform(Step("select", tmp_path, FACTS), working(tmp_path, calls), print)
    if not finished:
        record = {"step": "select", "facts": FACTS}
        record_path(Step("select", tmp_path, FACTS)).write_text(json.dumps(record), encoding="utf-8")
    other = Step("select", tmp_path, {"k": 10, "recipe": {"lr": 0.2, "drops": (1, 2)}})
    with pytest.raises(
        UsageError, match=r"another plan: recipe.lr was 0.1, is 0.2\. Choose another -o, or --overwrite"
    ):
        perform(other, working(tmp_path, calls), print)
    perform(other, working(tmp_path, calls), print, overwrite=True)
    assert calls == [(False, False), (False, True)]
