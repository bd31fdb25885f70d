"""Questions and bins of a decoder as JSON values, and back: what words were understood as, by wnid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miil21k.decode.decoded import concept_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from miil21k.hierarchy.bins import Bins
    from miil21k.hierarchy.questions import Question
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["asked_record", "bins_record", "recorded_bins", "recorded_questions"]


def asked_record(space: LabelSpace, asked: Sequence[Question]) -> list[dict[str, str]]:
    """Return the `question`, `wnid` and `name` of each question."""
    if not asked:
        return []
    graph = concept_graph(space)
    named = ((question.text, question.concept) for question in asked)
    return [{"question": text, "wnid": graph.wnids[one], "name": graph.name(one)} for text, one in named]


def recorded_questions(space: LabelSpace, asked: Sequence[Mapping[str, str]]) -> tuple[Question, ...]:
    """Return the questions of a record."""
    if not asked:
        return ()
    from miil21k.hierarchy.questions import Question

    index_of = concept_graph(space).index_of
    return tuple(Question(one["question"], index_of[one["wnid"]]) for one in asked)


def bins_record(space: LabelSpace, bins: Bins) -> list[dict[str, Any]]:
    """Return the `label`, `parent` (None for none) and `concepts` (wnids) of each label, *other* last."""
    graph, above = concept_graph(space), bins.tree.parent.tolist()
    return [
        {
            "label": label,
            "parent": bins.labels[parent] if parent >= 0 else None,
            "concepts": [graph.wnids[question.concept] for question in questions],
        }
        for label, parent, questions in zip(bins.labels, above, bins.questions, strict=True)
    ]


def recorded_bins(space: LabelSpace, record: Sequence[Mapping[str, Any]]) -> Bins | None:
    """Return the bins of a record, None of an empty one; what it says of *other* follows from the rest."""
    if not record:
        return None
    from miil21k.hierarchy.bin_lines import BinLine
    from miil21k.hierarchy.bins import bins_of

    lines = [
        BinLine(one["label"], wnid, one["parent"] or "", number)
        for number, one in enumerate(record[:-1], 1)
        for wnid in one["concepts"] or [""]
    ]
    return bins_of(lines, concept_graph(space))
