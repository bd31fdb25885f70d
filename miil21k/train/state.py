"""What a run needs to go on after a kill: one state file, replaced whole, beside the weights that users load.

Every random draw of a run is a function of its seed and of where the run stands (epoch, update, position of the
image, process), so the seed and three counters stand for the state of every generator and of the sampler.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from miil21k.errors import CheckpointError, CheckpointMismatch
from miil21k.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "AVERAGED",
    "BEST",
    "LAST",
    "STATE",
    "WEIGHTS",
    "TrainProgress",
    "Trained",
    "load_state",
    "save_state",
    "save_weights",
]

STATE = "state.pt"
LAST, AVERAGED, BEST = WEIGHTS = ("last.safetensors", "last_ema.safetensors", "best.safetensors")
_FORMAT = 1


@dataclass
class TrainProgress:
    """Where a run stands.

    epoch: epochs finished. batch: batches of the current epoch that are used up. updates: optimizer updates done.
    best, best_epoch: the best validation metric so far (nan before the first) and the epoch it was reached in.
    loss_sum, images: of the current epoch so far. unreadable: images left out so far. data_seconds, step_seconds:
    time spent waiting for batches and working on them, in this epoch.
    """

    epoch: int = 0
    batch: int = 0
    updates: int = 0
    best: float = float("nan")
    best_epoch: int = -1
    loss_sum: float = 0.0
    images: int = 0
    unreadable: int = 0
    data_seconds: float = 0.0
    step_seconds: float = 0.0


@dataclass
class Trained:
    """The stateful parts of a run; ema and scaler are None when the recipe does without."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    ema: Any = None
    scaler: torch.amp.GradScaler | None = None


def save_state(path: Path, trained: Trained, progress: TrainProgress, run_id: str) -> None:
    """Replace the state file at `path`; it holds tensors, numbers and strings only.

    run_id: names the configuration of the run, so that a state is never continued by another one.
    """
    content = {
        "format": _FORMAT,
        "run_id": run_id,
        "model": trained.model.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "ema": trained.ema.state_dict() if trained.ema is not None else None,
        "scaler": trained.scaler.state_dict() if trained.scaler is not None else None,
        "progress": asdict(progress),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    replace_file(path, buffer.getvalue())


def load_state(path: Path, trained: Trained, run_id: str) -> TrainProgress:
    """Put the state file at `path` into `trained` and return where the run stood.

    Raises CheckpointError for a damaged file, CheckpointMismatch when it belongs to another configuration.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise CheckpointError(f"The state file '{path}' cannot be read ({error}); start the run again.") from None
    if content.get("format") != _FORMAT or content.get("run_id") != run_id:
        raise CheckpointMismatch(
            f"The state file '{path}' was written by a run with another configuration; resume with the model, recipe "
            "and data of its config.json, or start a new run in another folder."
        )
    try:
        trained.model.load_state_dict(content["model"])
        trained.optimizer.load_state_dict(content["optimizer"])
        if trained.ema is not None:
            trained.ema.load_state_dict(content["ema"])
        if trained.scaler is not None:
            trained.scaler.load_state_dict(content["scaler"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointMismatch(f"The state file '{path}' does not fit the model: {error}") from None
    return TrainProgress(**content["progress"])


def save_weights(path: Path, state_dict: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Replace the safetensors checkpoint at `path`; metadata: what loading it needs, as safetensors stores it."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    replace_file(path, save(tensors, dict(metadata)))
