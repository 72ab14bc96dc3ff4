"""Checkpoints that a fine-tuning may start from, and what they have to be for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ser_personal.encoder.checkpoint import DESCRIPTION, read_checkpoint
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# the adversary's weights in a checkpoint, and the key of its speakers
ADVERSARY = "adversary"


def read_pretrained(path: str, fusion: str | None) -> dict[str, Any]:
    """Read a checkpoint of PAPT or TAPT.

    Args:
        path: of the checkpoint.
        fusion: that it must have; any if None.

    Raises:
        UserError: it is none, or has another fusion.
    """
    checkpoint = read_checkpoint(path)
    if "head.label_embeddings" not in checkpoint["state_dict"]:
        raise UserError(
            "isn't a checkpoint of PAPT or TAPT",
            where=path,
            remedy="Give one written by `ser fit --config configs/papt.yaml`",
        )
    _check_fusion(checkpoint, fusion, path, "pre-train")
    return checkpoint


def read_finetuned(path: str, fusion: str | None, targets: str, wanted: Sequence[str] | None) -> dict[str, Any]:
    """Read a fine-tuned checkpoint.

    Args:
        path: of the checkpoint.
        fusion: that it must have; any if None.
        targets: the argument that says what it predicts, `attributes` or `emotions`.
        wanted: what it must predict; anything of that kind if None.

    Raises:
        UserError: it isn't fine-tuned, has another fusion, or predicts something else.
    """
    checkpoint = read_checkpoint(path)
    if not any(name.startswith("interpreter.") for name in checkpoint["state_dict"]):
        raise UserError(
            "isn't a fine-tuned checkpoint",
            where=path,
            remedy="Give one written by `ser fit --config configs/finetune.yaml`, or --model.papt_checkpoint",
        )
    trained = checkpoint["hyper_parameters"].get(targets)
    if trained is None or (wanted is not None and list(trained) != list(wanted)):
        raise UserError(
            f"was trained for {', '.join(trained)}" if trained else f"wasn't trained for {targets}",
            where=path,
            remedy=f"Give --model.{targets} as it was trained"
            if trained
            else "Give the config that it was trained with",
        )
    _check_fusion(checkpoint, fusion, path, "train")
    return checkpoint


def without_adversary(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what only training needs."""
    return {name: weight for name, weight in weights.items() if not name.startswith(f"{ADVERSARY}.")}


def _check_fusion(checkpoint: dict[str, Any], fusion: str | None, path: str, how: str) -> None:
    trained = checkpoint[DESCRIPTION]["fusion"]
    if fusion not in {None, trained}:
        raise UserError(
            f"was {how}ed with fusion {trained}, not {fusion}",
            where=path,
            remedy=f"Leave --model.fusion out, or {how} with that fusion",
        )
