"""What `Tree` computes, said slowly: one node at a time, along dictionaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miil21k.hierarchy.tree import Tree


def path(tree: Tree, node: int) -> list[int]:
    chain = [node]
    while tree.parent[chain[0]] >= 0:
        chain.insert(0, int(tree.parent[chain[0]]))
    return chain


def lca(tree: Tree, a: int, b: int) -> int:
    of_b = path(tree, b)
    shared = [node for node in path(tree, a) if node in of_b]
    return shared[-1] if shared else -1


def descendants(tree: Tree, node: int) -> list[int]:
    return [other for other in range(tree.num_nodes) if node in path(tree, other)]


def level_target(tree: Tree) -> list[list[int]]:
    width = max(len(path(tree, node)) for node in range(tree.num_nodes))
    return [path(tree, n) + [-1] * (width - len(path(tree, n))) for n in range(tree.num_nodes)]


def siblings(tree: Tree, depth: int) -> dict[int, list[int]]:
    """Group the nodes of one depth by parent."""
    groups: dict[int, list[int]] = {}
    for node in range(tree.num_nodes):
        if len(path(tree, node)) - 1 == depth:
            groups.setdefault(int(tree.parent[node]), []).append(node)
    return groups
