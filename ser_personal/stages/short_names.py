"""The files whose classes a config names by short class names, `CSVCorpus`: jsonargparse finds what is imported."""

# ruff: noqa: F401
from __future__ import annotations

import ser_personal.calibration.callback
import ser_personal.corpus.csv_corpus
import ser_personal.corpus.msp_podcast
import ser_personal.data.cache_statistics
import ser_personal.data.cached_datamodule
import ser_personal.data.emotion_datamodule
import ser_personal.data.pretrain_datamodule
import ser_personal.data.speaker_features
import ser_personal.encoder.cached
import ser_personal.encoder.raw
import ser_personal.encoder.tiny
import ser_personal.finetune.adversary
import ser_personal.finetune.emotion_classification
import ser_personal.finetune.global_batch
import ser_personal.finetune.losses
import ser_personal.finetune.module
import ser_personal.finetune.similar_speakers
import ser_personal.finetune.transformer_interpreter
import ser_personal.pretrain.adapt
import ser_personal.pretrain.papt
import ser_personal.report.cost_recorder
import ser_personal.report.floor_callback
import ser_personal.speakers.features
import ser_personal.training.stage_checkpoint
