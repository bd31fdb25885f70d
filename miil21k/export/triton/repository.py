"""A model repository for the Triton Inference Server from an export, checked by running what it declares."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.environment import silence_telemetry
from miil21k.errors import ExportError, LabelSpaceMismatch, UsageError
from miil21k.export.options import TritonOptions
from miil21k.export.triton.config import ASKED_LABELS, BIN_LABELS, LABELS, Tensor, config_text
from miil21k.files import scratch_folder, sweep
from miil21k.records import to_json
from miil21k.zoo.export_card import read_export_card, weights_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miil21k.zoo.export_card import ExportCard

__all__ = ["Served", "export_triton", "labels_text", "signature"]

silence_telemetry()

_FILES = Path(__file__).parent / "files"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_WITHDRAWN = "(withdrawn by ImageNet)"
_NUMPY = {"UINT8": np.uint8, "FP16": np.float16, "FP32": np.float32}
_FORMS = {
    "full": (
        "`images` takes upright RGB pictures of any size, one size per request: resize, crop and normalisation are in\n"
        "the graph. Triton batches only requests of one shape, so send one size where many small requests come. JPEG\n"
        "bytes are decoded by the client: the graph has no decoder."
    ),
    "tensor": (
        "`pixels` takes normalised pixels, which `client.py` makes with the package miil21k; the decoding into paths\n"
        "is the client's, too."
    ),
}


@dataclass(frozen=True)
class Served:
    """What was written: the folder of the model, its name in Triton, and the number of the new version."""

    folder: Path
    name: str
    version: int


def export_triton(
    model: Path,
    repository: Path,
    options: TritonOptions | None = None,
    *,
    name: str | None = None,
    version: int | None = None,
    include_withdrawn: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Served:
    """Put the export at `model`, of either form, into the model repository `repository`; nothing is ever overwritten.

    options: how it is served; None for the defaults, and for a model that is in the repository already, whose
    `config.pbtxt` stays as it is. name: of the model in Triton; the stem of the file when None. version: its number,
    the next one when None. include_withdrawn: name the withdrawn classes in the label file; for the form
    `tensor` alone, since a `full` export brings its own mask. The file is copied byte for byte.
    Raises CheckpointError for a file that is no export, UsageError for options or a version that cannot be,
    LabelSpaceMismatch for a new version of another label space, ExportError when ONNX Runtime refuses the file or
    its tensors are not as declared.
    """
    card = read_export_card(model)
    name = model.stem if name is None else name
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' is no name for a model: letters, digits, '_', '.' and '-', a letter or digit first."
        )
    if include_withdrawn and card.form == "full":
        raise UsageError(
            "What this export answers was fixed when it was made: export it with --include-removed-labels."
        )
    folder = repository / name
    present = _versions(folder)
    version = max(present, default=0) + 1 if version is None else version
    if version < 1:
        raise UsageError(f"Triton counts versions from 1: not {version}.")
    if version in present:
        raise UsageError(
            f"'{folder / str(version)}' exists and is never replaced: leave --version out for the next one."
        )
    labels = labels_text(card, include_withdrawn=include_withdrawn)
    say(f"opening {model}")
    inputs, outputs = signature(model)
    sample = _sample(card)
    _run(model, inputs[0], outputs, sample)
    for place in (repository, folder):
        sweep(place)
    if folder.exists():
        _require_alike(folder, present, card, labels, (inputs, outputs), options)
        _place(model, folder / str(version))
        return Served(folder, name, version)
    facts = _facts(card)
    config = config_text(name, inputs, outputs, options or TritonOptions(), sample=sample, facts=facts)
    texts = {"config.pbtxt": config, LABELS: labels, "README.md": _readme(name, card, inputs[0], sample)}
    if asked := card.decoding.get("asked"):
        texts[ASKED_LABELS] = "".join(f"{one['wnid']} {one['name']}\n" for one in asked)
    if bins := card.decoding.get("bins"):
        texts[BIN_LABELS] = "".join(f"{one['label']}\n" for one in bins)
    texts["client.py"] = (_FILES / f"client_{card.form}.py").read_text(encoding="utf-8")
    with scratch_folder(repository, name) as part:
        for title, text in texts.items():
            (part / title).write_text(text, encoding="utf-8")
        _place(model, part / str(version))
        part.rename(folder)
    return Served(folder, name, version)


def _versions(folder: Path) -> list[int]:
    """Return the versions that Triton would see: folders named by a number without leading zeros."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and re.fullmatch(r"[1-9]\d*", path.name))


def _place(model: Path, version: Path) -> None:
    """Copy the model, and its report where there is one, into the folder of a version, which is seen when it is whole.

    Triton takes a folder `model.onnx`, with the graph under the same name inside, for a model of several files.
    """
    weights = weights_file(model)
    with scratch_folder(version.parent, version.name) as part:
        target = part / "model.onnx"
        if weights is not None:
            target.mkdir()
            shutil.copyfile(weights, target / weights.name)
            target /= "model.onnx"
        shutil.copyfile(model, target)
        report = model.with_name(f"{model.name}.json")
        if report.exists():
            shutil.copyfile(report, part / "model.onnx.json")
        part.rename(version)


def _require_alike(
    folder: Path,
    present: list[int],
    card: ExportCard,
    labels: str,
    tensors: tuple[list[Tensor], list[Tensor]],
    options: TritonOptions | None,
) -> None:
    """Raise unless the model fits `config.pbtxt` and the label file, which all versions share."""
    if options is not None:
        raise UsageError(
            f"'{folder / 'config.pbtxt'}' stays as it is when a version is added: edit it, or give another --name."
        )
    newest = folder / str(max(present, default=0)) / "model.onnx"
    if newest.is_dir():
        newest /= "model.onnx"
    if not newest.exists() or not (folder / "config.pbtxt").exists():
        raise UsageError(f"'{folder}' is no model of a Triton repository: give another --name, or remove it.")
    before = read_export_card(newest)
    if before.space.sha256 != card.space.sha256:
        raise LabelSpaceMismatch(
            f"'{newest}' answers with the label space '{before.space.name}' and this export with '{card.space.name}', "
            "and versions share one label file: give another --name."
        )
    if said := [words for words, ours, theirs in _readings(card, before) if ours != theirs]:
        raise UsageError(
            f"'{newest}' {said[0]} as this export, and clients do not see versions change: give another --name."
        )
    if (folder / LABELS).read_text(encoding="utf-8") != labels:
        raise UsageError(
            f"The withdrawn classes of '{folder / LABELS}' are not those of this export: give another --name."
        )
    for ours, theirs in zip(tensors, signature(newest), strict=True):
        if ours != theirs:
            changed = sorted({tensor.name for tensor in {*ours} ^ {*theirs}})
            raise UsageError(
                f"The tensors of this export are not those of '{newest}' ({', '.join(changed)}), and versions share "
                "one config.pbtxt: give another --name."
            )


def _readings(card: ExportCard, other: ExportCard) -> Iterator[tuple[str, object, object]]:
    """Yield what the numbers in the answers of two exports mean, with the words for a difference."""
    for words, key, default in (
        ("is not read on the same graph", "reading", "published"),
        ("is not asked the same questions", "asked", []),
        ("has not the same bins", "bins", []),
    ):
        yield words, card.decoding.get(key, default), other.decoding.get(key, default)
    yield "was not read on the same concepts", card.space.concepts_sha256, other.space.concepts_sha256


def labels_text(card: ExportCard, *, include_withdrawn: bool = False) -> str:
    """Return the label file: line i (from 0) is node i as `wnid name`; classes that are masked have no name.

    Of an export that answers on concepts, line i is concept i; the nodes of the tree are the first ones.
    """
    wnids, names = card.answer_words()
    masked = set() if card.form == "tensor" and include_withdrawn else set(card.decoder().record()["masked"])
    shown = (_WITHDRAWN if wnid in masked else name for wnid, name in zip(wnids, names, strict=True))
    return "".join(" ".join(f"{wnid} {name}".split()) + "\n" for wnid, name in zip(wnids, shown, strict=True))


def signature(model: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Return inputs and outputs of an ONNX file, inputs with defaults last; ExportError when it cannot be opened."""
    session = _session(model)
    needed = [_declared(value) for value in session.get_inputs()]
    defaults = [_declared(value, optional=True) for value in session.get_overridable_initializers()]
    return [*needed, *defaults], [_declared(value) for value in session.get_outputs()]


def _session(model: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # opened for one picture
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot open '{model}': {error}") from None


def _declared(value: Any, *, optional: bool = False) -> Tensor:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return Tensor(value.name, value.type, shape, optional)


def _run(model: Path, images: Tensor, outputs: list[Tensor], sample: tuple[int, ...]) -> None:
    """Raise ExportError unless two pictures give outputs of the declared shapes, two rows each."""
    session = _session(model)
    zeros = np.zeros((2, *sample), _NUMPY[images.datatype])
    found = session.run([tensor.name for tensor in outputs], {images.name: zeros})
    for tensor, values in zip(outputs, found, strict=True):
        if values.shape != (2, *tensor.shape[1:]) or tensor.shape[:1] != (-1,):
            raise ExportError(
                f"'{tensor.name}' of '{model}' has the shape {values.shape} for two pictures, not one row for each: "
                "Triton cannot batch it; export the model again."
            )


def _sample(card: ExportCard) -> tuple[int, ...]:
    """Return the shape of one image: a crop for `full`, which takes any size, or normalised pixels for `tensor`."""
    channels, height, width = card.preprocess.input_size
    return (height, width, channels) if card.form == "full" else (channels, height, width)


def _facts(card: ExportCard) -> dict[str, str]:
    """Return what all versions have in common, as text; the rest is in `model.onnx` and `model.onnx.json`."""
    facts = {
        "label_space": card.space.name,
        "label_space_sha256": card.space.sha256,
        "form": card.form,
        "head": card.head,
        "preprocess": json.dumps(to_json(card.preprocess)),
        "licence": card.licence,
        "reading": card.decoding.get("reading", "published") if card.form == "full" else "",
        "concepts_sha256": card.space.concepts_sha256,
        "asked": json.dumps(asked) if (asked := card.decoding.get("asked")) else "",
        "bins": json.dumps(bins) if (bins := card.decoding.get("bins")) else "",
    }
    return {f"miil21k.{key}": value for key, value in facts.items() if value}


def _concept_lines(card: ExportCard) -> Iterator[str]:
    """Yield what the page says of an export that answers on concepts, or is asked for some."""
    if card.decoding.get("reading") == "concepts":
        yield "`path`, `hedge_node`: concepts of the WordNet graph; `labels.txt` has them behind the nodes."
    if card.decoding.get("asked"):
        yield f"`{ASKED_LABELS}`: line i is question i, whose probability stands in `asked`; Triton's labels for it."
    if card.decoding.get("bins"):
        yield f"`{BIN_LABELS}`: line i is label i, whose probability stands in `bins`; Triton's labels for it."


def _readme(name: str, card: ExportCard, images: Tensor, sample: tuple[int, ...]) -> str:
    """Return the page for the model's folder, with lines for curl that fit its input."""
    text = (_FILES / "README.md").read_text(encoding="utf-8")
    dtype, shape = np.dtype(_NUMPY[images.datatype]), [1, *sample]
    pictures = {
        "full": 'from PIL import Image; picture = Image.open("cat.jpg").convert("RGB").resize'
        f'(({sample[1]}, {sample[0]})); open("image.raw", "wb").write(picture.tobytes())',
        "tensor": f'import numpy; numpy.zeros({shape}, "{dtype.name}").tofile("image.raw")',
    }
    answers = {"full": ("topk_index", "topk_prob", "path", "path_prob"), "tensor": ("embedding",)}
    words = {
        "NAME": name,
        "MODEL": card.model,
        "SPACE": f"{card.space.name} ({card.space.tree.num_classes:,} classes)",
        "LICENCE": card.licence or "not stated",
        "FORM": _FORMS[card.form],
        "READING": "".join(f"\n- {line}" for line in _concept_lines(card)),
        "INPUT": images.name,
        "SHAPE": json.dumps(shape),
        "DATATYPE": images.datatype,
        "ELEMENTS": str(math.prod(shape)),
        "BYTES": str(math.prod(shape) * dtype.itemsize),
        "PICTURE": pictures[card.form],
        "ANSWERS": json.dumps([{"name": key} for key in answers[card.form]], separators=(",", ":")),
    }
    return re.sub(r"@([A-Z]+)@", lambda match: words[match[1]], text)
