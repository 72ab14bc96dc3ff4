"""Annotated speech, or cached frames of it, for fine-tuning on attributes or categories, and its test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from math import isnan
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from ser_personal.audio import SAMPLE_RATE
from ser_personal.corpus.base import Corpus
from ser_personal.corpus.splits import ADAPTATION, canonical_splits
from ser_personal.data.augmentation import Augmentation
from ser_personal.data.datamodule import SpeechDataModule
from ser_personal.data.dataset import CachedDataset, UtteranceDataset, WholeUtterances
from ser_personal.data.frame_store import FeatureCache
from ser_personal.data.resumable_loader import SpeechLoader
from ser_personal.data.speaker_features import SpeakerNormalization
from ser_personal.errors import UserError, require_one_of
from ser_personal.files import content_hash
from ser_personal.types import ATTRIBUTES, EmotionBatch, Utterance

Target = Literal["attributes", "emotion"]
# a smaller one has neither a CCC nor batch statistics
MIN_BATCH = 2


@dataclass(frozen=True)
class SelectedSpeakers:
    """Training speakers that training is restricted to."""

    # speaker -> how often an epoch holds each of their utterances; never those of speakers not listed
    copies: Mapping[str, int]
    # speaker -> weight of their utterances in the loss, by default 1
    weights: Mapping[str, float]


class SpeakerSelection(ABC):
    """Chooses the training speakers that training is restricted to."""

    @abstractmethod
    def choose(self, training: Sequence[Utterance], targets: Sequence[Utterance]) -> SelectedSpeakers:
        """Choose training speakers for the speakers of target utterances, whose labels are unseen."""


class EmotionDataModule(SpeechDataModule[EmotionBatch]):
    """Whole utterances with their labels.

    Training and validation utterances without what is to be predicted are left out; test utterances aren't, since some
    releases hide their labels. The paper's batches are of 32 utterances, which MSP-Podcast's durations (at most 11 s)
    keep within the default budget.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        test_splits: to test on; all but train, validation and what `cut_test` cut off for adaptation if None.
        target: what is predicted: the emotion attributes, or categorical emotion.
        speaker_selection: chooses training speakers by the test's; all of them if None.
        augmentation: noise, reverberation and the like in training; none if None.
        **kwargs: as in `SpeechDataModule`.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        *,
        test_splits: list[str] | None = None,
        target: Target = "attributes",
        speaker_selection: SpeakerSelection | None = None,
        augmentation: Augmentation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(corpus, **kwargs)
        self.test_splits = test_splits
        require_one_of("target", target, Target)
        self.target = target
        self._speaker_selection = speaker_selection
        self.augmentation = augmentation

    @override
    def setup(self, stage: str | None = None) -> None:
        # whatever the stage can't use is refused before a model is built
        if stage in ("fit", None):
            if self.augmentation is not None:
                # which reads its folders
                self.augmentation.settings()
            self.indices_of(["train"])
            if any(len(batch) < MIN_BATCH for batch in self._sampler(self.epoch_indices, shuffle=True).plan(0)):
                what = "a training batch would be a single utterance, which has neither a CCC nor batch statistics"
                remedy = "Raise data.batch_seconds or data.max_batch, ask for fewer devices, or give more audio"
                raise UserError(what, where="batch_seconds, max_batch", remedy=remedy)
            self._require_different_labels()
        if stage in ("fit", "validate", None):
            self.indices_of(["validation"])
        if stage in ("test", "predict", None):
            self.indices_of(self.tested_splits)

    def _require_different_labels(self) -> None:
        if self.trainer and self.trainer.limit_val_batches == 0:
            return
        module = getattr(self.trainer, "lightning_module", None)
        names = ["emotion"] if self.target == "emotion" else getattr(module, "attributes", ()) or ATTRIBUTES
        labels = [self._labels_of(self.utterances[i]) for i in self.indices_of(["validation"])]
        constant = [name for name in names if len({each[name] for each in labels if name in each}) < 2]
        if len(constant) == len(names):
            what = f"has fewer than two different labels of {', '.join(names)}: no epoch's model can be the best"
            remedy = "Give the validation set utterances of different labels"
            raise UserError(what, where="split validation", remedy=remedy)
        if self.trainer and constant:
            names = " and ".join(constant)
            rank_zero_info(f"validation has no two different labels of {names}: the best epoch is chosen without")

    @cached_property
    @override
    def dataset(self) -> UtteranceDataset:
        return WholeUtterances(
            self.utterances, max_samples=self.max_samples, augmentation=self.augmentation, seed=self.seed
        )

    @override
    def longest_of(self, utterance: Utterance) -> int:
        length = self.length_of(utterance)
        return length if self.augmentation is None else min(self.augmentation.longest(length), self.max_samples)

    @override
    def settings(self) -> dict[str, Any]:
        now = self.augmentation.settings() if self.augmentation else {each.name: None for each in fields(Augmentation)}
        return {**super().settings(), **{f"augmentation.{name}": now[name] for name in now}}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scale": list(self.scale)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        low, high = state_dict.get("scale", self.scale)
        predicts = self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING
        has_labels = self.target == "attributes" and not predicts and any(map(self._labels_of, self.utterances))
        if (low, high) != self.scale and has_labels:
            own = f"{self.scale[0]:g} to {self.scale[1]:g}"
            what = f"was trained on labels from {low:g} to {high:g}, and this corpus's scale is {own}"
            remedy = "Bring its labels to that scale, in a table"
            if flags := self.corpus.scale_flags(self.utterances, [(low, high)]):
                remedy += f", or where they are on it, give it as `--data.corpus {flags}`"
            raise UserError(what, where="the checkpoint", remedy=remedy)
        super().load_state_dict(state_dict)

    def _labels_of(self, utterance: Utterance) -> dict[str, float | str]:
        """What is known of what is predicted."""
        if self.target == "emotion":
            return {} if utterance.emotion is None else {"emotion": utterance.emotion}
        return {name: label for name, label in utterance.labels.items() if not isnan(label)}

    @override
    def exclusion_reason(self, utterance: Utterance) -> str | None:
        if utterance.split not in ("train", "validation") or self._labels_of(utterance):
            return None
        return "without emotion" if self.target == "emotion" else "without labels"

    @override
    def fingerprint_fields(self, utterance: Utterance) -> list[str]:
        used = utterance.emotion if self.target == "emotion" else sorted(utterance.labels.items())
        return [*super().fingerprint_fields(utterance), f"{used}"]

    @property
    @override
    def epoch_indices(self) -> list[int]:
        chosen = self.selected_speakers
        if chosen is None:
            return self.train_indices
        copies = [(i, chosen.copies.get(self.utterances[i].speaker_id or "", 0)) for i in self.train_indices]
        return [i for i, count in copies for _ in range(count)]

    @property
    @override
    def speaker_weights(self) -> Mapping[str, float]:
        return {} if self.selected_speakers is None else self.selected_speakers.weights

    @cached_property
    def selected_speakers(self) -> SelectedSpeakers | None:
        """Training speakers chosen for the test's; None where all are trained on."""
        if self._speaker_selection is None:
            return None
        targets = self.indices_of(self.tested_splits)
        chosen = self._speaker_selection.choose(
            [self.utterances[i] for i in self.train_indices], [self.utterances[i] for i in targets]
        )
        every = len(self.train_speaker_ids)
        rank_zero_info(f"speaker selection: {len(chosen.copies)} of {every} training speakers were chosen")
        return chosen

    @override
    def val_dataloader(self) -> SpeechLoader[EmotionBatch]:
        return self.eval_loader(self.indices_of(["validation"]))

    @override
    def test_dataloader(self) -> SpeechLoader[EmotionBatch]:
        return self.eval_loader(self.indices_of(self.tested_splits))

    predict_dataloader = test_dataloader

    def share_dataloader(self, split: str) -> SpeechLoader[EmotionBatch]:
        """Load this device's share of any split, without the batches that are repeated to even shares."""
        sampler = self._sampler(self.indices_of([split]), shuffle=False)
        return self.predict_loader(sampler.plan(0)[sampler.rank :: sampler.world_size])

    @property
    def tested_splits(self) -> list[str]:
        """Names of the splits to test on."""
        every = [name for name in self.corpus.splits.test if not name.endswith(ADAPTATION)]
        return every if self.test_splits is None else canonical_splits(self.test_splits)


class CachedEmotionDataModule(EmotionDataModule):
    """An `EmotionDataModule` of cached frames instead of audio, which may have been deleted.

    For `--model.encoder CachedFeatures`. Frames are read in half precision; the trainer's precision is the model's.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        cache: the folder that `ser cache` wrote, or another tool.
        normalize_speakers: baseline: bring each speaker's own frames to zero mean and unit variance, over all that is
            cached of them, labels unseen; unknown speakers by the training set's moments.
        num_workers: processes that read ahead, for each loader.
        **kwargs: as in `EmotionDataModule`.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        *,
        cache: str = "feature_cache",
        normalize_speakers: bool = False,
        num_workers: NonNegativeInt = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(corpus, num_workers=num_workers, **kwargs)
        if self.augmentation is not None:
            what = "changes audio, and batches hold cached features"
            remedy = "Give --data.augmentation null, or --data EmotionDataModule and an encoder of audio"
            raise UserError(what, where="--data.augmentation", remedy=remedy)
        self._cache_folder, self.normalize_speakers = cache, normalize_speakers

    @cached_property
    @override
    def cache(self) -> FeatureCache:
        return FeatureCache.load(self._cache_folder)

    @cached_property
    @override
    def dataset(self) -> CachedDataset:
        normalization = None
        if self.normalize_speakers:
            training = [self.utterances[index].utterance_id for index in self.train_indices]
            normalization = SpeakerNormalization.of(self.cache, self.utterances, training)
        return CachedDataset(self.utterances, self.cache, normalization)

    @override
    def length_of(self, utterance: Utterance) -> int:
        frames = self.cache.num_frames(utterance.utterance_id)
        return max(1, round(frames * self.cache.source.frame_seconds * SAMPLE_RATE))

    @override
    def input_key(self, utterance: Utterance) -> str:
        key, normalization = self.cache.key_of(utterance.utterance_id), self.dataset.normalization
        if normalization is None or utterance.speaker_id is None:
            return key
        moments = normalization.moments_of[utterance.speaker_id]
        return content_hash(key, moments.mean, moments.m2)

    @override
    def refuse_unusable(self, utterances: Sequence[Utterance], split: str) -> None:
        self.cache.check(utterances)

    @override
    def sources(self) -> dict[str, Any]:
        made_by = {f"cache.{name}": value for name, value in asdict(self.cache.source).items()}
        return {**made_by, "normalize_speakers": self.normalize_speakers}
