"""Which codec answers to which name, and what its bytes depend on."""

from __future__ import annotations

from typing import get_args

import pytest

from miil21k.errors import MissingExtra
from miil21k.prepare import codecs
from miil21k.prepare.codecs import CODECS, fingerprint, with_codec
from miil21k.prepare.options import Codec, PrepareOptions


def test_every_codec_of_the_options_is_in_the_table() -> None:
    assert {"auto", *CODECS} == set(get_args(Codec))


def test_a_codec_whose_libraries_are_missing_is_refused_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_MODULES", {"antialiased": {"no_such_module": ()}, "published": {"cv2_gone": ()}})
    assert with_codec(PrepareOptions()) == with_codec(PrepareOptions(codec="pillow")) == PrepareOptions(codec="pillow")
    with pytest.raises(
        MissingExtra, match=r"'no_such_module', which is not installed: pip install 'miil21k\[prepare\]'"
    ):
        with_codec(PrepareOptions(codec="simplejpeg"))


def test_the_fingerprint_names_every_option_and_the_libraries() -> None:
    found = fingerprint(PrepareOptions(mode="short-edge", codec="pillow"))
    assert (found["size"], found["min_images"], found["val_per_class"], found["resize"]) == (
        256,
        500,
        50,
        "antialiased",
    )
    assert list(found["libraries"]) == ["pillow"]
    assert fingerprint(PrepareOptions(size=224, codec="pillow")) == fingerprint(PrepareOptions(codec="pillow"))
