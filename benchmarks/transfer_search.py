"""BiT-HyperRule, which chooses nothing, against a search of 20 trials on two small sets: accuracy and cost of each.

    python benchmarks/transfer_search.py --caltech caltech101 --cifar cifar10      # <set>/{train,test}/<class>/
    python benchmarks/transfer_search.py --report

Both ways are the product's own, `--method hyperrule` and `--method search`, from the same weights on the same images.
The search's first ten trials are random, the others are Optuna's TPE; it judges them on a quarter of the images after
each epoch, gives up those below the median, and trains once more on all images by the best. Deviations, for a machine
without a GPU: every third class of Caltech-101 and ten images of each at 48 pixels, 30 of each class of CIFAR-10 at its
32 pixels; the rule takes `--updates` updates of 32 images, at its full rate, its milestones at the same parts of
the run; a trial of the search has `--epochs` epochs. A row is added to the results as it is done; a second call goes on
where the first one stopped, and begins a search that was interrupted anew, since its cost is measured.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transfer_rows import Lines, cut_rule, processor_seconds, subset

from miil21k.benchmark.contestants import Contestant
from miil21k.metrics.shares import wilson_interval
from miil21k.transfer.bench import Bench
from miil21k.transfer.dataset import open_data
from miil21k.transfer.job import Learnt, fitted_probe
from miil21k.transfer.methods import method
from miil21k.transfer.network import fine_tune
from miil21k.transfer.options import TransferOptions

if TYPE_CHECKING:
    from miil21k.transfer.job import Job

HERE = Path(__file__).parent
OUT = HERE / "results" / "transfer_search.jsonl"
FIELDS = ("data", "way")
PROBE, RULE, SEARCH = "probe", "BiT-HyperRule", "search"


class Cut(NamedTuple):
    """How many classes of a set, images of each to learn from, and to judge by; pixels."""

    classes: int
    train: int
    test: int
    size: int


CUTS = {"Caltech-101": Cut(30, 10, 20, 48), "CIFAR-10": Cut(10, 30, 60, 32)}


def main() -> None:
    args = arguments()
    lines = Lines(args.out, FIELDS)
    for name, data in (("Caltech-101", args.caltech), ("CIFAR-10", args.cifar)):
        if data is not None and not args.report:
            run(args, lines, name, data)
    print(report(lines))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caltech", type=Path, help="folder of train/<class>/ and test/<class>/")
    parser.add_argument("--cifar", type=Path, help="the same")
    parser.add_argument("-m", "--model", default="embedded")
    parser.add_argument("--updates", type=int, nargs="+", default=[60, 500], help="of the rule, a row each")
    parser.add_argument("--no-search", action="store_true", help="the rule and the probe alone")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6, help="of a trial")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "transfer_search")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", action="store_true", help="train nothing; print what --out holds")
    args = parser.parse_args()
    if not args.report and args.caltech is None and args.cifar is None:
        parser.error("--caltech or --cifar is needed to train")
    return args


def run(args: argparse.Namespace, lines: Lines, name: str, source: Path) -> None:
    cut = CUTS[name]
    folder = args.work / f"{name}-{cut.size}"
    data = subset(source, folder, cut.size * 9 // 8, cut.classes, train=cut.train, test=cut.test)
    options = TransferOptions(
        data=str(data),
        img_size=cut.size,
        backend="torch",
        rule_batch=32,
        epochs=args.epochs,
        trials=args.trials,
        workers=0,
        threads=1,
    )
    bench = Bench.of(Contestant(args.model, args.model), options, open_data(options), args.work / f"{name}-bench", None)
    ways: dict[str, Any] = {PROBE: lambda job: Learnt(fitted_probe(job, "logistic").classifier)}
    for updates in args.updates:
        ways[f"{RULE}, {updates} updates"] = lambda job, updates=updates: by_rule(job, updates)
    if not args.no_search:
        ways[f"{SEARCH}, {args.trials} trials"] = by_search
    for way, learn in ways.items():
        if lines.has(data=name, way=way):
            continue
        job = bench.job(bench.everything, way.replace(" ", "-").replace(",", ""), 0)
        shutil.rmtree(job.folder, ignore_errors=True)
        lines.start()
        learnt = learn(job)
        spent = processor_seconds()
        assert bench.data.test is not None
        logits = learnt.logits(bench.data.test, bench.judged, job.options)
        right = float((logits.argmax(1) == bench.judged.labels).mean())
        judging = round(processor_seconds() - spent, 1)
        lines.add(data=name, way=way, right=right, test=len(logits), judging=judging, **told(learnt))
        shutil.rmtree(job.folder, ignore_errors=True)


def by_rule(job: Job, updates: int) -> Learnt:
    """Return what the rule makes of the images in so many updates, its rate that of 512 images."""
    path = fine_tune(job.images, cut_rule(job, updates), job.options.model, job.folder / "rule", job.options)
    return Learnt(checkpoint=path)


def by_search(job: Job) -> Learnt:
    return method("search").run(replace(job, say=print), "search")


def told(learnt: Learnt) -> dict[str, Any]:
    """Return how the trials of a search ended."""
    trials = learnt.details.get("trials")
    if trials is None:
        return {}
    states = [trial["state"] for trial in trials]
    return {"trials": len(states), "given_up": states.count("pruned"), "lr": learnt.details["lr"]}


def report(lines: Lines) -> str:
    """Return a row for each set and way."""
    found = ["| images | way | accuracy (95 % band) | processor seconds |", "|---|---|---|---:|"]
    for row in lines:
        low, high = wilson_interval(row["right"], row["test"])
        given_up = f", {row['given_up']} given up" if "given_up" in row else ""
        band = f"{100 * row['right']:.1f} ({100 * low:.1f} to {min(100, 100 * high):.1f})"
        seconds = row["cpu_seconds"] - row["judging"]
        found.append(f"| {row['data']} | {row['way']}{given_up} | {band} | {seconds:.0f} |")
    return "\n".join(found)


if __name__ == "__main__":
    main()
