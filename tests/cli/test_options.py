"""Verbs that read a model take the same options under the same names, and declared ones become values again."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from miil21k.cli.main import VERBS
from miil21k.cli.options import add_options, given, names_of, value_of
from miil21k.data.options import ReadingOptions
from miil21k.export.options import EngineOptions, ExportOptions, QuantizeOptions, TritonOptions
from miil21k.options import Instead, check, declared, option
from miil21k.predict.options import AnswerOptions, PredictOptions, RunOptions
from miil21k.prepare.options import PrepareOptions
from miil21k.runtime.options import ComputeOptions, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Iterator


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every verb, and every verb of a verb, with its parser."""
    for verb in VERBS:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"miil21k.cli.{verb}").configure(parser)
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not below:
            yield verb, parser
        for action in below:
            yield from ((f"{verb} {name}", found) for name, found in action.choices.items())


PARSERS = dict(parsers())
FLAGS = {name: {flag: a.dest for a in parser._actions for flag in a.option_strings} for name, parser in PARSERS.items()}
NETWORKS = ("predict", "serve", "validate", "calibrate", "export onnx", "export torch")  # which load any network
IMAGES = ("predict", "serve", "validate", "calibrate")  # which read images of the user
LOGITS = ("predict", "serve", "validate", "calibrate", "export onnx")  # which read logits
WEIGHTS = (*NETWORKS, "fetch", "train")  # which may download


def flags_of(cls: type, only: set[str] | None = None) -> set[str]:
    return {
        flag
        for declaration, found in declared(cls)
        if only is None or declaration.name in only
        for flag in (*found.flags, *found.instead)
    }


@pytest.mark.parametrize("verb", NETWORKS)
def test_a_verb_that_loads_any_network_takes_every_option_of_the_model(verb: str) -> None:
    assert flags_of(ModelOptions) <= set(FLAGS[verb])


@pytest.mark.parametrize("verb", IMAGES)
def test_a_verb_that_reads_images_takes_every_option_of_reading_and_computing(verb: str) -> None:
    wanted = set(names_of(ComputeOptions)) - ({"threads"} if verb == "serve" else set())
    assert flags_of(ReadingOptions) | flags_of(ComputeOptions, wanted) <= set(FLAGS[verb])


@pytest.mark.parametrize("verb", LOGITS)
def test_a_verb_that_reads_logits_takes_the_rule(verb: str) -> None:
    assert flags_of(AnswerOptions, {"rule", "include_removed_labels"}) - (
        {"--include-removed-labels"} if verb == "validate" else set()
    ) <= set(FLAGS[verb])


@pytest.mark.parametrize("verb", WEIGHTS)
def test_a_verb_that_may_download_takes_what_says_from_where(verb: str) -> None:
    assert {"--revision", "--cache-dir", "--offline"} <= set(FLAGS[verb])


@pytest.mark.parametrize(
    ("cls", "name", "verbs"),
    [
        (ModelOptions, "cache_dir", {*WEIGHTS, "verify", "doctor", "bundle create", "bundle install"}),
        (ModelOptions, "offline", {*WEIGHTS, "doctor", "bundle create"}),
        (ModelOptions, "revision", {*WEIGHTS, "verify"}),
        (ReadingOptions, "max_pixels", {"predict", "validate", "calibrate", "prepare"}),
        (RunOptions, "engine", {"predict", "prepare"}),
        (RunOptions, "address", {"predict", "prepare"}),
    ],
)
def test_what_one_class_declares_is_explained_alike_by_every_verb(cls: type, name: str, verbs: set[str]) -> None:
    meaning = next(found.meaning for declaration, found in declared(cls) if declaration.name == name)
    explained = {
        verb: str(action.help).partition(" (default")[0]
        for verb, parser in PARSERS.items()
        for action in parser._actions
        if f"--{name.replace('_', '-')}" in action.option_strings
    }
    assert {verb for verb, text in explained.items() if text == meaning.partition(" (default")[0]} >= verbs


# Options of a verb: what its class declares, and what it has besides, which no value of the library holds.
OWN = {
    "prepare": (
        PrepareOptions,
        {"workers", "dry_run", "release", "strict", "decode", "plot", "json", "engine", "address"},
    ),
    "export onnx": (ExportOptions, {"output", "overwrite", "images", *names_of(ModelOptions)}),
    "export quantize": (QuantizeOptions, {"output", "overwrite", "images", "eval", "quiet"}),
    "export tensorrt": (EngineOptions, {"output", "overwrite", "images", "command", "bound"}),
    "export triton": (TritonOptions, {"name", "version", "include_removed_labels"}),
}


@pytest.mark.parametrize("verb", OWN)
def test_a_verb_takes_every_option_of_its_class_and_explains_it_in_its_words(verb: str) -> None:
    cls, besides = OWN[verb]
    actions = {flag: action for action in PARSERS[verb]._actions for flag in action.option_strings}
    for _, found in declared(cls):
        for flag in found.flags:
            assert str(actions[flag].help).replace("%%", "%").startswith(found.meaning), flag
        for flag, instead in found.instead.items():
            assert actions[flag].help == instead.meaning, flag
    assert set(FLAGS[verb].values()) - {d.name for d, _ in declared(cls)} == {"help", *besides}
    assert all(f"    {declaration.name}: " in (cls.__doc__ or "") for declaration, _ in declared(cls))


def test_a_declared_flag_means_the_same_field_in_every_verb() -> None:
    meant = {
        flag: declaration.name
        for cls in (ModelOptions, ReadingOptions, ComputeOptions, AnswerOptions)
        for declaration, found in declared(cls)
        for flag in (*found.flags, *found.instead)
        if flag.startswith("--")
    }
    apart = {
        (verb, flag): dest
        for verb, flags in FLAGS.items()
        for flag, dest in flags.items()
        if meant.get(flag, dest) != dest
    }
    assert apart == {("export tensorrt", "--batch"): "batch"}  # smallest, best and largest, of an engine


def test_every_option_of_a_prediction_has_a_flag_or_is_for_python_alone() -> None:
    without = [d.name for d, found in declared(PredictOptions) if not (found.flags or found.instead)]
    assert without == ["temperature", "embeddings", "facts"]
    assert flags_of(PredictOptions) | flags_of(RunOptions) <= set(FLAGS["predict"])


@dataclass(frozen=True)
class Small:
    size: int | None = option(None, "edge", flags="-s --size", least=1)
    share: float | None = option(0.5, "part", least=0, most=1, instead={"--all": Instead(None, "keep all")})
    upright: bool = option(True, "turn", flags=None, instead={"--no-turn": Instead(False, "do not turn")})
    under: tuple[str, ...] | None = option(None, "names", repeats=True)
    secret: int = option(3, "for Python", flags=None)

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], Small()),
        (["-s", "1,024", "--share", "0.25"], Small(size=1024, share=0.25)),
        (["--all", "--no-turn", "--under", "a", "--under", "b"], Small(None, None, False, ("a", "b"))),
    ],
)
def test_words_become_a_value_and_what_is_left_out_keeps_its_default(words: list[str], value: Small) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Small)
    args = parser.parse_args(words)
    assert value_of(args, Small) == value
    assert value_of(args, Small, secret=9) == Small(value.size, value.share, value.upright, value.under, 9)
    assert "secret" not in given(args, Small)


def test_what_no_class_declares_is_refused_when_the_verb_is_written() -> None:
    with pytest.raises(KeyError, match="Small has no option 'sise'"):
        add_options(argparse.ArgumentParser(), Small, only={"sise"})
    with pytest.raises(TypeError, match="nothing reads a word as complex"):
        add_options(argparse.ArgumentParser(), dataclass(type("Odd", (), _ODD)))


_ODD = {"__annotations__": {"z": "complex"}, "z": option(0j, "a number", flags="--z")}
