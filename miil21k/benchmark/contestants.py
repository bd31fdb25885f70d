"""What is compared: models by name, and files of one's own as NAME=FILE."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miil21k.environment import require
from miil21k.errors import Miil21kError, UsageError
from miil21k.runtime.export_cache import PACKAGES, Graph, ProvedExport, find_proved, making
from miil21k.runtime.loading import Loaded, load_model
from miil21k.runtime.registry import find_runtime
from miil21k.runtime.resolve import obtain_export, published_row
from miil21k.store.cache import Cache
from miil21k.store.integrity import tensors_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miil21k.benchmark.options import BenchmarkOptions
    from miil21k.runtime.base import Backend
    from miil21k.runtime.options import Dtype, LoadOptions
    from miil21k.runtime.resolve import Make

__all__ = ["Contestant", "Entry", "NotHere", "Roster", "read_contestants"]

RANDOM = "random"


class NotHere(Miil21kError):
    """A combination of model, runtime and precision that does not exist here; the message says why."""


class Contestant(NamedTuple):
    """One of the models that are compared.

    name: as it is printed. model: of the zoo or of timm, or a file. checkpoint: the file of its weights, None for the
    published ones. random: training starts from drawn weights; the trained ones tell how images are read.
    """

    name: str
    model: str
    checkpoint: Path | None = None
    random: bool = False

    def options(self, load: LoadOptions) -> LoadOptions:
        """Return what loads it, as `load` says."""
        return replace(load, checkpoint=self.checkpoint)


def read_contestants(words: Sequence[str], *, random: bool = False) -> tuple[Contestant, ...]:
    """Return what words of the command line mean: a model as `-m` takes it, or `NAME=FILE` for weights in a file.

    random: `random`, the first model with drawn weights, and `NAME=random` are taken as well.
    Raises UsageError for a file that is not there and for a model that is named twice.
    """
    found: list[Contestant] = []
    for word in words:
        model, equals, file = word.partition("=")
        if random and word == RANDOM:
            if not found:
                raise UsageError("'random' draws weights for the model before it: name one first, or NAME=random.")
            found.append(found[0]._replace(name=f"{found[0].model} (random)", random=True))
        elif random and equals and file == RANDOM:
            like = next((one for one in found if one.model == model), Contestant(model, model))
            found.append(like._replace(name=f"{model} (random)", random=True))
        elif equals and not Path(word).exists():
            if not Path(file).is_file():
                raise UsageError(f"There is no file '{file}': weights of your own are named NAME=FILE.")
            found.append(Contestant(model, model, Path(file)))
        else:
            found.append(Contestant(word, word))
    names = [one.name for one in found]
    found = [
        one._replace(name=f"{one.name}={one.checkpoint.name}") if names.count(one.name) > 1 and one.checkpoint else one
        for one in found
    ]
    twice = next((one.name for one in found if [other.name for other in found].count(one.name) > 1), None)
    if twice is not None:
        raise UsageError(f"'{twice}' is named twice.")
    return tuple(found)


@dataclass(frozen=True)
class Entry:
    """A contestant in one runtime and precision, ready to be started in this process or another.

    input_size: (3, H, W). parameters: how many, None where only an export is there. export: what the runtime opens, of
    the cache; None for torch and for an export that the user named.
    """

    contestant: Contestant
    runtime: str
    dtype: Dtype
    input_size: tuple[int, int, int]
    parameters: int | None
    export: ProvedExport | None = None

    def start(self, load: LoadOptions) -> Backend:
        """Return what computes it; raises what opening it does."""
        if self.export is not None:
            return self.export.start(self.dtype)
        return self.network(load).start()

    def network(self, load: LoadOptions) -> Loaded:
        """Return its network, to be started or trained."""
        options = replace(self.contestant.options(load), backend=self.runtime, dtype=self.dtype)
        return load_model(self.contestant.model, options, nameless=True)


class Roster:
    """A contestant with what is known of it once, whatever the runtime and precision.

    make: makes an export that the cache lacks (see `resolve`); None: none is made.
    """

    def __init__(self, contestant: Contestant, options: BenchmarkOptions, make: Make | None = None) -> None:
        self.contestant, self.options, self.make = contestant, options, make
        self._loaded: Loaded | None = None
        self._digest = ""

    def __repr__(self) -> str:
        return f"Roster({self.contestant.name!r})"

    def entry(self, runtime: str, dtype: Dtype) -> Entry:
        """Return the contestant in a runtime and precision.

        Raises NotHere where there is no such thing here, and what loading and exporting raise.
        """
        library, kind = find_runtime(runtime), self.options.load.device.partition(":")[0]
        own_export = self.contestant.model.endswith(".onnx")
        if library.library() is None:
            more = f"'miil21k[{library.extra}]'" if library.extra else library.package
            raise NotHere(f"{library.title} is not installed: pip install {more}")
        if dtype not in library.dtypes:
            raise NotHere(f"{library.title} computes in {' or '.join(library.dtypes)}")
        if kind != "auto" and kind not in library.devices:
            raise NotHere(f"{library.title} does not run on {kind}")
        if library.runs == "network":
            if own_export:
                raise NotHere(f"an export, which {library.title} does not run")
            return self._of_network(runtime, dtype)
        if own_export:
            found = load_model(self.contestant.model, replace(self.options.load, backend=runtime, dtype="fp32"))
            return Entry(self.contestant, runtime, dtype, found.preprocess.input_size, None)
        if kind not in ("auto", "cpu"):
            raise NotHere("the exports of the cache are for the CPU")
        return replace(self._of_network(runtime, dtype), export=self._export(runtime))

    def _of_network(self, runtime: str, dtype: Dtype) -> Entry:
        loaded = self._network()
        count = sum(parameter.numel() for parameter in loaded.model.parameters())
        return Entry(self.contestant, runtime, dtype, loaded.preprocess.input_size, count)

    def _network(self) -> Loaded:
        """Return the network in torch, never started, so that it stays as it is."""
        if self._loaded is None:
            options = replace(self.contestant.options(self.options.load), backend="torch", dtype="fp32")
            self._loaded = load_model(self.contestant.model, options, nameless=True)
            self._digest = tensors_digest(self._loaded.model)
        return self._loaded

    def _export(self, runtime: str) -> ProvedExport:
        options = self.contestant.options(self.options.load)
        weights = published_row(self.contestant.model, options)
        if weights is not None and weights.label_space is not None and self.contestant.checkpoint is None:
            if self.make is None:
                raise NotHere("no export may be made")
            return obtain_export(weights, replace(options, backend=runtime), runtime, self.make)
        loaded, library = self._network(), find_runtime(runtime).library()
        assert library is not None
        size = loaded.preprocess.input_size
        graph = Graph(loaded.name, self._digest, size, loaded.space.sha256, runtime, library)
        cache = Cache.at(options.cache_dir)
        with making(cache, graph):
            found = find_proved(cache, graph)
            if found is None and self.make is None:
                raise NotHere("no export may be made")
            if found is None:
                for package in PACKAGES:
                    require(package, "export", f"Making an export for the backend {runtime}")
                assert self.make is not None
                found = self.make(loaded, graph, cache)
        return found
