"""What `Concepts` computes, said slowly: sets of classes, edge by edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miil21k.hierarchy.concepts import Concepts


def class_sets(concepts: Concepts) -> list[set[int]]:
    """Return the classes at or below each concept."""
    found = [{k} if k < concepts.num_classes else set() for k in range(len(concepts))]
    edges = sorted(zip(concepts.child.tolist(), concepts.parent.tolist(), strict=True), reverse=True)
    grown = True
    while grown:
        grown = False
        for child, parent in edges:
            if not found[child] <= found[parent]:
                found[parent] |= found[child]
                grown = True
    return found
