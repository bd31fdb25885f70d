"""Configurations as timm writes them: of our rows, of timm's own weights, of a repository of the Hub. Pure functions.

Importing this module makes `ofa_flops_595m_s`, the one architecture that timm lacks, known to timm; nothing else.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, cast

from timm.data import resolve_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg, is_model, is_model_pretrained, list_pretrained
from timm.models._hub import _parse_model_cfg
from timm.models._registry import get_deprecated_models

import miil21k.models.ofa  # noqa: F401 - registers the architecture
from miil21k.errors import CheckpointError
from miil21k.records import FrozenMapping, parse, read_record, to_json
from miil21k.zoo.schema import SECOND_NAMES, Preprocess, Source, Weights, foreign_network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miil21k.zoo.schema import FileFormat

__all__ = [
    "OWN_KEY",
    "current_name",
    "own_preprocess",
    "row_of_hub",
    "row_of_tag",
    "tags_of",
    "timm_cfg",
    "trained_cfg",
]

OWN_KEY = "miil21k"  # in config.json of what `miil21k push` put on the Hub
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
_FORMATS: dict[str, FileFormat] = {"safetensors": "safetensors", "pth": "pth", "pt": "pth", "bin": "pth", "tar": "pth"}
# What timm's own loader looks for in a repository whose configuration names no file.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_FIELDS = {field.name for field in fields(PretrainedCfg)}
_SOURCE_FIELDS = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}


def timm_cfg(weights: Weights, preprocess: Preprocess | None = None) -> PretrainedCfg:
    """Return timm's configuration of these weights, so that `timm.data.resolve_model_data_config` is right.

    It is what timm has for these weights, or else for their architecture, with what the row states in its place.
    preprocess: the row's default when None.
    """
    own = _own_cfg(weights)
    chosen = preprocess or weights.preprocess
    stated: dict[str, Any] = {
        "architecture": weights.arch,
        "input_size": chosen.input_size,
        "interpolation": chosen.interpolation,
        "crop_pct": chosen.crop_pct,
        "crop_mode": chosen.crop_mode,
        "mean": chosen.mean,
        "std": chosen.std,
        "license": own.license if is_model_pretrained(weights.name) else weights.licence,
    }
    if weights.family != "timm":
        stated["tag"] = weights.name.partition(".")[2] or None
        stated["num_classes"] = weights.num_classes or weights.candidates[0].num_classes
    if own.pool_size is not None and own.input_size != chosen.input_size:  # the last map grows with the image
        sides = zip(own.pool_size, chosen.input_size[1:], own.input_size[1:], strict=True)
        stated["pool_size"] = tuple(cells * side // before for cells, side, before in sides)
    return replace(own, **stated)


def _own_cfg(weights: Weights) -> PretrainedCfg:
    """Return timm's configuration of the weights; of their architecture, without its files, where timm has none."""
    if weights.timm_config:
        return PretrainedCfg(**{key: _tupled(value) for key, value in weights.timm_config.items()})
    if is_model_pretrained(weights.name):
        return get_pretrained_cfg(weights.name) or PretrainedCfg()
    bare = get_pretrained_cfg(weights.arch, allow_unregistered=False) or PretrainedCfg()
    return replace(bare, url=None, hf_hub_id=None, hf_hub_filename=None, custom_load=False)


def trained_cfg(built: Mapping[str, Any], preprocess: Preprocess, num_classes: int, licence: str) -> dict[str, Any]:
    """Return the `pretrained_cfg` of a trained network for the `config.json` of the Hub.

    built: timm's configuration of the network as it was built, whose sources are left out. licence: empty for none.
    """
    left_out = {*_SOURCE_FIELDS, "architecture", "tag", "license", "label_names", "label_descriptions", "label_offset"}
    left_out |= {key for key in built if key.startswith(("test_", "paper_", "origin_", "notes"))}
    kept = {key: value for key, value in built.items() if key in _FIELDS - left_out and value is not None}
    stated = {key: value for key, value in preprocess._asdict().items() if key != "source"}
    if kept.get("pool_size") and tuple(kept["input_size"]) != preprocess.input_size:
        kept.pop("pool_size")
    return {
        **kept,
        **stated,
        "num_classes": num_classes,
        "custom_load": False,
        **({"license": licence} if licence else {}),
    }


def own_preprocess(arch: str) -> Preprocess:
    """Return how timm preprocesses for an architecture, one that it knows, by default."""
    return _preprocess(get_pretrained_cfg(arch) or PretrainedCfg(), f"timm's default for {arch}")


def _preprocess(cfg: PretrainedCfg, source: str) -> Preprocess:
    found = resolve_data_config(pretrained_cfg=cfg.to_dict())
    return Preprocess(
        input_size=found["input_size"],
        interpolation="bilinear" if found["interpolation"] == "bilinear" else "bicubic",
        crop_pct=found["crop_pct"],
        crop_mode="squash" if found["crop_mode"] == "squash" else "center",
        mean=found["mean"],
        std=found["std"],
        source=source,
    )


def current_name(name: str) -> str | None:
    """Return the name that timm has now for one that it had once, or that has a second name; None if it was removed."""
    name = {second: first for first, second in SECOND_NAMES.items()}.get(name, name)
    return cast("str | None", get_deprecated_models().get(name, name))


def tags_of(arch: str) -> tuple[str, ...]:
    """Return the names of the weights that timm has of an architecture, the default one first."""
    names = list_pretrained(f"{arch}.*")
    default = get_pretrained_cfg(arch) if names else None
    first = f"{arch}.{default.tag}" if default is not None else ""
    return tuple(sorted(names, key=lambda name: name != first))


def row_of_tag(name: str) -> Weights | None:
    """Return weights that timm publishes, such as `resnet50.a1_in1k`, as a row; None for another name.

    Its label space is None: timm states a class count, and a count names no label space.
    """
    if "." not in name or not is_model_pretrained(name):
        return None
    cfg = get_pretrained_cfg(name)
    assert cfg is not None
    assert cfg.architecture is not None
    return _row(name, cfg.architecture, cfg, {})


def row_of_hub(name: str, repo: str, revision: str | None, config: str) -> Weights:
    """Return the weights in a repository of the Hub as a row. config: the text of its `config.json`.

    Raises CheckpointError for a configuration that is not timm's, or whose architecture this timm does not know.
    """
    try:
        content = parse(config, dict)
        carded = isinstance(content.get(OWN_KEY), dict)
        stated, arch, arguments = _parse_model_cfg(content, {})
        plain = {key: _tupled(value) for key, value in stated.items() if key in _FIELDS - _SOURCE_FIELDS}
        cfg = PretrainedCfg(**plain, hf_hub_id=repo, hf_hub_filename=stated.get("hf_hub_filename"))
        known = is_model(arch) and foreign_network(arch, arguments) is None
        kept = {key: value for key, value in arguments.items() if key != "num_classes"}
        row = _row(name, arch, cfg, kept, revision)
        if carded:
            row = row._replace(carded=True, sources=row.sources[:1])
        read_record(Weights, to_json(row))  # whoever wrote the file may have written anything
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"The config.json of '{name}' is no configuration of timm.") from None
    if not known:
        raise CheckpointError(f"'{name}' holds a network that this timm does not know: {arch} with {arguments}.")
    return row


def _row(name: str, arch: str, cfg: PretrainedCfg, arguments: dict[str, Any], revision: str | None = None) -> Weights:
    return Weights(
        name=name,
        family="timm",
        arch=arch,
        arch_kwargs=FrozenMapping(arguments),
        head="leaf_softmax",
        num_classes=cfg.num_classes,
        preprocessings=FrozenMapping({"timm": _preprocess(cfg, "timm's configuration of these weights")}),
        preprocess_reason="timm states it for these weights.",
        sources=tuple(_sources(cfg, revision)),
        licence=cfg.license or "not stated",
        licence_source="timm's configuration of these weights",
        timm_config=FrozenMapping(cfg.to_dict()),
    )


def _sources(cfg: PretrainedCfg, revision: str | None) -> list[Source]:
    found = []
    if cfg.hf_hub_id:
        repo = cfg.hf_hub_id
        files = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _HUB_FILES
        found += [Source("hub", "hub", file, _format(file), repo=repo, revision=revision) for file in files]
    # An archive of NumPy needs a loader of its own for each family; timm keeps converted files on the Hub besides.
    if isinstance(cfg.url, str) and cfg.url.rpartition(".")[2] in _FORMATS:
        file = cfg.url.rpartition("/")[2]
        digits = _HASH_IN_NAME.search(file)
        prefix = digits[1] if digits else None
        found.append(Source("url", "timm_release", file, _format(file), url=cfg.url, sha256_prefix=prefix))
    return found


def _format(file: str) -> FileFormat:
    return _FORMATS.get(file.rpartition(".")[2], "pth")


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
