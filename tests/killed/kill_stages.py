"""The stages that are killed; another one is one entry of `stages`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from command_line import configs, finetune_arguments, papt_arguments, trainer_flags
from killing import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

TINY = ["--model.encoder", "TinyEncoder", "--model.encoder.dim", "16", "--model.encoder.layers", "1"]


def stages(corpus: Path, pseudo_labels: Path) -> Mapping[str, Stage]:
    """Everything that goes on where it was killed, by name."""

    def kmeans(folder: Path) -> list[str]:
        data = ["--data.corpus", str(corpus), "--data.batch_seconds", "4", "--data.num_workers", "0"]
        return ["kmeans", *configs("kmeans.yaml", "tiny/kmeans.yaml"), *data, "--num_clusters", "12", "--out", f"{folder}/ids"]

    def papt(folder: Path) -> list[str]:
        small = ["--data.batch_seconds", "12", *TINY]
        return ["fit", *papt_arguments(corpus, pseudo_labels), *small, *trainer_flags(folder, 3), *broken("papt", "val_loss", "min")]

    def finetune(folder: Path) -> list[str]:
        # dropout, and a chance that a speaker counts as unseen: randomness that has to go on, too
        small = ["--data.max_batch", "8", "--model.encoder.dropout", "0.1", "--model.unseen_share", "0.5", *TINY]
        return ["fit", *finetune_arguments(corpus), *small, *trainer_flags(folder, 3), *broken("finetune", "val_ccc", "max")]

    return {
        "kmeans": Stage(kmeans, every_byte, lambda one, two: one == two),
        "papt": Stage(papt, trained("papt"), close),
        "finetune": Stage(finetune, trained("finetune"), close),
    }


def broken(name: str, monitor: str, mode: str) -> list[str]:
    """Keep a checkpoint after every step, and go on from the newest where there is one."""
    arguments = {"name": name, "monitor": monitor, "mode": mode, "every_n_steps": 1}
    callbacks = [{"class_path": "StageCheckpoint", "init_args": arguments}]
    return ["--config", json.dumps({"trainer": {"callbacks": callbacks}}), "--ckpt_path", "last"]


def every_byte(folder: Path) -> dict[str, bytes]:
    """Read codebook and pseudo-labels."""
    return {path.name: path.read_bytes() for path in sorted((folder / "ids").iterdir()) if path.suffix != ".tmp"}


def trained(name: str):
    def read(folder: Path) -> dict[str, np.ndarray]:
        """Read the weights of the best and the newest model, and the scores they were chosen by."""
        values: dict[str, np.ndarray] = {}
        for which in (name, f"{name}-last"):
            checkpoint = torch.load(folder / f"{which}.ckpt", weights_only=True)
            (kept,) = (state for key, state in checkpoint["callbacks"].items() if "StageCheckpoint" in key)
            values |= {f"{which} {key}": weight.numpy() for key, weight in checkpoint["state_dict"].items()}
            values |= {f"{which} {key}": np.array(kept[key]) for key in ("best_model_score", "current_score")}
            values |= {f"{which} {key}": np.array(checkpoint[key]) for key in ("epoch", "global_step")}
        return values

    return read


def close(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(np.allclose(one[key], two[key], rtol=0, atol=1e-6) for key in one)
