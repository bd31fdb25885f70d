"""The three kinds of head: what the logits of a network mean. Imports no NumPy, as the manifest is read without it.

level_softmax: one softmax per depth of the tree. leaf_softmax: one softmax over all classes. sigmoid: one probability
for each class, whatever the others.
"""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["HEAD_KINDS", "HeadKind"]

HeadKind = Literal["level_softmax", "leaf_softmax", "sigmoid"]
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)
