"""How the logits of a head are read: one frozen value, and what it finds in a batch, computed when it is asked for.

decoder = Decoder(load_label_space("fall11"), "leaf_softmax", hedge=0.8).restricted(under="dog")
found = decoder.read(logits)
found.topk(5).classes, found.path.nodes, found.hedged.node
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from miil21k.decode.decoded import READINGS, Decoded, concept_graph
from miil21k.decode.heads import HEAD_KINDS
from miil21k.decode.logits import check_shape
from miil21k.decode.recorded import asked_record, bins_record, recorded_bins, recorded_questions
from miil21k.decode.restriction import pools_of, restrict, viable
from miil21k.decode.rules import DEFAULT_RULE, rule_named
from miil21k.errors import UsageError
from miil21k.hierarchy.spaces import projection, withdrawn_classes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from miil21k.decode.calibrated import SupportsCalibration
    from miil21k.decode.concept_reading import Vocabulary
    from miil21k.decode.decoded import Reading
    from miil21k.decode.heads import HeadKind
    from miil21k.decode.restriction import Pools
    from miil21k.hierarchy.bin_lines import BinLine
    from miil21k.hierarchy.bins import Bins
    from miil21k.hierarchy.questions import Question
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["Decoder", "Restriction", "WithdrawnLabels"]

WithdrawnLabels = Literal["masked", "included", "none"]


class Restriction(NamedTuple):
    """Which classes a request leaves.

    allowed: bool [C]. condition: the request in words, "under dog, without pug". listed: concepts that are answered as
    one with everything below them; None where each class answers for itself. questions: how each word was understood.
    """

    allowed: NDArray[np.bool_]
    condition: str
    listed: tuple[int, ...] | None = None
    questions: tuple[Question, ...] = ()

    def __repr__(self) -> str:
        return f"Restriction({self.condition!r}, {int(self.allowed.sum())} classes)"


@dataclass(frozen=True, eq=False, repr=False)
class Decoder:
    """How logits are read; every change is a new decoder.

    own: the label space of the head, whose class i is logit i. head: what the logits mean. answer_space: the space of
    the answers, whose classes the head must have; None for `own`. rule: how a level_softmax head becomes one tree, a
    name of `RULES`; None for the calibration's, or the default. temperature: logits are divided by it, one number or
    one per depth. hedge: in (0, 1], how sure the answer must be, with a calibration how often it is to be correct;
    None for the whole path. max_depth: the deepest depth of the path. include_withdrawn: answer also with the classes
    that ImageNet withdrew. restriction: the classes that may be the answer, see `restricted`. calibration: brings
    temperatures, rule and the level that keeps `hedge`. asked: the concepts whose probability is wanted too, see
    `asking`. reading: where the path runs, on the tree as `published` or on `concepts`, see `decode.concept_reading`.
    min_bits: an answer that says less, log2(all classes / classes at or below it), is none. bins: the user's own labels
    that are to be answered too, see `binned`.

    Raises UsageError (head, rule, hedge, reading, two sources of temperature or rule, a calibration without what the
    reading needs, no class left) and LabelSpaceMismatch (a class of the answers that the head lacks, a calibration of
    something else).
    """

    own: LabelSpace
    head: HeadKind
    answer_space: LabelSpace | None = None
    rule: str | None = None
    temperature: float | tuple[float, ...] | None = None
    hedge: float | None = 0.9
    max_depth: int | None = None
    include_withdrawn: bool = False
    restriction: Restriction | None = None
    calibration: SupportsCalibration | None = None
    asked: tuple[Question, ...] = ()
    reading: Reading = "published"
    min_bits: float = 1.0
    bins: Bins | None = None

    def __post_init__(self) -> None:
        if self.head not in HEAD_KINDS:
            raise UsageError(f"No head kind '{self.head}'; the kinds are {', '.join(HEAD_KINDS)}.")
        rule_named(self.tree_rule)
        if self.reading not in READINGS:
            raise UsageError(f"No reading '{self.reading}'; there are {' and '.join(READINGS)}.")
        if not self.min_bits >= 0:
            raise UsageError(f"An answer says 0 bits or more; min_bits={self.min_bits} asks for less.")
        if self.reading == "concepts" and self.max_depth is not None:
            raise UsageError("A depth is one of the published tree: leave it out, or read the answer as published.")
        if self.hedge is not None and not 0 < self.hedge <= 1:
            raise UsageError(f"A hedge level lies above 0 and up to 1, not {self.hedge}.")
        _ = self._columns
        if self.allowed is not None and not self.allowed.any():
            raise UsageError("No class is left by this restriction; widen the subtree or the lists.")
        if self.calibration is not None:
            self._require_one_source(self.calibration)
            self.calibration.require(self.space, self.head, self.allowed)
            if self.bins is not None:
                self.calibration.require_bins(self.bins)
            if self.reading == "concepts" and not self._guarantees_bins_alone:
                self.calibration.require_concepts(concept_graph(self.space), self.min_bits)
            _ = self.level, self.bins_level

    def _require_one_source(self, calibration: SupportsCalibration) -> None:
        if self.temperature is not None:
            raise UsageError("A calibration brings its own temperatures: leave temperature out.")
        if self.rule is not None and calibration.rule and self.rule != calibration.rule:
            raise UsageError(
                f"The calibration was made with the rule '{calibration.rule}': leave the rule out, or calibrate with "
                f"'{self.rule}'."
            )

    def __repr__(self) -> str:
        said: dict[str, object] = {"own": self.own.name, "head": self.head}
        said |= {f.name: getattr(self, f.name) for f in fields(self)[2:] if getattr(self, f.name) != f.default}
        said |= {} if self.answer_space is None else {"answer_space": self.answer_space.name}
        said |= {} if self.restriction is None else {"restriction": self.restriction.condition}
        said |= {} if self.calibration is None else {"calibration": "..."}
        said |= {"asked": [question.text for question in self.asked]} if self.asked else {}
        said |= {} if self.bins is None else {"bins": list(self.bins.labels)}
        return f"Decoder({', '.join(f'{name}={value!r}' for name, value in said.items())})"

    @property
    def space(self) -> LabelSpace:
        """The label space of the answers."""
        return self.own if self.answer_space is None else self.answer_space

    @cached_property
    def withdrawn(self) -> NDArray[np.bool_] | None:
        """bool [C], the classes that are never shown since ImageNet withdrew them; None for none."""
        found = None if self.include_withdrawn else withdrawn_classes(self.space)
        return found if found is not None and found.any() else None

    @property
    def withdrawn_labels(self) -> WithdrawnLabels:
        """`masked`, `included` because they were asked for, or `none` where the label space holds none."""
        if self.withdrawn is not None:
            return "masked"
        return "included" if withdrawn_classes(self.space).any() else "none"

    @cached_property
    def allowed(self) -> NDArray[np.bool_] | None:
        """bool [C], the classes that may be the answer; None for all."""
        kept = None if self.restriction is None else self.restriction.allowed
        if self.withdrawn is None:
            return kept
        return ~self.withdrawn if kept is None else kept & ~self.withdrawn

    @property
    def temperatures(self) -> ArrayLike | None:
        """What logits are divided by: one number, one per depth, or None."""
        if self.calibration is None:
            return self.temperature
        return self.calibration.temperature if self.head == "level_softmax" else self.calibration.temperature[0]

    @property
    def tree_rule(self) -> str:
        """The name of the rule that is applied where the head is level_softmax."""
        return (self.calibration and self.calibration.rule) or self.rule or DEFAULT_RULE

    @cached_property
    def level(self) -> float | None:
        """The least P(node) of an answer; None for the whole path."""
        if self.calibration is None or self.hedge is None or self._guarantees_bins_alone:
            return self.hedge
        return self.calibration.threshold(self.hedge, self.reading)

    @cached_property
    def bins_level(self) -> float | None:
        """The least P of an answer among the bins; None for the whole path of labels."""
        if self.calibration is None or self.hedge is None or self.bins is None:
            return self.hedge
        return self.calibration.threshold(self.hedge, "bins")

    @property
    def _guarantees_bins_alone(self) -> bool:
        """Whether the calibration is one of bins, whose images had no other labels."""
        calibration = self.calibration
        return (
            self.bins is not None
            and calibration is not None
            and not (calibration.knows("published") or calibration.knows("concepts"))
        )

    @cached_property
    def _columns(self) -> NDArray[np.int32] | None:
        return None if self.own.sha256 == self.space.sha256 else projection(self.own, self.space)

    @cached_property
    def pools(self) -> Pools | None:
        """The concepts that are answered as one with all below them; None where each class answers for itself."""
        if self.restriction is None or self.restriction.listed is None:
            return None
        allowed = self.allowed
        assert allowed is not None
        return pools_of(concept_graph(self.space), self.restriction.listed, allowed)

    @cached_property
    def open_children(self) -> NDArray[np.int64]:
        """int64 [N], how many children of each node are, or lie above, a class that is not withdrawn."""
        tree = self.space.tree
        kept = np.ones(tree.num_classes, bool) if self.withdrawn is None else ~self.withdrawn
        shown = np.flatnonzero(viable(tree, kept) & (tree.parent >= 0))
        return np.bincount(tree.parent[shown], minlength=tree.num_nodes)

    @property
    def shown(self) -> NDArray[np.bool_] | None:
        """bool [C], the classes that are not withdrawn; None for all."""
        return None if self.withdrawn is None else ~self.withdrawn

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The concepts that may be listed, one for each set of classes; withdrawn classes are not."""
        from miil21k.decode.concept_reading import vocabulary

        graph, withdrawn = concept_graph(self.space), self.withdrawn
        if withdrawn is None:
            return vocabulary(graph, min_bits=0)
        hidden = np.zeros(len(graph), bool)
        hidden[: graph.num_classes] = withdrawn
        return vocabulary(graph, min_bits=0, existing=self.viable, hidden=hidden)

    @cached_property
    def viable(self) -> NDArray[np.bool_] | None:
        """bool [C], the classes that may have mass: all but those withdrawn with nothing shown below; None for all."""
        tree = self.space.tree
        return None if self.withdrawn is None else viable(tree, ~self.withdrawn)[: tree.num_classes]

    @cached_property
    def heard(self) -> NDArray[np.bool_] | None:
        """bool [C], the classes whose logits count: those the restriction leaves that may have mass; None for all.

        More than `allowed`: a withdrawn class that is a step of other paths is never shown, and counts for what lies
        above it.
        """
        if self.restriction is None:
            return self.viable
        return self.restriction.allowed if self.viable is None else self.restriction.allowed & self.viable

    @cached_property
    def node_bits(self) -> NDArray[np.float64]:
        """float64 [N], what each node of the tree says: log2(classes / classes at or below it in the tree)."""
        tree = self.space.tree
        exist = np.arange(tree.num_classes) if self.viable is None else np.flatnonzero(self.viable)
        chains = tree.level_target[exist]
        size = np.bincount(chains[chains >= 0], minlength=tree.num_nodes)
        return np.asarray(np.log2(exist.size / np.maximum(size, 1)))

    @cached_property
    def answer_vocabulary(self) -> Vocabulary:
        """The concepts that may answer: none that is withdrawn, and none below one that is answered as a whole."""
        from miil21k.decode.concept_reading import vocabulary

        concepts = concept_graph(self.space)
        hidden = np.zeros(len(concepts), bool)
        listed = () if self.restriction is None else self.restriction.listed or ()
        for one in listed:
            hidden |= concepts.within(one)
        hidden[list(listed)] = False
        if self.withdrawn is not None:
            hidden[: concepts.num_classes] |= self.withdrawn
        return vocabulary(concepts, min_bits=self.min_bits, existing=self.viable, hidden=hidden)

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each noun of several meanings, with the one that was taken, and for what is not calibrated."""
        binned = () if self.bins is None else chain.from_iterable(self.bins.questions)
        questions = (*self.asked, *(() if self.restriction is None else self.restriction.questions), *binned)
        found = dict.fromkeys(question.note(concept_graph(self.space)) for question in questions)
        if self._guarantees_bins_alone and self.hedge is not None:
            where = f"P < {self.hedge:g}"
            found[f"The calibration is of bins alone: the path stops where {where}, which guarantees nothing."] = None
        return tuple(note for note in found if note is not None)

    def asking(self, questions: Sequence[str] | str) -> Decoder:
        """Return the decoder that is also asked how probable each of these concepts is, each text once.

        A question is a noun, singular or plural, a wnid or a synset name (`dog.n.01`), resolved by
        `miil21k.hierarchy.questions`. Raises UnknownClass for one that names no concept with classes, or several.
        """
        texts = (questions,) if isinstance(questions, str) else tuple(dict.fromkeys(questions))
        if not texts:
            return self
        from miil21k.hierarchy.questions import resolve

        concepts, shown = concept_graph(self.space), self.shown
        known = {question.text for question in self.asked}
        new = (resolve(concepts, text, shown) for text in texts if text not in known)
        return replace(self, asked=(*self.asked, *new))

    def binned(self, lines: Sequence[BinLine]) -> Decoder:
        """Return the decoder that also answers with the user's own labels, `lines` of `hierarchy.bin_lines.bin_lines`.

        Raises UnknownClass for a concept that is none or has no class, UsageError for a class under two labels.
        """
        from miil21k.hierarchy.bins import bins_of

        return replace(self, bins=bins_of(lines, concept_graph(self.space), self.shown))

    def calibrated(self, calibration: SupportsCalibration) -> Decoder:
        """Return the decoder with these temperatures, this rule, and the hedge level that keeps `hedge`."""
        return replace(self, calibration=calibration)

    def restricted(
        self,
        *,
        under: Sequence[str] | str | None = None,
        classes: Sequence[str] | str | None = None,
        exclude: Sequence[str] | str | None = None,
    ) -> Decoder:
        """Return the decoder with fewer classes; conditions add to those that it has.

        Each is one or several concepts: nouns, wnids or synset names, as for `asking`. under: the class lies at or
        below one of them, along any edge of the noun graph. classes: so for these, each of which is answered as one
        with all that lies below it: the path ends there at the latest, and the top k are of them. exclude: the class
        lies at or below none of them. Raises UnknownClass as `asking` does, UsageError when no class is left.
        """
        space, given = self.space, {"under": under, "classes": classes, "exclude": exclude}
        keys = {name: (key,) if isinstance(key, str) else tuple(key) for name, key in given.items() if key is not None}
        if not keys:
            return self
        from miil21k.hierarchy.questions import resolve

        graph = concept_graph(space)
        understood = {name: [resolve(graph, key, self.shown) for key in listed] for name, listed in keys.items()}
        chosen = {name: [question.concept for question in found] for name, found in understood.items()}
        words = {"under": "under {}", "classes": "one of {}", "exclude": "without {}"}
        said = (words[name].format(" or ".join(map(graph.display_name, found))) for name, found in chosen.items())
        found = self.restricted_to(restrict(graph, **chosen), ", ".join(said), listed=chosen.get("classes"))
        assert found.restriction is not None
        questions = (*found.restriction.questions, *chain.from_iterable(understood.values()))
        return replace(found, restriction=found.restriction._replace(questions=questions))

    def restricted_to(
        self, allowed: NDArray[np.bool_], condition: str, *, listed: Sequence[int] | None = None
    ) -> Decoder:
        """Return the decoder that answers with the classes of a mask, bool [C], which `condition` puts in words.

        listed: the concepts that are answered as one, see `Restriction`.
        """
        before = self.restriction
        new = Restriction(allowed, condition, None if listed is None else tuple(listed))
        if before is not None:
            new = Restriction(
                allowed & before.allowed,
                f"{before.condition}, {condition}",
                before.listed if new.listed is None else (*new.listed, *(before.listed or ())),
                before.questions,
            )
        return replace(self, restriction=new)

    def project(self, logits: ArrayLike) -> NDArray[Any]:
        """Return the logits of the answers' classes, [B, C], from those of the head; raises LogitsError for a shape."""
        given = check_shape(logits, self.own.num_classes)
        return given if self._columns is None else given[:, self._columns]

    def read(self, logits: ArrayLike) -> Decoded:
        """Return what logits [B, classes of `own`] say; LogitsError for a shape now, for NaN and infinity when read."""
        return Decoded(self, self.project(logits))

    def record(self) -> dict[str, Any]:
        """Return how answers are decided as JSON values; `from_record` makes a decoder that decides alike."""
        temperatures = self.temperatures
        tree = self.space.tree
        masked = np.flatnonzero(~self.allowed) if self.allowed is not None else ()
        return {
            "hedge": self.level,
            "rule": self.tree_rule if self.head == "level_softmax" else None,
            "temperature": None if temperatures is None else np.asarray(temperatures).tolist(),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "removed_labels": self.withdrawn_labels,
            "reading": self.reading,
            "min_bits": self.min_bits,
            "masked": [tree.wnids[index] for index in masked],
            "asked": asked_record(self.space, self.asked),
            **({} if self.bins is None else {"bins": bins_record(self.space, self.bins)}),
        }

    @classmethod
    def from_record(cls, space: LabelSpace, head: HeadKind, record: Mapping[str, Any]) -> Decoder:
        """Return what decides as the decoder of the record did; of an empty one, a decoder of defaults.

        Only `min_bits` is then 0, for records were written before there was such a floor.
        """
        temperature = record.get("temperature")
        found = cls(
            space,
            head,
            rule=record.get("rule"),
            temperature=tuple(temperature) if isinstance(temperature, list) else temperature,
            hedge=record.get("hedge", 0.9),
            reading=record.get("reading", "published"),
            min_bits=record.get("min_bits", 0.0),
            include_withdrawn=record.get("removed_labels", "masked") != "masked",
            asked=recorded_questions(space, record.get("asked", ())),
            bins=recorded_bins(space, record.get("bins", ())),
        )
        if not record.get("masked"):
            return found
        allowed = np.ones(space.num_classes, bool)
        allowed[space.tree.indices(record["masked"])] = False
        if found.allowed is not None and np.array_equal(found.allowed, allowed):
            return found  # what ImageNet withdrew alone: no restriction
        return found.restricted_to(allowed, "as exported")
