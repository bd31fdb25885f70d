"""How the logits of a head are read: one frozen value, and what it finds in a batch, computed when it is asked for.

decoder = Decoder(load_label_space("fall11"), "leaf_softmax", hedge=0.8).restricted(under="dog")
found = decoder.read(logits)
found.topk(5).classes, found.path.nodes, found.hedged.node
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from miil21k.decode.concepts import asked_probabilities, class_masses, concept_probabilities
from miil21k.decode.heads import HEAD_KINDS
from miil21k.decode.levels import decode_levels, levels_of_nodes
from miil21k.decode.logits import check_shape
from miil21k.decode.path import decode_path, hedge
from miil21k.decode.probabilities import node_probabilities, probabilities
from miil21k.decode.restriction import pools_of, restrict, viable
from miil21k.decode.rules import DEFAULT_RULE, rule_named
from miil21k.decode.topk import topk_classes
from miil21k.errors import UsageError
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.search import find_one
from miil21k.hierarchy.spaces import projection, withdrawn_classes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.decode.levels import Levels
    from miil21k.decode.path import Hedged, Paths
    from miil21k.decode.probabilities import Probabilities
    from miil21k.decode.restriction import Pools
    from miil21k.decode.topk import TopK
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["Decoded", "Decoder", "Restriction", "StopReason", "SupportsCalibration", "WithdrawnLabels"]

WithdrawnLabels = Literal["masked", "included", "none"]
StopReason = Literal["leaf", "hedge", "depth", "restriction"]


class SupportsCalibration(Protocol):
    """What a decoder asks of a calibration; `miil21k.calibrate.record.Calibration` is one.

    temperature: one number, or one per depth for a level_softmax head. rule: that of a level_softmax head, else empty.
    """

    @property
    def temperature(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def rule(self) -> str: ...  # noqa: D102

    def require(self, space: LabelSpace, head: HeadKind, allowed: NDArray[np.bool_] | None) -> None:
        """Raise LabelSpaceMismatch unless it was made for this space, kind of head and mask of classes."""

    def threshold(self, accuracy: float) -> float:
        """Return the hedge level whose answers are correct this often; UsageError when it knows none."""
        ...

    def to_json(self) -> str:
        """Return it as text."""
        ...


class Restriction(NamedTuple):
    """Which classes a request leaves.

    allowed: bool [C]. condition: the request in words, "under dog, without pug". listed: nodes that are answered as one
    with everything below them; None where each class answers for itself.
    """

    allowed: NDArray[np.bool_]
    condition: str
    listed: tuple[int, ...] | None = None

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
    temperatures, rule and the level that keeps `hedge`.

    Raises UsageError (head, rule, hedge, two sources of temperature or rule, no class left) and LabelSpaceMismatch (a
    class of the answers that the head lacks, a calibration of something else).
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

    def __post_init__(self) -> None:
        if self.head not in HEAD_KINDS:
            raise UsageError(f"No head kind '{self.head}'; the kinds are {', '.join(HEAD_KINDS)}.")
        rule_named(self.tree_rule)
        if self.hedge is not None and not 0 < self.hedge <= 1:
            raise UsageError(f"A hedge level lies above 0 and up to 1, not {self.hedge}.")
        _ = self._columns
        if self.allowed is not None and not self.allowed.any():
            raise UsageError("No class is left by this restriction; widen the subtree or the lists.")
        if self.calibration is not None:
            self._require_one_source(self.calibration)
            self.calibration.require(self.space, self.head, self.allowed)
            _ = self.level

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
        if self.calibration is None or self.hedge is None:
            return self.hedge
        return self.calibration.threshold(self.hedge)

    @cached_property
    def _columns(self) -> NDArray[np.int32] | None:
        return None if self.own.sha256 == self.space.sha256 else projection(self.own, self.space)

    @cached_property
    def pools(self) -> Pools | None:
        """The nodes that are answered as one with what lies below them; None where each class answers for itself."""
        if self.restriction is None or self.restriction.listed is None:
            return None
        allowed = self.allowed
        assert allowed is not None
        return pools_of(self.space.tree, self.restriction.listed, allowed)

    @cached_property
    def open_children(self) -> NDArray[np.int64]:
        """int64 [N], how many children of each node are, or lie above, a class that is not withdrawn."""
        tree = self.space.tree
        kept = np.ones(tree.num_classes, bool) if self.withdrawn is None else ~self.withdrawn
        shown = np.flatnonzero(viable(tree, kept) & (tree.parent >= 0))
        return np.bincount(tree.parent[shown], minlength=tree.num_nodes)

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

        Each is one or several wnids, or names that only one node has. under: the class is one of them or below one.
        classes: so for these, each of which is answered as one with all that lies below it: the path ends there at the
        latest, and the top k are of them. exclude: the class is none of them and below none. Raises UnknownClass for a
        name of no node or of several, UsageError when no class is left.
        """
        space, given = self.space, {"under": under, "classes": classes, "exclude": exclude}
        keys = {name: (key,) if isinstance(key, str) else tuple(key) for name, key in given.items() if key is not None}
        if not keys:
            return self
        nodes = {name: [_node(space, key) for key in listed] for name, listed in keys.items()}
        allowed = restrict(space.tree, **{name: [space.tree.wnids[n] for n in found] for name, found in nodes.items()})
        words = {"under": "under {}", "classes": "one of {}", "exclude": "without {}"}
        said = (words[name].format(" or ".join(map(space.display_name, found))) for name, found in nodes.items())
        return self.restricted_to(allowed, ", ".join(said), listed=nodes.get("classes"))

    def restricted_to(
        self, allowed: NDArray[np.bool_], condition: str, *, listed: Sequence[int] | None = None
    ) -> Decoder:
        """Return the decoder that answers with the classes of a mask, bool [C], which `condition` puts in words.

        listed: the nodes that are answered as one, see `Restriction`.
        """
        before = self.restriction
        shown = None if listed is None else tuple(listed)
        if before is not None:
            allowed, condition = allowed & before.allowed, f"{before.condition}, {condition}"
            shown = before.listed if shown is None else (*shown, *(before.listed or ()))
        return replace(self, restriction=Restriction(allowed, condition, shown))

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
            "masked": [tree.wnids[index] for index in masked],
        }

    @classmethod
    def from_record(cls, space: LabelSpace, head: HeadKind, record: Mapping[str, Any]) -> Decoder:
        """Return what decides as the decoder of the record did; of an empty one, the decoder of all defaults."""
        temperature = record.get("temperature")
        found = cls(
            space,
            head,
            rule=record.get("rule"),
            temperature=tuple(temperature) if isinstance(temperature, list) else temperature,
            hedge=record.get("hedge", 0.9),
            include_withdrawn=record.get("removed_labels", "masked") != "masked",
        )
        if not record.get("masked"):
            return found
        allowed = np.ones(space.num_classes, bool)
        allowed[space.tree.indices(record["masked"])] = False
        return found.restricted_to(allowed, "as exported")


class Decoded:
    """What a decoder finds in a batch. Each part is computed when it is first asked for, and kept.

    decoder: how it was read. logits: [B, C], of the classes of the answers.
    Every part raises LogitsError when logits are NaN or infinite.
    """

    def __init__(self, decoder: Decoder, logits: NDArray[Any]) -> None:
        self.decoder, self.logits = decoder, logits

    def __len__(self) -> int:
        return len(self.logits)

    def __repr__(self) -> str:
        return f"Decoded({len(self)} rows of {self.decoder!r})"

    @cached_property
    def probabilities(self) -> Probabilities:
        """P of every node and of every class, in one pass: ask for it first where both are wanted."""
        fixed = self.decoder
        found = probabilities(
            fixed.space.tree,
            self.logits,
            fixed.head,
            allowed=fixed.allowed,
            temperature=fixed.temperatures,
            rule=fixed.tree_rule,
        )
        self._close(found.nodes)
        return found

    @cached_property
    def nodes(self) -> NDArray[np.float32]:
        """float32 [B, N], P(the answer is this node or lies below it)."""
        if "probabilities" in vars(self):
            return self.probabilities.nodes
        fixed = self.decoder
        found = node_probabilities(
            fixed.space.tree,
            self.logits,
            fixed.head,
            allowed=fixed.allowed,
            temperature=fixed.temperatures,
            rule=fixed.tree_rule,
        )
        self._close(found)
        return found

    def _close(self, nodes: NDArray[np.float32]) -> None:
        """Set P of the nodes below a pooled one to 0, so that no path goes there."""
        if self.decoder.pools is not None:
            nodes[:, self.decoder.pools.closed] = 0

    @property
    def classes(self) -> NDArray[np.float32]:
        """float32 [B, C], P(the answer is exactly this class)."""
        return self.probabilities.classes

    @cached_property
    def masses(self) -> NDArray[np.float32]:
        """float32 [B, C], P(exactly this class) before any restriction: what concepts are summed from."""
        fixed = self.decoder
        return class_masses(
            fixed.space.tree,
            self.logits,
            fixed.head,
            withdrawn=fixed.withdrawn,
            temperature=fixed.temperatures,
            rule=fixed.tree_rule,
        )

    @cached_property
    def concepts(self) -> NDArray[np.float32]:
        """float32 [B, K], P of every concept of the space (`concepts_of`), whatever the restriction."""
        return concept_probabilities(concepts_of(self.decoder.space), self.masses, self.decoder.head)

    def asked(self, concepts: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 [B, len(concepts)], P of a few concepts (indices), without that of all others."""
        return asked_probabilities(concepts_of(self.decoder.space), self.masses, concepts, self.decoder.head)

    def topk(self, k: int = 5) -> TopK:
        """Return the k most probable classes, best first, and no more than may be the answer.

        Where nodes are answered as one with what lies below them, `classes` of the result holds the k best of these
        nodes, with the sum over their classes (sigmoid: the largest).
        """
        allowed, pools = self.decoder.allowed, self.decoder.pools
        if pools is not None:
            pool = np.maximum if self.decoder.head == "sigmoid" else np.add
            best = topk_classes(pool.reduceat(self.classes[:, pools.members], pools.starts, axis=1), k)
            return best._replace(classes=np.where(best.classes >= 0, pools.nodes[best.classes], -1).astype(np.int32))
        return topk_classes(self.classes, k if allowed is None else min(k, int(allowed.sum())))

    @cached_property
    def given(self) -> NDArray[np.float32] | None:
        """float32 [B], P(the restriction holds) before it was made: what all of the above is given; None without one.

        The sum of the masses of the classes that it leaves, the largest one for a sigmoid head.
        """
        restriction = self.decoder.restriction
        if restriction is None:
            return None
        left = self.masses[:, restriction.allowed]
        found = left.max(axis=1) if self.decoder.head == "sigmoid" else np.minimum(left.sum(axis=1), np.float32(1))
        return np.asarray(found, np.float32)

    @cached_property
    def path(self) -> Paths:
        """The whole chain, from the best root to the best child, however sure."""
        if self.decoder.level is not None:
            return self.hedged.paths
        fixed = self.decoder
        return decode_path(fixed.space.tree, self.nodes, max_depth=fixed.max_depth, withdrawn=fixed.withdrawn)

    @cached_property
    def hedged(self) -> Hedged:
        """Where the path is no longer sure enough, and what competes there; UsageError without a hedge level."""
        fixed = self.decoder
        if fixed.level is None:
            raise UsageError("This decoder has no hedge level: give it one with hedge=.")
        return hedge(fixed.space.tree, self.nodes, fixed.level, max_depth=fixed.max_depth, withdrawn=fixed.withdrawn)

    @cached_property
    def length(self) -> NDArray[np.int32]:
        """int32 [B], how many nodes of `path` are the answer."""
        return self.path.length if self.decoder.level is None else self.hedged.length

    @cached_property
    def reasons(self) -> list[StopReason]:
        """Why each answer ends where it does.

        `leaf`: nothing lies below. `hedge`: the next step is not sure enough. `depth`: `max_depth` is reached.
        `restriction`: nothing below is allowed.
        """
        fixed = self.decoder
        at = self.length - 1
        last = np.where(at >= 0, self.path.nodes[np.arange(len(at)), at], -1)
        found: list[StopReason] = []
        for row, node in enumerate(last.tolist()):
            if fixed.level is not None and self.hedged.refused[row] >= 0:
                found.append("hedge")
            elif node >= 0 and not fixed.open_children[node]:
                found.append("leaf")
            elif node >= 0 and fixed.max_depth is not None and fixed.space.tree.depth[node] >= fixed.max_depth:
                found.append("depth")
            else:
                found.append("restriction")
        return found

    @cached_property
    def levels(self) -> Levels:
        """The published rule, each level for itself; of other heads than level_softmax, the best node of each depth."""
        fixed = self.decoder
        tree = fixed.space.tree
        if fixed.head == "level_softmax":
            allowed = fixed.allowed
            if fixed.pools is not None and allowed is not None:
                allowed = allowed & ~fixed.pools.closed[: tree.num_classes]
            return decode_levels(tree, self.logits, allowed=allowed, temperature=fixed.temperatures)
        return levels_of_nodes(tree, self.nodes, withdrawn=fixed.withdrawn)


def _node(space: LabelSpace, key: str) -> int:
    """Return the node that a wnid, or a name that only one node has, stands for."""
    known = space.tree.index_of.get(key)
    return find_one(space, key) if known is None else known
