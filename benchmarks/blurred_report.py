"""The results of `semantic_softmax.py` as Markdown and as pictures."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from blurred_measures import ACCURACIES, RULES
from blurred_training import SCHEMES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from miil21k.decode.rules import DEFAULT_RULE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

Run = dict[str, Any]
TITLES = {name: scheme.title for name, scheme in SCHEMES.items()} | {"teacher": "the teacher (one run)"}
SEMANTIC = ("semantic", "semantic_kd", "semantic_kd10")
METRICS = {
    "semantic_top1": "semantic top-1",
    "semantic_top1_tree": "semantic top-1, from P(node)",
    "leaf": "leaf accuracy",
    "leaf_logit": "leaf accuracy, from logits",
    "probe": "linear probe",
}
AREAS = {
    "ac_depth": "AC depth",
    "ap_depth": "AP depth",
    "ac_info": "AC info",
    "ap_info": "AP info",
    "ac_exact": "AC exact",
    "recall_info_at_90": "R90 info",
    "recall_info_at_95": "R95 info",
}


def report(results: dict[str, Any]) -> str:
    """Return the Markdown section."""
    runs = results["runs"]
    sets = list(dict.fromkeys(run["set"] for run in runs))
    settings = results["settings"]
    parts = ["## Pretraining schemes on blurred labels", _settings_text(settings)]
    compared = [name for name in sets if any(run["set"] == name and run["scheme"] != "semantic" for run in runs)]
    for name in compared:
        mine = [run for run in runs if run["set"] == name]
        parts += [f"### {name}: schemes", _schemes(mine), "Difference to semantic softmax, seed by seed:", _pairs(mine)]
    parts += ["### Path probability of a level_softmax head", _rules_text(), *_rule_tables(runs, sets)]
    parts += ["### Operating curves of the schemes, raw", *(_scheme_curves(runs, name) for name in compared)]
    parts += ["### Hedged answers", _hedge_text(settings), _hedges(runs, compared)]
    return "\n\n".join(parts) + "\n"


def _settings_text(settings: dict[str, Any]) -> str:
    cifar, fashion = settings["images"]
    return (
        f"`benchmarks/semantic_softmax.py`: {cifar} images of CIFAR-10 and {fashion} of Fashion-MNIST, "
        f"{settings['epochs']} epochs, first convolution {settings['width']} channels wide; "
        f"{100 * settings['blur']:g} % of the training labels replaced by a random ancestor. All figures are percent, "
        f"on {settings['test_images']} test images with clean labels; mean ± standard deviation over seeds. "
        "Leaf accuracy: arg-max among the ten leaves, by P(exactly this class). The linear probe is on the other data "
        "set; the untrained network is its baseline. Every run has the same blurred labels and the same teacher, so "
        "the deviation holds the initial weights and the order of the images only."
    )


def _schemes(runs: list[Run]) -> str:
    rows = []
    for scheme, title in (TITLES | {"untrained": "untrained network"}).items():
        mine = [run for run in runs if run["scheme"] == scheme]
        if mine:
            rows.append([title, str(len(mine)), *(_mean(run[metric] for run in mine) for metric in METRICS)])
    return _table(["scheme", "seeds", *METRICS.values()], rows)


def _pairs(runs: list[Run]) -> str:
    base = {run["seed"]: run for run in runs if run["scheme"] == "semantic"}
    rows = []
    for scheme in SCHEMES:
        mine = [run for run in runs if run["scheme"] == scheme and run["seed"] in base]
        if mine and scheme != "semantic":
            cells = [_mean((run[m] - base[run["seed"]][m] for run in mine), sign="+") for m in METRICS]
            rows.append([TITLES[scheme], *cells])
    return _table(["scheme less semantic softmax", *METRICS.values()], rows)


def _rules_text() -> str:
    return (
        "Over all runs of the semantic schemes. Areas under the operating curve (Valmadre 2022): AC under correct over "
        "recall, AP under precision over recall; R90 and R95, the largest recall at which 90 % and 95 % of the answers "
        f"are correct; top-1: accuracy among the ten classes by P(exactly this class). Differences to `{DEFAULT_RULE}` "
        "are within one network. Tempered: one temperature per depth, fitted on the other half of the test images. "
        "*Two inner classes*: two of the ten are inner nodes, each above another one (motor vehicle and ungulate for "
        "automobile and deer; shirt and shoe for shirt and sneaker), and an answer below the label is wrong. A step to "
        "an only child holds no information, so it counts in depth and in exact, and not in info."
    )


def _rule_tables(runs: list[Run], sets: list[str]) -> Iterable[str]:
    for name in sets:
        mine = [run for run in runs if run["set"] == name and run["scheme"] in SEMANTIC]
        if mine:
            titles = [f"{name}, {len(mine)} networks", *AREAS.values(), "top-1"]
            rows = [row for kind in ("raw", "tempered") for row in _rule_rows(mine, kind)]
            yield _table(titles, rows)


def _rule_rows(runs: list[Run], kind: str) -> Iterable[list[str]]:
    cells = [_mean(_area(run, kind, DEFAULT_RULE, area) for run in runs) for area in AREAS]
    top = [run["curves"]["exact_class"] for run in runs] if kind == "raw" else []
    yield [f"`{DEFAULT_RULE}`, {kind}", *cells, _mean(each[DEFAULT_RULE] for each in top) if top else ""]
    for rule in RULES:
        if rule != DEFAULT_RULE:
            cells = [
                _mean((_area(run, kind, rule, area) - _area(run, kind, DEFAULT_RULE, area) for run in runs), sign="+")
                for area in AREAS
            ]
            better = _mean((each[rule] - each[DEFAULT_RULE] for each in top), sign="+") if top else ""
            yield [f"`{rule}` less `{DEFAULT_RULE}`, {kind}", *cells, better]


def _area(run: Run, kind: str, rule: str, area: str) -> float:
    value: float = run["curves"][kind][rule][area]
    return value


def _rule_of(run: Run) -> str:
    head: str = run["head"]
    return DEFAULT_RULE if head == "level_softmax" else head


def _scheme_curves(runs: list[Run], name: str) -> str:
    rows = []
    for scheme, title in TITLES.items():
        mine = [run for run in runs if run["set"] == name and run["scheme"] == scheme]
        if mine:
            rows.append([title, *(_mean(_area(run, "raw", _rule_of(run), area) for run in mine) for area in AREAS)])
    return _table([name, *AREAS.values()], rows)


def _hedge_text(settings: dict[str, Any]) -> str:
    return (
        f"{settings['splits']} random splits of the test images, the same ones for all networks: one half calibrates "
        "(temperatures and the hedge level), the other half is answered. Correct: mean over splits and networks, and "
        "the mean of the 5 % and 95 % quantiles over splits. Depth: the share of the label's path that the answer "
        "covers, 0 where it is wrong. Uncalibrated: the wanted share itself as the hedge level."
    )


def _hedges(runs: list[Run], sets: list[str]) -> str:
    rows = []
    for name in sets:
        for scheme, title in TITLES.items():
            mine = [run for run in runs if run["set"] == name and run["scheme"] == scheme]
            rows += [_hedge_row(f"{name}, {title}", mine, f"{accuracy:g}") for accuracy in ACCURACIES if mine]
    titles = ["network", "wanted", "correct", "5 %", "95 %", "depth", "correct, uncalibrated", "depth, uncalibrated"]
    return _table(titles, rows)


def _hedge_row(title: str, runs: list[Run], accuracy: str) -> list[str]:
    found = [run["hedge"][accuracy] for run in runs]
    held = [entry for entry in found if entry["splits"]]
    wanted = f"{100 * float(accuracy):g}"
    plain = [
        f"{100 * statistics.mean(entry['uncalibrated'][key] for entry in found):.2f}" for key in ("correct", "depth")
    ]
    if not held:
        return [title, wanted, "no level", "", "", "", *plain]
    keys = [("correct", "mean"), ("correct", "q05"), ("correct", "q95"), ("depth", "mean")]
    return [title, wanted, *(f"{100 * statistics.mean(e[a][b] for e in held):.2f}" for a, b in keys), *plain]


def _mean(values: Iterable[float], sign: str = "") -> str:
    """Return percent, with the standard deviation when there are several values."""
    percent = [100 * value for value in values]
    mean = f"{statistics.mean(percent):{sign}.2f}"
    return f"{mean} ± {statistics.stdev(percent):.2f}" if len(percent) > 1 else mean


def _table(titles: list[str], rows: list[list[str]]) -> str:
    line: Callable[[list[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
    return "\n".join([line(titles), line(["---"] * len(titles)), *map(line, rows)])


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write `benchmarks_semantic_softmax.png` and `benchmarks_path_probability.png` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = results["runs"]
    sets = list(dict.fromkeys(run["set"] for run in runs))
    _draw_schemes(runs, sets, folder / "benchmarks_semantic_softmax.png")
    _draw_rules(runs, sets, folder / "benchmarks_path_probability.png")


def _draw_schemes(runs: list[Run], sets: list[str], path: Path) -> None:
    sets = [name for name in sets if any(run["set"] == name and run["scheme"] != "semantic" for run in runs)]
    shown = ("semantic_top1_tree", "leaf", "probe")
    figure = Figure(figsize=(10, 0.6 + 2.4 * len(sets)), layout="constrained")
    grid = figure.subplots(len(sets), len(shown), squeeze=False)
    names = [name for name in SCHEMES if any(run["scheme"] == name for run in runs)]
    for row, name in zip(grid, sets, strict=True):
        for axes, metric in zip(row, shown, strict=True):
            for place, scheme in enumerate(names):
                values = [100 * run[metric] for run in runs if run["set"] == name and run["scheme"] == scheme]
                if values:
                    axes.plot(values, [place] * len(values), "o", color="#7fb8a4", markersize=5)
                    axes.plot(statistics.mean(values), place, "|", color="#1c2127", markersize=16, markeredgewidth=2)
            floor = [100 * run["probe"] for run in runs if run["set"] == name and run["scheme"] == "untrained"]
            if metric == "probe" and floor:
                axes.axvline(statistics.mean(floor), color="0.5", linestyle="--")
            first = axes is row[0]
            axes.set_yticks(range(len(names)), [TITLES[scheme] if first else "" for scheme in names])
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_title(
                f"{name}\n{METRICS[metric]}, %" + (" (dashed: untrained)" if metric == "probe" else ""), size=9
            )
            axes.tick_params(labelsize=8)
            axes.grid(axis="x", alpha=0.3)
    _save(figure, path)


def _draw_rules(runs: list[Run], sets: list[str], path: Path) -> None:
    figure = Figure(figsize=(10, 8), layout="constrained")
    grid = figure.subplots(2, 2).flat
    for axes, name in zip(grid, sets, strict=False):
        first: dict[str, Run] = {}
        for run in runs:
            if run["set"] == name:
                first.setdefault(run["scheme"], run)
        if "semantic" in first:
            for rule in RULES:
                axes.plot(
                    *first["semantic"]["curves"]["points"][rule], label=f"semantic softmax, {rule}", linewidth=1.4
                )
        for scheme in ("single", "multi_bce"):
            if scheme in first:
                points = first[scheme]["curves"]["points"][first[scheme]["head"]]
                axes.plot(*points, label=TITLES[scheme], linewidth=1.2, linestyle="--")
        axes.set(xlabel="recall of information", ylabel="correct", title=name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    part = path.with_suffix(".part")
    FigureCanvasAgg(figure).print_png(str(part))
    part.replace(path)
