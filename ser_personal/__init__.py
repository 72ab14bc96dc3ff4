"""Personalised continuous speech emotion recognition: PAPT, CCC fine-tuning and PLDC."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ser_personal.audio import num_frames as num_frames
    from ser_personal.calibration.pldc import calibrate as calibrate
    from ser_personal.calibration.posterior import PosteriorCalibrator as PosteriorCalibrator
    from ser_personal.corpus.csv_corpus import CSVCorpus as CSVCorpus
    from ser_personal.corpus.msp_podcast import MSPPodcast as MSPPodcast
    from ser_personal.data.emotion import EmotionDataModule as EmotionDataModule
    from ser_personal.data.pretrain import PretrainDataModule as PretrainDataModule
    from ser_personal.evaluation.pldc_callback import PLDCCallback as PLDCCallback
    from ser_personal.finetune.concordance import ccc as ccc
    from ser_personal.finetune.concordance import ccc_loss as ccc_loss
    from ser_personal.finetune.module import EmotionFineTuning as EmotionFineTuning
    from ser_personal.pretrain.masked_prediction import PredictionHead as PredictionHead
    from ser_personal.pretrain.masked_prediction import masked_prediction_loss as masked_prediction_loss
    from ser_personal.pretrain.masked_prediction import span_mask as span_mask
    from ser_personal.pretrain.papt import PAPT as PAPT
    from ser_personal.recognition.recognizer import EmotionRecognizer as EmotionRecognizer
    from ser_personal.speakers.bank import SpeakerBank as SpeakerBank
    from ser_personal.types import Utterance as Utterance

# Imported at first use: torch, lightning and transformers take 10 to 20 s, and `ser --help` needs none of them.
_HOMES = {
    "PAPT": "pretrain.papt",
    "CSVCorpus": "corpus.csv_corpus",
    "EmotionDataModule": "data.emotion",
    "EmotionFineTuning": "finetune.module",
    "EmotionRecognizer": "recognition.recognizer",
    "MSPPodcast": "corpus.msp_podcast",
    "PLDCCallback": "evaluation.pldc_callback",
    "PosteriorCalibrator": "calibration.posterior",
    "PredictionHead": "pretrain.masked_prediction",
    "PretrainDataModule": "data.pretrain",
    "SpeakerBank": "speakers.bank",
    "Utterance": "types",
    "calibrate": "calibration.pldc",
    "ccc": "finetune.concordance",
    "ccc_loss": "finetune.concordance",
    "masked_prediction_loss": "pretrain.masked_prediction",
    "num_frames": "audio",
    "span_mask": "pretrain.masked_prediction",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
