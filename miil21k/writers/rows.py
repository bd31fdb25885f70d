"""The row, declared once: JSON objects, the cells of CSV and TSV, Parquet columns and the tables of the docs."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "ASKED",
    "BIN",
    "BINS",
    "GIVEN",
    "HEAT",
    "LEVEL",
    "NODE",
    "PART",
    "ROW",
    "ROW_SCHEMA",
    "SENSE",
    "STOP",
    "Field",
    "Many",
    "Row",
    "Shape",
    "Struct",
    "cells",
    "encode",
    "json_schema",
]

ROW_SCHEMA = 1
Row = dict[str, Any]


class Shape(NamedTuple):
    """What the rows of one output hold.

    topk: how many classes. labels, levels: whether nodes and rows carry them. given: whether answers are restricted.
    asked: the questions. concepts: whether concepts above a probability are listed. bins: the user's own labels.
    parts: whether things in parts of the image are. found: whether rows come from a search.
    """

    topk: int = 5
    labels: bool = False
    levels: bool = False
    given: bool = False
    asked: tuple[str, ...] = ()
    concepts: bool = False
    bins: tuple[str, ...] = ()
    found: bool = False
    parts: bool = False

    def holds(self, part: str | None) -> bool:
        """Return whether a field that comes with `part` is there; None is always there, embeddings and maps never."""
        if part is None:
            return True
        return {
            "labels": self.labels,
            "levels": self.levels,
            "given": self.given,
            "asked": bool(self.asked),
            "concepts": self.concepts,
            "bins": bool(self.bins),
            "parts": self.parts,
            "found": self.found,
            "embedding": False,
            "heat": False,
        }[part]


class Scalar(NamedTuple):
    """A plain value. arrow, json: what Arrow and JSON Schema call its type. encode: how an attribute becomes JSON."""

    arrow: str
    json: str
    encode: Callable[[Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


def _six_decimals(value: float) -> float:
    return round(value, 6)


TEXT = Scalar("string", "string", _as_it_is)
FLAG = Scalar("bool_", "boolean", _as_it_is)
WHOLE = Scalar("int32", "integer", _as_it_is)
NUMBER = Scalar("float64", "number", _as_it_is)
PROBABILITY = Scalar("float64", "number", _six_decimals)
VECTOR = Scalar("list", "array", lambda values: values.tolist())
GRID = Scalar("list", "array", lambda values: [[_six_decimals(value) for value in row] for row in values.tolist()])


class Struct(NamedTuple):
    """A value with named parts; None where there is none."""

    fields: tuple[Field, ...]


class Many(NamedTuple):
    """A list of values with named parts."""

    of: Struct


class Field(NamedTuple):
    """A part of a row. attribute: where it stands in the Prediction, its name where left out.

    meaning: for the docs, in Markdown. part: it is only there where the `Shape` holds this. flat: it is a column of CSV
    and TSV too, under the same name.
    """

    name: str
    kind: Scalar | Struct | Many
    meaning: str = ""
    attribute: str | None = None
    part: str | None = None
    flat: bool = False

    def of(self, value: Any) -> Any:
        """Return what this field of `value` is as JSON."""
        return encode(self.kind, attrgetter(self.attribute or self.name)(value))


def encode(kind: Scalar | Struct | Many, value: Any) -> Any:
    """Return `value` as plain JSON values; a field that comes with a part is left out where it is None or absent."""
    if value is None:
        return None
    if isinstance(kind, Scalar):
        return kind.encode(value)
    if isinstance(kind, Many):
        return [encode(kind.of, item) for item in value]
    found = {}
    for field in kind.fields:
        if field.part in ("labels", "found"):  # written by the one who knows how nodes are called, or what was asked
            continue
        content = field.of(value)
        if content is not None or field.part is None:
            found[field.name] = content
    return found


def json_schema(kind: Scalar | Struct | Many, *, may_lack: bool = True) -> dict[str, Any]:
    """Return the JSON Schema of what `encode` gives. may_lack: null stands where there is none."""
    if isinstance(kind, Scalar):
        return {"type": [kind.json, "null"] if may_lack else kind.json}
    if isinstance(kind, Many):
        return {"type": "array", "items": json_schema(kind.of, may_lack=False)}
    return {
        "type": ["object", "null"] if may_lack else "object",
        "required": [field.name for field in kind.fields if field.part is None],
        "properties": {
            field.name: {**json_schema(field.kind), **({"description": field.meaning} if field.meaning else {})}
            for field in kind.fields
        },
    }


NODE = Struct(
    (
        Field("wnid", TEXT, "the key: names repeat, wnids do not"),
        Field("name", TEXT, "the first lemma"),
        Field("probability", PROBABILITY, "six decimals"),
        Field("label", TEXT, "with `--label-type`: the name in that form", part="labels"),
    )
)
LEVEL = Struct(
    (
        Field("depth", WHOLE),
        *(field._replace(attribute=f"node.{field.name}") for field in NODE.fields if field.part is None),
        Field("kept", FLAG),
    )
)
_PLAIN = Struct(NODE.fields[:3])
STOP = Struct(
    (
        Field("reason", TEXT),
        Field("reading", TEXT),
        Field("hedge", NUMBER),
        Field("level", NUMBER),
        Field("calibrated", FLAG),
        Field("refused", _PLAIN),
        Field("runner_up", _PLAIN),
    )
)
GIVEN = Struct((Field("condition", TEXT), Field("probability", PROBABILITY)))
SENSE = Struct((Field("wnid", TEXT), Field("name", TEXT)))
ASKED = Struct(
    (
        Field("question", TEXT),
        Field("wnid", TEXT),
        Field("name", TEXT),
        Field("probability", PROBABILITY),
        Field("other_senses", Many(SENSE), part="asked"),
    )
)
BOX = Struct(tuple(Field(side, WHOLE) for side in ("left", "top", "right", "bottom")))
PART = Struct((*NODE.fields, Field("box", BOX)))
HEAT = Struct((*_PLAIN.fields, Field("box", BOX), Field("values", GRID), Field("image", TEXT)))
BIN = Struct((Field("label", TEXT), Field("probability", PROBABILITY)))
BINS = Struct((Field("path", Many(BIN)), Field("level", NUMBER), Field("labels", Many(BIN))))
ROW = Struct(
    (
        Field("schema", WHOLE, "1; changes when a field changes its meaning or goes away"),
        Field(
            "input",
            TEXT,
            r"as it was named; a byte that is no UTF-8 is an escaped lone surrogate (`\udcff`), as Python's "
            "`os.fsdecode` gives it",
            flat=True,
        ),
        Field("status", TEXT, "`ok` or `error`", flat=True),
        Field("error", TEXT, "null, or one sentence", flat=True),
        Field("model", TEXT, "canonical name of the weights that answered", "origin.model", flat=True),
        Field("label_space", TEXT, "name of the classes in which it answered", "origin.label_space", flat=True),
        Field("label_space_sha256", TEXT, "their digest", "origin.label_space_sha256"),
        Field(
            "removed_labels",
            TEXT,
            "`masked`, `included` or `none`: the classes that ImageNet withdrew",
            "origin.removed_labels",
            flat=True,
        ),
        Field("backend", TEXT, "what computed the logits: `torch`, `onnx` or `openvino`", "origin.backend"),
        Field("device", TEXT, "where", "origin.device"),
        Field("dtype", TEXT, "in which precision", "origin.dtype"),
        Field("path", Many(NODE), "nodes root first; empty when no root is sure enough"),
        Field(
            "stop",
            STOP,
            "null on an error, else `reason` (`leaf`, `hedge`, `depth`, `restriction`, `bits`), `reading` (where "
            "the path runs: `published` or `concepts`), `hedge` (what was asked for), `level` (the probability that a "
            "step had to have for that; another one with a calibration), `calibrated`, "
            "`refused` (the next step, not taken), `runner_up` (its most probable sibling)",
        ),
        Field("topk", Many(NODE), "nodes, most probable first"),
        Field(
            "levels",
            Many(LEVEL),
            "with `--levels`: one node per depth, with `depth` and `kept` (p > 0.5); the published rule for "
            "semantic-softmax heads, the most probable node of the depth for others",
            part="levels",
        ),
        Field(
            "given",
            GIVEN,
            "with `--under`, `--classes` or `--exclude`: the `condition` in words, and its own `probability` before it "
            "was made; all others are given it",
            part="given",
        ),
        Field(
            "asked",
            Many(ASKED),
            "with `--ask`: for each `question` the concept that it was read as (`wnid`, `name`), its `probability`, "
            "whatever the restriction, and `other_senses` of the noun where it has some",
            part="asked",
        ),
        Field(
            "concepts",
            Many(_PLAIN),
            "with `--min-node`: nodes, every concept that is so probable, whatever the restriction, the most "
            "informative first",
            part="concepts",
        ),
        Field(
            "bins",
            BINS,
            "with `--bins`: the answer in your own labels, given the restriction: `path` (the highest label first, as "
            "far as they are sure enough), `level` (the probability that they had to have), and `labels` (all of them, "
            "*other* last); each with `label` and `probability`",
            part="bins",
        ),
        Field("probability", PROBABILITY, "of `miil21k find`: P of what was asked", part="found", flat=True),
        Field("similarity", PROBABILITY, "of `miil21k find --like`: the cosine of embeddings", part="found", flat=True),
        Field("captured", TEXT, "of `miil21k find`: when it was taken, ISO 8601", part="found", flat=True),
        Field("latitude", NUMBER, "of `miil21k find`: degrees, north positive", part="found", flat=True),
        Field("longitude", NUMBER, "of `miil21k find`: degrees, east positive", part="found", flat=True),
        Field(
            "parts",
            Many(PART),
            "with `--multi`: the different things in parts of the image, the surest first; nodes, each with the `box` "
            "of the tile that was surest of it, in pixels of the upright image",
            part="parts",
        ),
        Field(
            "heat",
            HEAT,
            "of `miil21k serve` with `heat`: where the evidence for this node is, `values` over the `box` in pixels of "
            "the upright image, and an `image` to lay over it, the URL of a PNG",
            part="heat",
        ),
        Field("embedding", VECTOR, "in Python alone, when asked for: the network's pre-logits", part="embedding"),
    )
)


class _Cell(NamedTuple):
    """A column of CSV and TSV that a row has in another form. value: from the row; part: as in `Field`."""

    name: str
    value: Callable[[Row], Any]
    part: str | None = None


def _last(key: str) -> Callable[[Row], Any]:
    return lambda row: row["path"][-1].get(key) if row["path"] else None


def _chain(key: str, of: Callable[[Row], Sequence[Row]]) -> Callable[[Row], str]:
    return lambda row: " > ".join(node[key] for node in of(row))


def _kept(row: Row) -> list[Row]:
    return [level for level in row.get("levels") or () if level["kept"]]


def _given(key: str) -> Callable[[Row], Any]:
    return lambda row: (row.get("given") or {}).get(key)


def _joined(field: str, key: str) -> Callable[[Row], str]:
    return lambda row: "; ".join(str(node[key]) for node in row.get(field) or ())


def _boxes(row: Row) -> str:
    return "; ".join(",".join(map(str, part["box"].values())) for part in row.get("parts") or ())


def _bin(key: str) -> Callable[[Row], Any]:
    return lambda row: row["bins"]["path"][-1][key] if (row.get("bins") or {}).get("path") else None


def _bin_path(row: Row) -> list[Row]:
    found: list[Row] = (row.get("bins") or {}).get("path", [])
    return found


def _copied(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]


_CELLS = (
    *(_Cell(field.name, _copied(field.name), field.part) for field in ROW.fields if field.flat),
    _Cell("wnid", _last("wnid")),
    _Cell("name", _last("name")),
    _Cell("label", _last("label"), "labels"),
    _Cell("path", _chain("name", lambda row: row["path"])),
    _Cell("path_wnids", _chain("wnid", lambda row: row["path"])),
    _Cell("path_probability", _last("probability")),
    _Cell("stop", lambda row: row["stop"] and row["stop"]["reason"]),
    _Cell("given", _given("condition"), "given"),
    _Cell("given_probability", _given("probability"), "given"),
    _Cell("levels", _chain("name", _kept), "levels"),
    _Cell("levels_wnids", _chain("wnid", _kept), "levels"),
    _Cell("concepts", _joined("concepts", "name"), "concepts"),
    _Cell("concepts_wnids", _joined("concepts", "wnid"), "concepts"),
    _Cell("concepts_probabilities", _joined("concepts", "probability"), "concepts"),
    _Cell("bin", _bin("label"), "bins"),
    _Cell("bin_path", _chain("label", _bin_path), "bins"),
    _Cell("bin_probability", _bin("probability"), "bins"),
    _Cell("parts", _joined("parts", "name"), "parts"),
    _Cell("parts_wnids", _joined("parts", "wnid"), "parts"),
    _Cell("parts_probabilities", _joined("parts", "probability"), "parts"),
    _Cell("parts_boxes", _boxes, "parts"),
)


def cells(shape: Shape) -> Iterator[tuple[str, Callable[[Row], Any]]]:
    """Yield the columns of CSV and TSV: each name, and what gives its content from a row; None is an empty cell."""
    yield from ((cell.name, cell.value) for cell in _CELLS if shape.holds(cell.part))
    found = sorted(NODE.fields, key=lambda field: field.kind is PROBABILITY)  # the number stands behind the words
    parts = [field.name for field in found if shape.holds(field.part)]
    for rank in range(shape.topk):
        yield from ((f"top{rank + 1}_{part}", _ranked(rank, part)) for part in parts)
    yield from ((f"asked_{question}", _answered(place)) for place, question in enumerate(shape.asked))
    yield from ((f"bin_{label}", _labelled(place)) for place, label in enumerate(shape.bins))


def _answered(place: int) -> Callable[[Row], Any]:
    return lambda row: row["asked"][place]["probability"] if "asked" in row else None


def _labelled(place: int) -> Callable[[Row], Any]:
    return lambda row: row["bins"]["labels"][place]["probability"] if row.get("bins") else None


def _ranked(rank: int, part: str) -> Callable[[Row], Any]:
    return lambda row: row["topk"][rank].get(part) if rank < len(row["topk"]) else None
