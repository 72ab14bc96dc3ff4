"""Parts of a model that don't go together, refused before anything is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.encoder.cached import CachedFeatures
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from ser_personal.encoder.base import Encoder
    from ser_personal.finetune.interpreters import Interpreter
    from ser_personal.types import FusionName


def refuse_unseen_prefix(encoder: Encoder, interpreter: Interpreter, fusion: FusionName | None) -> None:
    """Refuse a prefixed e_s that neither a frame nor the interpreter would see: it would be no fusion at all.

    Raises:
        UserError: it is asked for.
    """
    if fusion == "prefix" and not (encoder.mixes_frames or interpreter.reads_speaker):
        raise UserError(
            f"no frame of {type(encoder).__name__} sees e_s, nor does {type(interpreter).__name__} read it",
            where="--model.fusion prefix",
            remedy="Give --model.fusion last, or --model.interpreter TransformerInterpreter",
        )


def refuse_papt_of_cached(encoder: Encoder, papt_checkpoint: str | None) -> None:
    """Refuse an encoder from PAPT beside its features: what is cached of it is made already.

    Raises:
        UserError: it is asked for.
    """
    if papt_checkpoint is not None and isinstance(encoder, CachedFeatures):
        raise UserError(
            "brings an encoder, and CachedFeatures need none",
            where=f"--model.papt_checkpoint {papt_checkpoint}",
            remedy=f"Leave it out, and give --data.cache what `ser cache --checkpoint {papt_checkpoint}` wrote",
        )
