"""The folder that a repository of the Hub holds: weights, timm's configuration, label space, calibration and a card.

`timm.create_model('hf-hub:OWNER/REPOSITORY')` and the timm wrapper of `transformers` load it, and so does every verb of
miil21k, which reads label space and head in the weights' own metadata.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miil21k import __version__
from miil21k.calibrate.record import load_calibration
from miil21k.errors import CheckpointError, UsageError
from miil21k.files import atomic, replace_file
from miil21k.records import StrictJsonError, read_json, to_json
from miil21k.zoo.hub_readme import readme
from miil21k.zoo.names import CALIBRATION

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from miil21k.calibrate.record import Calibration
    from miil21k.zoo.checkpoint_card import TrainedCard

__all__ = ["Facts", "find_checkpoint", "write_folder"]

WEIGHTS, CONFIG, SPACE, README = "model.safetensors", "config.json", "label_space.tsv", "README.md"
REPORT = "report.json"
# What a run may hold, the best first: of a transfer, then of training.
_CHECKPOINTS = (WEIGHTS, "best.safetensors", "last_ema.safetensors", "last.safetensors")


@dataclass(frozen=True)
class Facts:
    """What only the author knows: licence (an identifier of the Hub, such as `mit`) and intended use; empty: not said.

    calibration: None takes the one that lies beside the checkpoint, where there is one.
    """

    licence: str = ""
    intended_use: str = ""
    calibration: Calibration | None = None


def find_checkpoint(run: Path) -> Path:
    """Return the checkpoint that `run` names: the file itself, or the best one of a folder of train or transfer.

    Raises UsageError where there is none.
    """
    if run.is_dir():
        found = next((run / name for name in _CHECKPOINTS if (run / name).is_file()), None)
        if found is not None:
            return found
        if any(run.glob("*.onnx")):
            raise UsageError(
                f"'{run}' holds an export and no checkpoint, and the Hub takes checkpoints: "
                "choose another way than k-NN, such as miil21k transfer --method probe."
            )
        raise UsageError(f"'{run}' holds no checkpoint: name the output folder of miil21k train or transfer.")
    if not run.is_file():
        raise UsageError(f"There is no run '{run}': name the output folder of miil21k train or transfer.")
    if run.suffix != ".safetensors":
        raise UsageError(f"'{run}' is no checkpoint of miil21k: name a .safetensors file, or the folder of a run.")
    return run


def write_folder(checkpoint: Path, folder: Path, repo: str, facts: Facts) -> tuple[str, ...]:
    """Write what `OWNER/REPOSITORY` shall hold into `folder`, and return the names of the files.

    The weights are copied; `format`, which `transformers` asks for, is added to their metadata.
    Raises CheckpointError for a file without a card of miil21k, CheckpointMismatch for tensors that do not fit it,
    UsageError for a calibration of another label space or head.
    """
    from miil21k.zoo.checkpoint_card import load_trained

    model, card = load_trained(checkpoint)
    report = _report(checkpoint.parent)
    beside = checkpoint.parent / CALIBRATION
    calibration = facts.calibration or (load_calibration(beside) if beside.is_file() else None)
    texts = {CONFIG: json.dumps(_config(card, model, facts), indent=2, ensure_ascii=False) + "\n"}
    texts[SPACE] = card.space.to_text()
    if calibration is not None:
        if (calibration.sha256, calibration.head) != (card.space.sha256, card.head):
            raise UsageError(
                f"The calibration is of a {calibration.head} head of '{calibration.label_space}', the checkpoint has a "
                f"{card.head} head of '{card.space.name}': name the calibration of this checkpoint."
            )
        texts[CALIBRATION] = calibration.to_json()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    calibrated = calibration is not None
    texts[README] = readme(repo, card, report, parameters, facts.licence, facts.intended_use, calibrated=calibrated)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CALIBRATION).unlink(missing_ok=True)  # of an earlier run
    _copy_weights(checkpoint, folder / WEIGHTS)
    for name, text in texts.items():
        replace_file(folder / name, text)
    return (WEIGHTS, *texts)


def _copy_weights(checkpoint: Path, target: Path) -> None:
    """Copy a safetensors file, whose metadata say `format` then.

    The same file gives the same bytes, so that a second push sends none. A file is the
    length of its header in 8 bytes, the header, and the tensors, whose places count from there.
    """
    with checkpoint.open("rb") as file, atomic(target) as part, part.open("wb") as copy:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header["__metadata__"]["format"] = "pt"
        text = json.dumps(header, ensure_ascii=False, sort_keys=True).encode()
        text += b" " * (-len(text) % 8)
        copy.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(file, copy, 1 << 20)


def _report(folder: Path) -> Mapping[str, Any]:
    """Return the report that a transfer left beside its checkpoint; empty where there is none."""
    try:
        found = read_json(folder / REPORT)
    except OSError:
        return {}
    except StrictJsonError as error:
        raise CheckpointError(f"{error} It would describe the model: mend it or move it away.") from None
    return found if isinstance(found, dict) else {}


def _config(card: TrainedCard, model: nn.Module, facts: Facts) -> dict[str, Any]:
    from miil21k.zoo.timm_config import OWN_KEY, trained_cfg

    space = card.space
    described = {w: _description(n, g) for w, n, g in zip(space.wnids, space.tree.names, space.glosses, strict=False)}
    return {
        "architecture": card.arch,
        "num_classes": space.num_classes,
        "num_features": model.num_features,
        "label_names": list(space.wnids),
        "label_descriptions": described,
        **({"model_args": to_json(dict(card.arch_kwargs))} if card.arch_kwargs else {}),
        "pretrained_cfg": trained_cfg(model.pretrained_cfg, card.preprocess, space.num_classes, facts.licence),  # type: ignore[arg-type]
        OWN_KEY: {
            "version": __version__,
            "head": card.head,
            "label_space": space.name,
            "label_space_sha256": space.sha256,
            "recipe": card.recipe,
        },
    }


def _description(name: str, gloss: str) -> str:
    return f"{name}: {gloss}" if gloss else name
