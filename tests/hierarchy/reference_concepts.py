"""What `Concepts` computes, said slowly: sets of classes, edge by edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miil21k.hierarchy.concepts import Concepts


def class_sets(concepts: Concepts) -> list[set[int]]:
    """Return the classes at or below each concept; a set is the bits of a number until nothing grows any more."""
    found = [1 << k if k < concepts.num_classes else 0 for k in range(len(concepts))]
    edges = sorted(zip(concepts.child.tolist(), concepts.parent.tolist(), strict=True), reverse=True)
    grown = True
    while grown:
        grown = False
        for child, parent in edges:
            both = found[child] | found[parent]
            grown |= both != found[parent]
            found[parent] = both
    return [{at for at, bit in enumerate(bin(bits)[:1:-1]) if bit == "1"} for bits in found]
