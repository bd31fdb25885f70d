"""What an exported `.onnx` file says about itself; read and written without torch, onnx or onnxruntime."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from miil21k.decode.decoded import concept_graph
from miil21k.decode.decoder import Decoder
from miil21k.decode.heads import HEAD_KINDS, HeadKind
from miil21k.errors import CheckpointError, LabelSpaceMismatch
from miil21k.hierarchy.spaces import parse_label_space
from miil21k.records import StrictJsonError, parse, to_json
from miil21k.text import brief
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["WEIGHTS_KEY", "ExportCard", "read_export_card", "read_metadata", "weights_file"]

WEIGHTS_KEY = "weights_file"  # JSON of name and bytes, where the weights lie in a second file

_FORMAT = "1"
_GRAPH_FIELD, _METADATA_FIELD = 7, 14  # of ModelProto in onnx.proto
_MOST_METADATA = 64 << 20


@dataclass(frozen=True, eq=False)
class ExportCard:
    """The metadata of an export.

    model: canonical name of the weights, or of the checkpoint's file. arch: the class of the network. form: `full`
    (uint8 images in, answers out) or `tensor` (normalised pixels in, logits and embedding out). head: what the logits
    mean. space: the label space, whole: logit i is class i of it. preprocess: what the graph does to images, or what
    must be done before a `tensor` graph. decoding: how the answers of a `full` graph were decided: topk, hedge,
    rule, temperature, removed_labels, the wnids that are masked, reading, min_bits, and what is asked (question, wnid
    and name of each column); empty for `tensor`, and without a reading in older files, which are `published`. Where
    concepts answer, the metadata hold their graph and its digest, which the space knows then. licence: of the weights.
    weights_sha256: digest of the tensors. versions: package to version, of the export. precision: what the network
    computes in, `fp32`, `fp16` or `int8`. quantization: how it came to fewer bits and what was measured; else empty.
    """

    model: str
    arch: str
    form: str
    head: HeadKind
    space: LabelSpace
    preprocess: Preprocess
    decoding: Mapping[str, Any]
    licence: str
    weights_sha256: str
    versions: Mapping[str, str]
    precision: str = "fp32"
    quantization: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    __repr__ = brief

    def decoder(self) -> Decoder:
        """Return what decides as a `full` graph does; for a `tensor` graph, which decides nothing, all defaults."""
        return Decoder.from_record(self.space, self.head, self.decoding)

    def answer_words(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return wnid and name of each number in the answers: of nodes, and of all concepts where these answer."""
        tree = self.space.tree
        if not self._on_concepts:
            return tree.wnids, tree.names
        graph = concept_graph(self.space)
        return graph.wnids, [*tree.names, *map(graph.name, range(tree.num_nodes, len(graph)))]

    @property
    def _on_concepts(self) -> bool:
        """Whether answers rest on the graph of concepts."""
        found = self.decoding
        return found.get("reading", "published") == "concepts" or bool(found.get("asked") or found.get("bins"))

    def to_metadata(self) -> dict[str, str]:
        """Return the card as ONNX stores metadata: text to text; the label space as a file of its format 1."""
        return {
            "miil21k_format": _FORMAT,
            "model": self.model,
            "arch": self.arch,
            "form": self.form,
            "head": self.head,
            "label_space": self.space.name,
            "label_space_sha256": self.space.sha256,
            "label_space_text": self.space.to_text(),
            "preprocess": json.dumps(to_json(self.preprocess)),
            "decoding": json.dumps(dict(self.decoding)),
            "licence": self.licence,
            "weights_sha256": self.weights_sha256,
            "versions": json.dumps(dict(self.versions)),
            "precision": self.precision,
            "quantization": json.dumps(dict(self.quantization)),
            **self._concepts(),
        }

    def _concepts(self) -> dict[str, str]:
        """Return the graph of concepts with its digest, where the answers rest on it."""
        if not self._on_concepts:
            return {}
        graph = concept_graph(self.space)
        return {"concepts_sha256": graph.sha256, "concepts_text": graph.to_text()}


def read_export_card(path: Path) -> ExportCard:
    """Return the card of the export at `path`.

    Raises CheckpointError when the file is missing, damaged, no ONNX model, none of ours or without the file that
    holds its weights, LabelSpaceMismatch when its label space is not the one whose digest it carries.
    """
    metadata = read_metadata(path)
    if metadata.get("miil21k_format") != _FORMAT:
        raise CheckpointError(
            f"'{path}' was not written by miil21k export onnx (or by another version of its format): "
            "it does not say what its logits mean. Export the model again."
        )
    try:
        _require_weights(metadata, path)
        return _from_metadata(metadata, path)
    except (KeyError, ValueError) as error:
        if isinstance(error, LabelSpaceMismatch):
            raise
        raise CheckpointError(f"The metadata of '{path}' is damaged ({error}); export the model again.") from None


def weights_file(path: Path) -> Path | None:
    """Return where the weights of the export at `path` lie, None when inside; raises as `read_metadata` does."""
    fact = read_metadata(path).get(WEIGHTS_KEY)
    return path.with_name(str(parse(fact, dict)["name"])) if fact else None


def _require_weights(metadata: dict[str, str], path: Path) -> None:
    """Raise CheckpointError when the weights are to lie beside the file and do not, or not all of them."""
    if WEIGHTS_KEY not in metadata:
        return
    fact = parse(metadata[WEIGHTS_KEY], dict)
    weights = path.with_name(str(fact["name"]))
    found = weights.stat().st_size if weights.is_file() else 0
    if found != fact["bytes"]:
        what = f"has {found} bytes instead of {fact['bytes']}" if found else "is not there"
        raise CheckpointError(f"The weights of '{path}' lie in '{weights}', and that file {what}: copy both files.")


def _from_metadata(metadata: dict[str, str], path: Path) -> ExportCard:
    space = parse_label_space(metadata["label_space_text"], f"the label space of {path.name}")
    if space.sha256 != metadata["label_space_sha256"]:
        raise LabelSpaceMismatch(
            f"The label space in '{path}' is {space.sha256[:12]}, and its digest says "
            f"{metadata['label_space_sha256'][:12]}: the file was changed after its export. Export the model again."
        )
    if metadata["head"] not in HEAD_KINDS:
        raise ValueError(f"head {metadata['head']}")
    try:
        preprocess = parse(metadata["preprocess"], Preprocess)
    except StrictJsonError as error:
        raise ValueError(f"preprocess, key '{error.path}': {error.found}") from None
    return ExportCard(
        model=metadata["model"],
        arch=metadata["arch"],
        form=metadata["form"],
        head=metadata["head"],
        space=dataclasses.replace(space, concepts_sha256=metadata.get("concepts_sha256", "")),
        preprocess=preprocess,
        decoding=parse(metadata["decoding"], dict),
        licence=metadata["licence"],
        weights_sha256=metadata["weights_sha256"],
        versions=parse(metadata["versions"], dict),
        precision=metadata.get("precision", "fp32"),  # files written before there were others say nothing
        quantization=parse(metadata.get("quantization", "{}"), dict),
    )


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file without reading its weights.

    An ONNX file is one protobuf message; its top-level fields are walked and the graph is stepped over.
    Raises CheckpointError for a file that cannot be read or is no such message.
    """
    found: dict[str, str] = {}
    has_graph = False
    try:
        with path.open("rb") as file:
            for field, content in _fields(file, path.stat().st_size, wanted=_METADATA_FIELD):
                has_graph |= field == _GRAPH_FIELD
                if content is not None:
                    key, value = _entry(content)
                    found[key] = value
    except OSError as error:
        raise CheckpointError(f"Cannot read the model {path}: {error.strerror}.") from None
    except ValueError as error:  # also what is no UTF-8
        raise CheckpointError(f"'{path}' is damaged or no ONNX model ({error}).") from None
    if not has_graph:
        raise CheckpointError(f"'{path}' is damaged or no ONNX model (it holds no graph).")
    return found


def _fields(file: IO[bytes], size: int, wanted: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the number of every top-level field, with its bytes for those that are `wanted`."""
    while file.tell() < size:
        tag = _varint(file)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            _varint(file)
            yield field, None
        elif kind == 2:
            length = _varint(file)
            if file.tell() + length > size or (field == wanted and length > _MOST_METADATA):
                raise ValueError("it was cut off, or a field has an impossible length")
            if field == wanted:
                yield field, file.read(length)
            else:
                file.seek(length, 1)
                yield field, None
        else:
            raise ValueError(f"a field of kind {kind}")


def _varint(file: IO[bytes]) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError("it was cut off, or a number is too long")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def _entry(content: bytes) -> tuple[str, str]:
    """Return key and value of a StringStringEntryProto (fields 1 and 2)."""
    import io

    texts = {1: "", 2: ""}
    for number in texts:
        for field, text in _fields(io.BytesIO(content), len(content), wanted=number):
            if field == number and text is not None:
                texts[number] = text.decode()
    return texts[1], texts[2]
