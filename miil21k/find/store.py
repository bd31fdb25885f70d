"""An index of pictures: one LanceDB table, its rows by the name of the picture, and what they were made with.

LanceDB is an embedded columnar and vector store. A change of a table is whole or not there, so a kill loses at most
the rows that were not handed over yet; the same table lies in a folder here or on object storage (`s3://...`).

Columns: those of a row (`miil21k.writers.rows`) that differ from picture to picture, what the file says about itself
(`miil21k.data.facts`), class probabilities (`miil21k.decode.compact`) and the embedding in half precision. What all
rows share stands once, in the metadata of the table.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.decode.compact import counted_classes
from miil21k.environment import need
from miil21k.errors import Miil21kError, UsageError
from miil21k.hierarchy.spaces import parse_label_space, recorded_space
from miil21k.records import parse
from miil21k.writers.layouts import utf8_text
from miil21k.writers.parquet import arrow_schema
from miil21k.writers.rows import ROW_SCHEMA, Shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["SCHEMA", "About", "Index", "import_store", "is_index", "real_name"]

SCHEMA = 1
TABLE = "images"
_KEY = b"miil21k"
_ESCAPED = re.compile(r"\\u(dc[89a-f][0-9a-f])")
# Parts of a row that differ from picture to picture; the others are of the model, and stand in `About.origin`.
_OF_ROW = ("status", "error", "path", "stop", "topk")
MOST_FRAGMENTS = 64  # a pass adds one per some hundred pictures; each is a file per column to open
KEPT = timedelta(minutes=10)  # for who is reading an earlier state meanwhile
PROBES = 8  # of some hundred partitions, of a few hundred embeddings each
MIN_ROWS_OF_VECTOR_INDEX = 50_000  # below, comparing with every embedding takes a few hundredths of a second


@dataclass(frozen=True)
class About:
    """What all rows of an index share.

    model: as it was asked for, None for the default. origin: the shared part of the rows. options: how answers were
    made, as JSON values. head: what the logits mean. bound: of the probability of a concept. withdrawn: classes that
    are never shown. space_text: the label space, where it is not shipped.
    """

    model: str | None
    origin: dict[str, str]
    options: dict[str, Any]
    head: HeadKind
    bound: float
    withdrawn: tuple[int, ...] = ()
    space_text: str | None = None
    schema: int = SCHEMA

    @cached_property
    def space(self) -> LabelSpace:
        """The label space of the answers; raises UsageError for one that this version does not know."""
        if self.space_text is not None:
            return parse_label_space(self.space_text, "the index")
        found = recorded_space(self.origin["label_space"], self.origin["label_space_sha256"])
        if found is None:
            raise UsageError(
                f"The label space '{self.origin['label_space']}' of this index is not the one of this version: "
                "make the index again."
            )
        return found

    @cached_property
    def shown(self) -> NDArray[np.bool_]:
        """bool [C], the classes that may be shown."""
        found = np.ones(self.space.num_classes, bool)
        found[list(self.withdrawn)] = False
        return found

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """bool [C], the classes that may have a probability."""
        return counted_classes(self.space.tree, ~self.shown)


def is_index(path: str) -> bool:
    """Return whether `path` is the folder of an index, or a URI that may be one."""
    return "://" in path or (Path(path) / f"{TABLE}.lance").is_dir()


class Index:
    """An open index. path: a folder, or a URI that LanceDB reads. about: what all rows share.

    `open` reads an existing one, `create` makes an empty one. Row numbers below are positions in `names`.
    """

    def __init__(self, path: str, table: Any, about: About) -> None:
        self.path, self._table, self.about = path, table, about

    def __repr__(self) -> str:
        return f"Index({self.path!r}, {len(self)} pictures, {self.about.origin['model']!r})"

    def __len__(self) -> int:
        return int(self._table.count_rows())

    @classmethod
    def open(cls, path: str) -> Index:
        """Open the index at `path`; raises UsageError for what is none, or of a later version."""
        lance = _lance()
        if not is_index(path):
            raise UsageError(f"'{path}' is no index: 'miil21k index PHOTOS -o {path}' makes one.")
        with _told(path):
            base = lance.connect(path)
            if TABLE not in base.list_tables().tables:
                raise UsageError(f"'{path}' is no index: 'miil21k index PHOTOS -o {path}' makes one.")
            table = base.open_table(TABLE)
        about = parse((table.schema.metadata or {}).get(_KEY, b"{}"))
        if not isinstance(about, dict) or about.get("schema") != SCHEMA:
            raise UsageError(f"'{path}' is no index that this version of miil21k reads: make it again.")
        about["withdrawn"] = tuple(about["withdrawn"])
        return cls(path, table, About(**about))

    @classmethod
    def create(cls, path: str, about: About, width: int, *, overwrite: bool = False) -> Index:
        """Make an empty index for embeddings of `width` numbers; raises Miil21kError where it cannot be written.

        overwrite: let it take the place of one that is there, here or on object storage, at once.
        """
        lance = _lance()
        mode = "overwrite" if overwrite else "create"
        schema = _arrow(width, about.space.num_classes).with_metadata({_KEY: json.dumps(asdict(about)).encode()})
        with _told(path):
            return cls(path, lance.connect(path).create_table(TABLE, schema=schema, mode=mode), about)

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return int(self._table.schema.field("embedding").type.list_size)

    def require_made_with(self, options: dict[str, Any]) -> None:
        """Raise UsageError where these rows were answered with other `options`, JSON values by name."""
        now = json.loads(json.dumps(options))
        for name, value in self.about.options.items():
            if now.get(name) != value:
                raise UsageError(
                    f"'{self.path}' was made with {name}={value}, not {now.get(name)}: give the same, or --overwrite "
                    "it."
                )

    # -- what changes it: each call is whole, or nothing of it -------------------------------------------------------

    def put(self, rows: Sequence[dict[str, Any]], *, known: bool) -> None:
        """Add rows, keys as the columns. known: some replace rows of the same `input`."""
        import pyarrow as pa

        schema = self._table.schema
        # Arrow takes an array at once where its type is that of the column, else number by number.
        types = {name: schema.field(name).type.value_type.to_pandas_dtype() for name in ("classes", "probabilities")}
        table = pa.Table.from_pylist([_writable(row, types) for row in rows], schema)
        with _told(self.path):
            if known:
                merge = self._table.merge_insert("input").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(table, on_bad_vectors="null")
            else:
                self._table.add(table, on_bad_vectors="null")

    def remove(self, names: Iterable[str]) -> None:
        """Remove the rows of these pictures."""
        names = list(names)
        with _told(self.path):
            for first in range(0, len(names), 1000):
                listed = ", ".join(f"'{_quoted(name)}'" for name in names[first : first + 1000])
                self._table.delete(f"input IN ({listed})")

    def tidy(self, *, vectors: bool = True) -> bool:
        """Join small files, drop what earlier states left, and index embeddings; returns whether these are indexed."""
        indexed = bool(self._table.list_indices())
        with _told(self.path):
            if vectors and not indexed and len(self) >= MIN_ROWS_OF_VECTOR_INDEX:
                from lancedb.index import IvfSq

                self._table.create_index("embedding", config=IvfSq(distance_type="cosine"))
                indexed = True
            if self._table.stats()["fragment_stats"]["num_fragments"] > MOST_FRAGMENTS:
                self._table.optimize(cleanup_older_than=KEPT)
        return indexed

    # -- what reads it ----------------------------------------------------------------------------------------------

    def columns(self, *names: str) -> Any:
        """Return columns of all rows as an Arrow table, in the order of the rows."""
        with _told(self.path):
            return self._table.search().select(list(names)).to_arrow().combine_chunks()

    @cached_property
    def names(self) -> list[str]:
        """The names of the pictures, in the order of the rows."""
        return [real_name(name) for name in self.columns("input")["input"].to_pylist()]

    def rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return these rows as `Prediction.to_dict` gives them, with time and place, in the order asked for."""
        stored = ("input", *_OF_ROW)
        names = [field.name for field in arrow_schema(Shape())]
        shared = {"schema": ROW_SCHEMA, **self.about.origin}
        found = []
        for taken in self.take(numbers, *stored, "captured", "latitude", "longitude"):
            row = {name: taken[name] if name in stored else shared[name] for name in names}
            found.append({**row, **{name: taken[name] for name in ("captured", "latitude", "longitude")}})
        return found

    def take(self, numbers: Sequence[int], *names: str) -> list[dict[str, Any]]:
        """Return columns of these rows, in the order asked for."""
        distinct = sorted(set(numbers))
        if not distinct:
            return []
        with _told(self.path):
            taken = self._table.take_offsets(distinct).select(list(names)).to_list()
        by_number = dict(zip(distinct, taken, strict=True))
        for row in taken:
            if "input" in row:
                row["input"] = real_name(row["input"])
        return [by_number[number] for number in numbers]

    def stored(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return all columns of the rows of these pictures, in no order."""
        listed = ", ".join(f"'{_quoted(name)}'" for name in names)
        with _told(self.path):
            found: list[dict[str, Any]] = self._table.search().where(f"input IN ({listed})").to_list()
        return [{**row, "input": real_name(row["input"])} for row in found]

    @cached_property
    def masses(self) -> Any:
        """How much more than `rest` the classes that stand out have: a SciPy CSR matrix [rows, C] of float32."""
        from scipy.sparse import csr_matrix

        table = self.columns("classes", "probabilities")
        classes, probabilities = (_list_of(table[name]) for name in ("classes", "probabilities"))
        starts = classes.offsets.to_numpy()
        values = probabilities.values.to_numpy(zero_copy_only=False).astype(np.float32)
        values -= np.repeat(self.rest, np.diff(starts))
        shape = (table.num_rows, self.about.space.num_classes)
        return csr_matrix((values, classes.values.to_numpy().astype(np.int32), starts), shape=shape)

    @cached_property
    def rest(self) -> NDArray[np.float32]:
        """float32 [rows], P(exactly this class) of every counted class that does not stand out; 0 for failed ones."""
        column = self.columns("rest")["rest"].to_numpy(zero_copy_only=False).astype(np.float32)
        found: NDArray[np.float32] = np.nan_to_num(column, nan=0)
        return found

    @cached_property
    def answered(self) -> NDArray[np.bool_]:
        """bool [rows], the pictures that could be read."""
        found: NDArray[np.bool_] = np.asarray(self.columns("status")["status"].to_numpy(zero_copy_only=False) == "ok")
        return found

    def probability(self, classes: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return float32 [rows], P(one of `classes`), bool [C]: their sum, of sigmoid heads the largest.

        It differs from what the model said by at most `about.bound`.
        """
        if self.about.head == "sigmoid":
            found: NDArray[np.float32] = self.masses[:, classes].max(axis=1).toarray().ravel()
            return found
        inside = classes & self.about.counted
        total: NDArray[np.float32] = self.masses @ inside.astype(np.float32) + self.rest * np.float32(inside.sum())
        return np.clip(total, 0, 1, out=total)

    def embeddings(self, numbers: NDArray[np.int64] | None = None) -> NDArray[np.float16]:
        """Return float16 [rows, D], of all rows or of some (ascending); zeros for pictures that failed."""
        with _told(self.path):
            if numbers is None:
                column = self.columns("embedding")["embedding"]
            else:
                column = self._table.take_offsets(numbers.tolist()).select(["embedding"]).to_arrow()["embedding"]
        array = _list_of(column)
        found = np.zeros((len(array), self.width), np.float16)
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        found[valid] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.width)
        return found

    def nearest(self, vector: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the row numbers of the `count` embeddings nearest to `vector` [D] by cosine, and these, best first."""
        with _told(self.path):
            query = self._table.search(vector, vector_column_name="embedding").distance_type("cosine").limit(count)
            if self._has_vector_index:
                # The index keeps rounded vectors, whose distances are twice those of rows it has not seen: what it
                # finds is compared again by the embeddings themselves.
                query = query.nprobes(PROBES + count // 100).refine_factor(2)
            found = query.select(["_distance"]).with_row_id(True).to_arrow()
        ids, order = self._row_ids
        numbers = order[np.searchsorted(ids, found["_rowid"].to_numpy())]
        return numbers, (1 - found["_distance"].to_numpy()).astype(np.float32)

    @cached_property
    def _has_vector_index(self) -> bool:
        return bool(self._table.list_indices())

    @cached_property
    def _row_ids(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """LanceDB's own numbers of the rows, ascending, and the row number of each."""
        with _told(self.path):
            ids = self._table.search().select([]).with_row_id(True).to_arrow()["_rowid"].to_numpy()
        order = np.argsort(ids)
        return ids[order], order


def import_store() -> None:
    """Import LanceDB, so that what follows need not wait; where it is missing, `Index.create` says so."""
    with suppress(Miil21kError):
        _lance()


def _lance() -> ModuleType:
    return need("lancedb", "find", "An index")


def _arrow(width: int, num_classes: int) -> Any:
    import pyarrow as pa

    row = {field.name: field for field in arrow_schema(Shape())}
    return pa.schema(
        [
            pa.field("input", pa.string(), nullable=False),
            pa.field("container", pa.string()),
            pa.field("num_bytes", pa.int64()),
            pa.field("modified_ns", pa.int64()),
            pa.field("sha256", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("phash", pa.uint64()),
            pa.field("captured", pa.string()),
            pa.field("latitude", pa.float64()),
            pa.field("longitude", pa.float64()),
            *(row[name] for name in _OF_ROW),
            pa.field("classes", pa.list_(pa.uint16() if num_classes <= 2**16 else pa.uint32())),
            pa.field("probabilities", pa.list_(pa.float16())),
            pa.field("rest", pa.float32()),
            pa.field("embedding", pa.list_(pa.float16(), width)),
        ]
    )


def _list_of(column: Any) -> Any:
    array = column.combine_chunks()
    return array.chunk(0) if hasattr(array, "chunk") else array


def _quoted(text: str) -> str:
    return utf8_text(text).replace("'", "''")


def _writable(row: dict[str, Any], types: dict[str, Any]) -> dict[str, Any]:
    """Return `row` with its texts as UTF-8 (a byte of a name that is none as its escape), and arrays of these types."""
    texts = {name: utf8_text(value) if isinstance(value, str) else value for name, value in row.items()}
    return {**texts, **{name: np.asarray(row[name], types[name]) for name in types.keys() & row.keys()}}


def real_name(name: str) -> str:
    """Return the name of a file as the system has it."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name) if "\\udc" in name else name


class _told:  # noqa: N801 - reads as a verb: `with _told(path)`
    """Turn what the store raises into one sentence that names the index."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, (RuntimeError, OSError, ValueError)) and not isinstance(error, Miil21kError):
            reason = str(error).partition(", /")[0].splitlines()[0].rstrip(".")
            raise Miil21kError(f"The index '{self._path}' cannot be read or written: {reason}.") from error
