"""How to predict: one frozen value with every option and its default."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from miil21k.data.cloud import is_remote
from miil21k.data.options import FRAMES, ReadingOptions, frames_of
from miil21k.errors import UsageError
from miil21k.hierarchy.bin_lines import BinLine, bin_lines
from miil21k.options import Instead, check, described, option
from miil21k.runtime.options import LoadOptions
from miil21k.text import did_you_mean
from miil21k.writers.labels import LABEL_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miil21k.hierarchy.bin_lines import GivenBins
    from miil21k.writers.labels import LabelType
    from miil21k.writers.output import Existing

__all__ = ["AnswerOptions", "PredictOptions", "RunOptions", "changed", "listed"]

_END_OF_NAME = re.compile(r"[,\t]|(?<=^n\d{8})\s")


OptionsT = TypeVar("OptionsT", "PredictOptions", "RunOptions")


def _rules() -> tuple[str, ...]:
    from miil21k.decode.rules import RULES

    return tuple(RULES)


def _names(text: str) -> tuple[str, ...]:
    """Return the names of a comma-separated list, or of a file with one noun, wnid or synset name per line.

    In a file, what follows a comma, a tab or a wnid is ignored.
    """
    path = Path(text)
    if path.is_file() and (path.suffix or len(path.parts) > 1):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UsageError(f"'{text}' is no text file with a name per line.") from None
        parts = (_END_OF_NAME.split(line.strip(" ,\t"), maxsplit=1)[0].strip() for line in lines)
        found = [part for part in parts if part]
    elif path.suffix in (".txt", ".csv", ".tsv"):
        raise UsageError(f"There is no file '{text}'.")
    else:
        found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise UsageError(f"'{text}' names nothing.")
    return tuple(found)


def listed(names: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return one name, several or none as a tuple, each once."""
    return () if names is None else (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))


@described
@dataclass(frozen=True)
class AnswerOptions:
    """How logits become an answer. Restrictions and questions take concepts: nouns, wnids or synset names."""

    topk: int = option(5, "how many classes", flags="-k --topk --top-k --k", metavar="N", least=1)
    threshold: float = option(
        0.0, "least probability of a class in topk", flags="--threshold --conf", metavar="P", least=0, most=1
    )
    hedge: float | None = option(
        0.9,
        "stop the path where it is less sure; with a calibration, the share of images with a right answer or none",
        metavar="P",
        above=0,
        most=1,
        instead={"--no-hedge": Instead(None, "follow the path down to a leaf, sure or not")},
    )
    reading: Literal["published", "concepts"] = option(
        "published",
        "where the path runs: on the tree as published, or on concepts, which have more words for what is unsure",
        flags="--read",
        choices=("published", "concepts"),
    )
    min_bits: float = option(
        1.0,
        "an answer of fewer bits, log2(all classes / classes at or below it), is no answer",
        metavar="BITS",
        least=0,
    )
    max_depth: int | None = option(None, "cut the path at this depth (0: roots)", flags="--level", metavar="N", least=0)
    under: Sequence[str] | str | None = option(
        None,
        "only classes at or below this concept, repeatable; all probabilities are given it",
        metavar="NAME",
        repeats=True,
    )
    classes: Sequence[str] | str | None = option(
        None,
        "only these concepts, each as one with all below it: a list with commas",
        metavar="LIST",
        parse=_names,
        parsed=", or a file of them",
    )
    exclude: Sequence[str] | str | None = option(
        None,
        "all but these concepts and what lies below them: a list with commas",
        metavar="LIST",
        parse=_names,
        parsed=", or a file of them",
    )
    ask: Sequence[str] | str | None = option(
        None,
        "how probable is each of these? nouns, wnids or synset names (dog.n.01): a list with commas",
        metavar="LIST",
        parse=_names,
        parsed=", or a file of them",
    )
    min_node: float | None = option(
        None, "list every concept that is this probable, the most informative first", metavar="P", above=0, most=1
    )
    bins: GivenBins | None = option(
        None,
        "answer with your own labels too: a CSV of label,concept[,parent]; what belongs to none is 'other'",
        metavar="FILE",
        parse=bin_lines,
    )
    temperature: float | Sequence[float] | None = option(
        None, "divide logits by it: one number, or one per depth, as fitted for this model", flags=None
    )
    calibration: str | Path | None = option(
        None,
        "file of miil21k calibrate, or hf-hub:OWNER/REPOSITORY, which brings temperatures and rule for this model",
        metavar="FILE",
    )
    rule: str | None = option(
        None,
        "how a level_softmax head becomes one tree (default: the calibration's, else coherent)",
        metavar="RULE",
        choices=_rules,
    )
    include_removed_labels: bool = option(False, "also the classes that ImageNet withdrew")
    levels: bool = option(False, "add one label per level, kept if p > 0.5 (published rule)")
    multi: bool = option(
        False, "also answer tiles of the image, some 50 forward passes, and list the different things in them"
    )

    def __post_init__(self) -> None:
        if self.bins is not None:  # a file is read now: what is answered no longer depends on it
            object.__setattr__(self, "bins", bin_lines(self.bins))
        check(self)

    @property
    def bin_lines(self) -> tuple[BinLine, ...]:
        """The checked lines of `bins`; none without."""
        return () if self.bins is None else bin_lines(self.bins)


@described
@dataclass(frozen=True)
class PredictOptions(AnswerOptions, ReadingOptions, LoadOptions):
    """Every option of a `Predictor`: which network, what computes it, how images are read, what is answered."""

    embeddings: bool = option(False, "add the network's pre-logits to every prediction", flags=None)
    facts: bool = option(
        False, "add what an index keeps: digest, size, perceptual hash, time, place, class probabilities", flags=None
    )


def _formats() -> tuple[str, ...]:
    from miil21k.writers.formats import FORMATS, TABLE

    return (TABLE, *FORMATS)


@described
@dataclass(frozen=True)
class RunOptions:
    """What a run over many inputs makes, and how it goes on: see `miil21k.predict.run`."""

    recursive: bool = option(False, "also the subfolders of a folder", flags="-r --recursive")
    frames: float | str = option(
        FRAMES,
        "of a video: one every so many seconds, or the first of each of its scenes",
        metavar="SECONDS|scenes",
        parse=frames_of,
    )
    output: str | Path = option("-", "where rows go; -: standard output", flags="-o --output", metavar="FILE")
    format: str | None = option(
        None,
        "of the rows (default: by FILE's extension; table on a terminal, jsonl in a pipe)",
        flags="-f --format",
        metavar="FORMAT",
        choices=_formats,
    )
    resume: bool = option(False, "go on with FILE after an interruption", one_of="existing")
    append: bool = option(False, "add rows to FILE", one_of="existing")
    overwrite: bool = option(False, "replace FILE", one_of="existing")
    on_error: Literal["row", "skip", "fail"] = option(
        "row", "an input that fails gets a row, gets none, or ends the run", choices=("row", "skip", "fail")
    )
    label_type: LabelType | None = option(None, "add a label to every node, and show it in tables", choices=LABEL_TYPES)
    embeddings: str | Path | None = option(
        None, "the network's pre-logits, float32, one row per row", metavar="FILE.npy"
    )
    save_plots: str | Path | None = option(None, "one picture per image: the image beside its path", metavar="DIR")
    heat: str | None = option(
        None, "with --save-plots: show where the evidence for this concept is, in torch", metavar="NAME"
    )
    log: str | Path | None = option(None, "what was run: versions, model, device, counts, times", metavar="FILE.json")
    engine: Literal["local", "ray"] | None = option(
        None, "let processes, or the nodes of a cluster, do the work", choices=("local", "ray")
    )
    address: str | None = option(
        None, "of the Ray cluster, or auto (default: RAY_ADDRESS, else one is started here)", metavar="HOST:PORT"
    )

    def __post_init__(self) -> None:
        check(self)
        frames_of(self.frames)
        if self.address is not None and self.engine != "ray":
            raise UsageError("--address is of a Ray cluster: add --engine ray.")
        if self.engine is not None and self.save_plots is not None:
            raise UsageError("--save-plots reads every image again, one by one: leave --engine out, or the pictures.")
        if self.save_plots is not None and is_remote(str(self.save_plots)):
            raise UsageError(f"--save-plots writes a folder of this machine, not '{self.save_plots}'.")
        if self.heat is not None and self.save_plots is None:
            raise UsageError("--heat is drawn into pictures: add --save-plots DIR.")
        if self.append and self.embeddings is not None:
            raise UsageError("--append cannot be joined with --embeddings: their rows would no longer match.")
        if self.to_stdout and (self.resume or self.append):
            raise UsageError(f"--{'resume' if self.resume else 'append'} needs a file: add --output FILE.")

    @property
    def to_stdout(self) -> bool:
        """Return whether rows go to standard output."""
        return self.output == "-"

    @property
    def existing(self) -> Existing:
        """What shall happen to an output that exists."""
        if self.resume:
            return "resume"
        if self.append:
            return "append"
        return "overwrite" if self.overwrite else "refuse"


def changed(options: OptionsT, changes: dict[str, Any]) -> OptionsT:
    """Return `options` with `changes` applied; raises UsageError for an unknown name, with the nearest one."""
    known = [field.name for field in fields(options)]
    for name in changes:
        if name not in known:
            raise UsageError(f"No option '{name}'.{did_you_mean(name, known)} The options are: {', '.join(known)}.")
    return dataclasses.replace(options, **changes)
