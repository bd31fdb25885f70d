"""Read the semantic tree that was published with ImageNet-21K-P (`imagenet21k_miil_tree.pth`), without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.errors import TreeError
from miil21k.hierarchy.spaces import LABEL_SPACES, LabelSpace, shipped
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load_official_tree"]


def load_official_tree(path: Path) -> LabelSpace:
    """Return the label space of an official tree file; it takes the place of the shipped one with its class list.

    The file is a dict with `class_list` (wnids in logit order), `class_tree_list` (per class the indices from itself
    up to its root) and `class_description` (wnid to name). It is unpickled with `weights_only=True`, so it can hold
    data and nothing else. The space is named `fall11` or `winter21` when it has just those classes, else by the file.
    Raises TreeError for a file that is damaged, unsafe, or no such tree.
    """
    content = _unpickle(path)
    wnids, chains = content["class_list"], content["class_tree_list"]
    if not isinstance(wnids, list) or not isinstance(chains, list) or len(chains) != len(wnids):
        raise TreeError(f"{path}: 'class_list' and 'class_tree_list' must be lists of one length.")
    parent = np.full(len(wnids), -1, np.int32)
    for index, chain in enumerate(chains):
        if not isinstance(chain, list) or not chain or chain[0] != index:
            raise TreeError(f"{path}: entry {index} of 'class_tree_list' must be a list that begins with {index}.")
        if len(chain) > 1:
            parent[index] = chain[1]
    described = content["class_description"]
    names = tuple(str(described.get(wnid, wnid)).replace("_", " ") for wnid in wnids)
    tree = Tree(tuple(wnids), names, parent, len(wnids))
    for index, chain in enumerate(chains):
        if tuple(reversed(chain)) != tree.path(index):
            raise TreeError(f"{path}: the chain of '{wnids[index]}' contradicts the chains of its ancestors.")
    return _with_words(path.stem, tree)


def _unpickle(path: Path) -> dict[str, Any]:
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise TreeError(
            f"{path} cannot be loaded safely ({type(error).__name__}): it is damaged, or holds more than plain data."
        ) from None
    keys = {"class_list", "class_tree_list", "class_description"}
    if not isinstance(content, dict) or not keys <= set(content) or not isinstance(content["class_description"], dict):
        raise TreeError(f"{path} is no official tree: expected a dict with {', '.join(sorted(keys))}.")
    return content


def _with_words(stem: str, tree: Tree) -> LabelSpace:
    for name in LABEL_SPACES:
        known = shipped(name)
        if known.tree.wnids == tree.wnids:
            return LabelSpace(name, tree, known.lemma_text, known.gloss_text)
    return LabelSpace(stem, tree, tree.names, ("",) * tree.num_nodes)
