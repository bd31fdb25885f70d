"""What a teacher said, kept on disk: its largest shares and the rest's mass, for every batch of a run.

A teacher has one softmax over its classes, or one for each level of a hierarchy; each is kept in the same way.

A batch is a function of seed, epoch and update, mixing included, so another student, another learning rate or a run
that is started anew meets the same images, and the teacher need not be asked again. A folder belongs to one teacher and
one way to make batches, which `teacher_cache.json` in it says in full; its shards are safetensors files, one or more
for an epoch and process, each written whole or not at all.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from miil21k.errors import UsageError
from miil21k.files import replace_file, sweep
from miil21k.records import StrictJsonError, read_json
from miil21k.train.losses import TopShares

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["DECIDING", "Softmaxes", "TeacherMemory", "bytes_of_image", "runtime_of_cache", "shorten"]

KEY = "teacher_cache.json"
# What of a recipe decides which images make a batch, and what the teacher says to it.
DECIDING = (
    *("seed", "sampling", "batch_size", "accumulate", "repeats", "mixup", "cutmix", "mixup_prob", "mixup_switch"),
    *("mixup_draw", "teacher_image_size", "precision"),
)
_SHARD_BYTES = 16 << 20  # a kill loses at most so much of what was computed


def runtime_of_cache(folder: Path) -> str:
    """Return the runtime whose answers lie in a teacher cache; empty when there is none that can be read."""
    try:
        return str(read_json(folder / KEY).get("runtime", ""))
    except (OSError, StrictJsonError):
        return ""  # what is wrong with it, `TeacherMemory` says


class Softmaxes(NamedTuple):
    """The softmaxes of a head and how much of each is kept.

    members: the columns of each in the logits, int64 [N]. top_k: as many of its classes are kept, or all of fewer.
    """

    members: tuple[torch.Tensor, ...]
    top_k: int

    @classmethod
    def of_classes(cls, classes: int, top_k: int) -> Softmaxes:
        """Return the one softmax over all classes."""
        return cls((torch.arange(classes),), top_k)

    @property
    def kept(self) -> list[int]:
        """The number of classes kept of each."""
        return [min(self.top_k, len(columns)) for columns in self.members]

    def shorten(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the columns kept of `logits` [B, C], int64 [B, K], and as float16 their shares and the rests [B, S].

        K runs over the classes kept of all S softmaxes, one softmax after the other.
        """
        parts = []
        for columns, kept in zip(self.members, self.kept, strict=True):
            there = columns.to(logits.device)
            shares, places = torch.softmax(logits[:, there].float(), dim=1).topk(kept, dim=1)
            rest = (1 - shares.sum(dim=1, keepdim=True)).clamp(min=0)
            parts.append((there[places], shares.half(), rest.half()))
        classes, shares, rests = (torch.cat(several, dim=1) for several in zip(*parts, strict=True))
        return classes, shares, rests

    def whole(self, classes: torch.Tensor, shares: torch.Tensor, rests: torch.Tensor) -> tuple[TopShares, ...]:
        """Return each softmax, its shares adding up to 1 again after they were rounded to float16."""
        found = []
        of_each = (torch.split(part, self.kept, dim=1) for part in (classes.long(), shares.float()))
        for its_classes, its_shares, rest in zip(*of_each, rests.float().unbind(1), strict=True):
            total = its_shares.sum(dim=1) + rest
            found.append(TopShares(its_classes, its_shares / total[:, None], rest / total))
        return tuple(found)

    def logits(self, taught: Sequence[TopShares], width: int) -> torch.Tensor:
        """Return logits [B, `width`] with these softmaxes; the rest of each lies evenly on its other classes.

        Columns of no softmax are 0, those of a share that was rounded to 0 are -inf.
        """
        found = taught[0].shares.new_zeros(len(taught[0].shares), width)
        for columns, top in zip(self.members, taught, strict=True):
            others = max(1, len(columns) - top.classes.shape[1])
            found[:, columns.to(found.device)] = (top.rest / others).log()[:, None]
            found.scatter_(1, top.classes, top.shares.log())
        return found


def bytes_of_image(kept: Sequence[int]) -> int:
    """Return what an image takes in a shard: class and share for each one kept, a rest for each softmax, which image.

    kept: the number of classes kept of each softmax.
    """
    return 4 * sum(kept) + 2 * len(kept) + 4


def shorten(logits: torch.Tensor, top_k: int) -> TopShares:
    """Return the `top_k` largest shares of the softmax of `logits` [B, C], rounded as they are stored."""
    softmax = Softmaxes.of_classes(logits.shape[1], top_k)
    (found,) = softmax.whole(*softmax.shorten(logits))
    return found


class _Place(NamedTuple):
    """A batch of a run: its update, and the how manieth forward pass of it."""

    update: int
    part: int


class _Piece(NamedTuple):
    """The rows of a batch: which images, int32 [B]; uint16 and float16 [B, K]; the rests, float16 [B, S]."""

    images: NDArray[np.int32]
    classes: NDArray[np.uint16]
    shares: NDArray[np.float16]
    rest: NDArray[np.float16]


class TeacherMemory:
    """Keeps and finds what a teacher said to the batches of one process.

    folder: is made if missing. facts: all that decides what the teacher says to a batch and how much of it is kept; a
    folder of other facts is refused with a UsageError. softmaxes: of the teacher's head. answers: batches times images
    of the run. most: this process holds no more bytes there; what does not fit is computed every time. rank: of the
    process.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        softmaxes: Softmaxes,
        answers: int,
        most: float,
        rank: int = 0,
    ) -> None:
        self.folder, self.softmaxes, self.most, self.rank = folder, softmaxes, most, rank
        self.bytes_each = bytes_of_image(softmaxes.kept)
        self.expected = answers * self.bytes_each
        self.reused = self.asked = 0
        self._own(facts)
        self.bytes = sum(path.stat().st_size for path in self._shards("*"))
        self._epoch, self._place = -1, _Place(0, 0)
        self._images: NDArray[np.int32] = np.empty(0, np.int32)
        self._known: dict[_Place, tuple[Path, slice]] = {}
        self._open: tuple[Path, _Piece] | None = None
        self._new: dict[_Place, _Piece] = {}

    def sentence(self) -> str:
        """Return what is kept and how much room it takes, for the opening of a run."""
        part = f", of which {self.most / self.expected:.0%} fit" if self.expected > self.most else ""
        levels = len(self.softmaxes.members)
        each = f" of each of {levels} levels" if levels > 1 else ""
        return (
            f"The teacher's {max(self.softmaxes.kept)} largest shares{each} and the rest's mass are kept in "
            f"'{self.folder}': {self.bytes_each} bytes an image, {self.expected / 1e6:,.2f} MB for this process of the "
            f"run{part}; {self.bytes / 1e6:,.2f} MB are there"
        )

    def outcome(self) -> str:
        """Return how often the teacher was asked, for the end of a run."""
        return (
            f"The teacher was asked {self.asked:,} times, and remembered {self.reused:,} times; '{self.folder}' holds "
            f"{self.bytes / 1e6:,.2f} MB of this process"
        )

    def _own(self, facts: Mapping[str, Any]) -> None:
        path = self.folder / KEY
        now = json.loads(json.dumps(facts))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                if any(self.folder.glob("*.safetensors")) or (self.folder / "config.json").exists():
                    raise UsageError(f"'{self.folder}' holds other files: give --teacher-cache a folder of its own.")
                replace_file(path, json.dumps(now, indent=1) + "\n")
            before = read_json(path)
        except OSError as error:
            raise UsageError(f"The teacher cache '{self.folder}' cannot be used: {error.strerror or error}.") from None
        if before != now:
            differs = [
                f"{key} was {before.get(key)!r}, is {value!r}" for key, value in now.items() if before.get(key) != value
            ]
            raise UsageError(
                f"The teacher cache '{self.folder}' is of other batches or another teacher ({'; '.join(differs[:3])}): "
                "choose another folder with --teacher-cache, or remove this one."
            )
        sweep(self.folder)

    def _shards(self, epoch: int | str) -> list[Path]:
        number = epoch if isinstance(epoch, str) else f"{epoch:05d}"
        return sorted(self.folder.glob(f"epoch-{number}-process-{self.rank:03d}-*.safetensors"))

    def at(self, epoch: int, update: int, part: int, images: torch.Tensor) -> None:
        """Say which batch comes next: forward pass `part` of `update`, made of these images (int64 [B])."""
        if epoch != self._epoch:
            self.flush()
            self._epoch, self._open = epoch, None
            self._known = {place: found for path in self._shards(epoch) for place, found in _contents(path)}
        self._place, self._images = _Place(update, part), images.numpy().astype(np.int32)

    def recall(self, device: torch.device) -> tuple[TopShares, ...] | None:
        """Return what the teacher said to this batch, a value for each softmax of its head.

        None when it was never asked, or an image of it is missing.
        """
        found = self._find()
        if found is None or not np.array_equal(found.images, self._images):
            self.asked += 1
            return None
        self.reused += 1
        rests = found.rest.reshape(len(found.rest), -1)  # earlier shards of one softmax have them as [B]
        parts = (found.classes.astype(np.int64), found.shares, rests)
        return self.softmaxes.whole(*(torch.from_numpy(part).to(device) for part in parts))

    def _find(self) -> _Piece | None:
        if self._place in self._new:
            return self._new[self._place]
        if self._place not in self._known:
            return None
        path, rows = self._known[self._place]
        if self._open is None or self._open[0] != path:
            from safetensors.numpy import load_file

            held = load_file(path)
            self._open = path, _Piece(*(held[name] for name in _Piece._fields))
        held_by = self._open[1]
        return _Piece(held_by.images[rows], held_by.classes[rows], held_by.shares[rows], held_by.rest[rows])

    def keep(self, logits: torch.Tensor) -> tuple[TopShares, ...]:
        """Return the teacher's shortened answer to this batch, and remember it where there is room."""
        classes, shares, rest = self.softmaxes.shorten(logits)
        if self._room(len(logits)):
            parts = (classes.cpu().numpy().astype(np.uint16), shares.cpu().numpy(), rest.cpu().numpy())
            self._new[self._place] = _Piece(self._images, *parts)
            if self._pending() >= _SHARD_BYTES:
                self.flush()
        return self.softmaxes.whole(classes, shares, rest)

    def _pending(self) -> int:
        return sum(len(piece.images) for piece in self._new.values()) * self.bytes_each

    def _room(self, images: int) -> bool:
        return self.bytes + self._pending() + images * self.bytes_each <= self.most

    def flush(self) -> None:
        """Write what is remembered and in no shard yet."""
        if not self._new:
            return
        from safetensors.numpy import save

        first = min(self._new)
        places = np.array([(*place, len(piece.images)) for place, piece in self._new.items()], np.int64)
        rows = {name: np.concatenate([getattr(piece, name) for piece in self._new.values()]) for name in _Piece._fields}
        content = save({"batches": places, **rows})
        name = f"epoch-{self._epoch:05d}-process-{self.rank:03d}-update-{first.update:09d}-{first.part:03d}.safetensors"
        replace_file(self.folder / name, content)
        self.bytes += len(content)
        self._known |= dict(_contents(self.folder / name))
        self._new = {}


def _contents(path: Path) -> list[tuple[_Place, tuple[Path, slice]]]:
    """Return which batches a shard holds, and in which rows."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            batches = file.get_tensor("batches").tolist()
    except (SafetensorError, OSError) as error:
        raise UsageError(f"The shard '{path}' of the teacher cache cannot be read ({error}): remove it.") from None
    stops = np.cumsum([rows for _, _, rows in batches]).tolist()
    return [
        (_Place(update, part), (path, slice(stop - rows, stop)))
        for (update, part, rows), stop in zip(batches, stops, strict=True)
    ]
