"""Bundles: a trained model as a folder that can be shared, without pickle."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ser_personal.calibration.conformal import ConformalTable
    from ser_personal.calibration.posterior_file import Fitted
    from ser_personal.recognition.causal import PLDCSettings
    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.speakers.bank import SpeakerBank

FORMAT = "ser_personal.bundle"
FORMAT_VERSION = 3
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
BANK = "speaker_bank.safetensors"
POSTERIOR = "posterior.json"
CONFORMAL = "conformal.json"
CARD = "README.md"
ONNX = "model.onnx"
# what config.json names by its content, so that no file of another bundle passes for it
HASHED = (WEIGHTS, BANK, POSTERIOR, CONFORMAL)
FILES = (CONFIG, PREPROCESSOR, WEIGHTS, BANK, POSTERIOR, CONFORMAL, CARD)

CalibrationName = Literal["pldc", "posterior", "none"]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained model and what its predictions are calibrated and judged by.

    Attributes:
        network: encoder, speaker table and interpreter.
        model: names the weights, 32 hex digits.
        attributes: what it predicts, in the order of its outputs.
        scale: least and greatest label, None where nobody said.
        max_samples: the longest utterance that it was trained on, in samples.
        pldc: settings of PLDC.
        bank: the training speakers, or groups of them; None where PLDC can't calibrate.
        posterior: attribute -> fitted posterior; None where none was fitted.
        calibration: which of these calibrates unless another is asked for.
        conformal: half-widths of intervals around predictions calibrated so; None where they weren't measured.
    """

    network: EmotionNetwork
    model: str
    attributes: tuple[str, ...]
    scale: tuple[float, float] | None
    max_samples: int
    pldc: PLDCSettings
    bank: SpeakerBank | None = None
    posterior: Fitted | None = None
    calibration: CalibrationName = "pldc"
    conformal: ConformalTable | None = None


def weights_name(network: EmotionNetwork) -> str:
    """Hash of the weights, 32 hex digits."""
    import torch

    state = blake2b(digest_size=16)
    for name, weight in network.state_dict().items():
        state.update(name.encode())
        state.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
