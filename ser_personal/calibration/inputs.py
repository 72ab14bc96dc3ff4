"""What a calibrator is given, and what it has to be for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.speakers.bank import SpeakerBank


def check_inputs(
    predictions: NDArray[np.float64],
    speaker_ids: Sequence[str | None],
    pooled: NDArray[np.float64],
    bank: SpeakerBank,
    attributes: tuple[str, ...],
) -> None:
    """Refuse predictions that a bank can't calibrate.

    Raises:
        UserError: an empty bank, attributes that aren't the bank's, shapes that don't match, or a NaN or infinity.
    """
    if not bank.speaker_ids:
        raise UserError(
            "the bank holds no speaker",
            where="speaker bank",
            remedy="Build it over training utterances whose speakers are known",
        )
    if not set(attributes) <= set(bank.attributes):
        raise UserError(
            f"predictions of {', '.join(attributes)}, but label statistics of {', '.join(bank.attributes)}",
            where="speaker bank",
            remedy="Build a bank with the attributes that the model predicts",
        )
    shape, dim = (len(speaker_ids), len(attributes)), bank.vectors.shape[1]
    if predictions.shape != shape or pooled.shape != (len(speaker_ids), dim):
        raise UserError(
            f"predictions {predictions.shape} and pooled {pooled.shape} are not {shape} and {(len(speaker_ids), dim)}",
            where="calibration",
            remedy="Give one row an utterance, pooled by the model that made the bank",
        )
    for name, array in (("prediction", predictions), ("pooled vector", pooled)):
        finite = np.isfinite(array).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise UserError(
                f"the {name} of utterance {row} holds NaN or infinity",
                where="an unknown speaker" if speaker_ids[row] is None else f"speaker {speaker_ids[row]}",
                remedy="Check the speaker's audio files and that the model's weights are finite",
            )
