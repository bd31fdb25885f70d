"""Hyper-parameters by trials: Optuna proposes, training proceeds epoch by epoch, and what lags behind is given up."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from miil21k.environment import need
from miil21k.errors import Miil21kError, UsageError
from miil21k.files import replace_file
from miil21k.transfer.job import epochs_of, finetune_recipe, start_of
from miil21k.transfer.network import fine_tune
from miil21k.transfer.split import hold_out

if TYPE_CHECKING:
    from miil21k.train.loop import Report
    from miil21k.train.recipe import Recipe
    from miil21k.transfer.job import Job

__all__ = ["search"]

_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "interrupted"}


def search(job: Job, name: str) -> tuple[Recipe, list[dict[str, Any]]]:
    """Return the best recipe of `options.trials` trials, and a row for each of them.

    The trials are trained on the images but for `job.share`, and judged on those after every epoch; one that is
    worse than the median of the others at the same epoch is given up. A trial that diverges is a row, not an end. The
    study is kept in `runs/<name>/trials.log`: a search that was interrupted goes on, and a trial that was under way
    then is a row of its own (`interrupted`) and is begun anew. Raises UsageError when no trial
    came to an end, MissingExtra without Optuna.
    """
    optuna = need("optuna", "transfer", "A search")
    storages = need("optuna.storages.journal", "transfer", "A search", package="optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = job.options
    part = hold_out(job.features.labels, job.share, options.seed + 1, job.groups)
    small, judged = job.part(~part), job.part(part)
    folder = job.folder / "runs" / name
    start = start_of(small, name)
    storage = optuna.storages.JournalStorage(storages.JournalFileBackend(str(folder / "trials.log")))
    study = optuna.create_study(
        study_name="search",
        direction="maximize",
        storage=storage,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=options.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2),
    )

    def recipe_of(values: dict[str, Any], of: Job) -> Recipe:
        return finetune_recipe(of, epochs_of(job), **values)

    def trial_of(trial: Any) -> float:
        values = {
            "lr": trial.suggest_float("lr", 1e-5, 3e-3, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-4, 0.3, log=True),
            "layer_decay": trial.suggest_categorical("layer_decay", [0.65, 0.8, 1.0]),
            "mixup": trial.suggest_categorical("mixup", [0.0, 0.1, 0.2]),
            "label_smoothing": trial.suggest_categorical("label_smoothing", [0.0, 0.1]),
        }
        best = [0.0]

        def watch(report: Report) -> None:
            job.report(report)
            if report.metrics is None:
                return
            best[0] = max(best[0], report.metrics["top1"])
            trial.report(report.metrics["top1"], report.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        at = folder / f"trial-{trial.number:03d}"
        try:
            fine_tune(small.images, recipe_of(values, small), start, at, options, val=judged.images, report=watch)
        except UsageError:
            raise
        except Miil21kError as error:
            trial.set_user_attr("error", str(error))
            raise optuna.TrialPruned from None
        return best[0]

    states = optuna.trial.TrialState
    for trial in study.get_trials(states=[states.RUNNING]):  # of a process that was killed: this one holds the folder
        study.tell(trial.number, state=states.FAIL)
        study.enqueue_trial(trial.params)
        shutil.rmtree(folder / f"trial-{trial.number:03d}", ignore_errors=True)
    done = study.get_trials(states=[states.COMPLETE, states.PRUNED])
    for number in range(len(done), options.trials):
        study.optimize(trial_of, n_trials=1)
        last = study.trials[-1]
        shown = "diverged" if "error" in last.user_attrs else last.state.name.lower()
        job.say(f"trial {number + 1} of {options.trials}: {shown}, {_words(last)}")
    rows = [
        {
            "trial": trial.number,
            "state": "failed" if "error" in trial.user_attrs else _STATES[trial.state.name],
            "accuracy": trial.value,
            "error": trial.user_attrs.get("error"),
            **trial.params,
        }
        for trial in study.trials
        if trial.state.is_finished()  # one that waits to be begun anew is beyond the trials asked for
    ]
    replace_file(folder / "trials.json", json.dumps(rows, indent=2) + "\n")
    finished = [row for row in rows if row["state"] == "complete"]
    if not finished:
        raise UsageError(f"None of the {len(rows)} trials came to an end; the first failed so: {rows[0]['error']}")
    return recipe_of(dict(study.best_params), job), rows


def _words(trial: Any) -> str:
    values = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
    return values if trial.value is None else f"accuracy {trial.value:.4f} ({values})"
