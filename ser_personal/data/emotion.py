"""Annotated speech for CCC fine-tuning and its test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_info

from ser_personal.audio import SAMPLE_RATE
from ser_personal.corpus.splits import canonical_splits
from ser_personal.data.datamodule import SpeechDataModule
from ser_personal.data.dataset import CachedDataset, EmotionDataset, EmotionExample, collate_cached, collate_emotion
from ser_personal.data.frame_store import FeatureCache
from ser_personal.data.speaker_features import SpeakerFeatureSource, SpeakerNormalization
from ser_personal.errors import UserError
from ser_personal.types import EmotionBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ser_personal.corpus.base import Corpus
    from ser_personal.data.loader import SpeechLoader
    from ser_personal.types import FeatureSource, Utterance

Example = TypeVar("Example")


@dataclass(frozen=True)
class AdaptationSet:
    """Training speakers to adapt with.

    Attributes:
        copies: speaker -> how often each of their utterances enters an epoch; the others' don't.
        weights: speaker -> what each of their utterances counts in the loss; 1 where none is given.
        chosen: target speaker -> training speakers that were chosen for them, nearest first.
    """

    copies: Mapping[str, int]
    weights: Mapping[str, float] = field(default_factory=dict)
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Adaptation(ABC):
    """Chooses the training speakers that a fit goes on with."""

    @abstractmethod
    def choose(self, training: Sequence[Utterance], targets: Sequence[Utterance]) -> AdaptationSet:
        """Choose training speakers for the speakers of some target utterances, whose labels aren't looked at.

        Raises:
            UserError: there is nobody to choose for, or from.
        """


class AddWeights(Generic[Example]):
    """A collate function that adds to what another one makes what each utterance counts in the loss.

    Args:
        collate: examples -> batch.
        weights: speaker -> weight; 1 where none is given.
    """

    def __init__(self, collate: Callable[[Sequence[Example]], EmotionBatch], weights: Mapping[str, float]) -> None:
        self.collate, self.weights = collate, weights

    def __call__(self, examples: Sequence[Example]) -> EmotionBatch:
        """Make a batch."""
        batch = self.collate(examples)
        batch["weights"] = torch.tensor([self.weights.get(id_ or "", 1.0) for id_ in batch["speaker_ids"]])
        return batch


class EmotionDataModule(SpeechDataModule[EmotionExample, EmotionBatch]):
    """Whole utterances with their labels.

    Training and validation utterances without what is to be predicted are left out; test utterances are kept, for some
    releases hide their labels. The paper's batches are of 32 utterances, which MSP-Podcast's durations (at most 11 s)
    keep within the default budget.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        batch_seconds: seconds of a batch, padding included, at most.
        max_batch: utterances of a batch, at most.
        max_samples: longer audio keeps its last `max_samples` (the authors' code).
        test_splits: sets to test on; all but train and validation if None.
        known_speakers_only: leave out utterances whose speaker is unknown, as the paper does.
        num_workers: processes that decode audio, for each loader.
        speaker_features: a vector a speaker, for what makes e_s of such; None where nothing asks for them.
        permute_speaker_features: control: every speaker gets another one's, the same each time.
        target: what is predicted: the emotion attributes, or categorical emotion.
        adaptation: chooses the training speakers that are trained on for the test's speakers; all of them if None.
        seed: of the shuffling.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        *,
        batch_seconds: float = 360.0,
        max_batch: int = 32,
        max_samples: int = 250_000,
        test_splits: list[str] | None = None,
        known_speakers_only: bool = True,
        num_workers: int = 2,
        speaker_features: SpeakerFeatureSource | None = None,
        permute_speaker_features: bool = False,
        target: Literal["attributes", "emotion"] = "attributes",
        adaptation: Adaptation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            corpus,
            batch_seconds=batch_seconds,
            max_batch=max_batch,
            max_samples=max_samples,
            known_speakers_only=known_speakers_only,
            num_workers=num_workers,
            seed=seed,
            speaker_features=speaker_features,
            permute_speaker_features=permute_speaker_features,
        )
        self.test_splits = test_splits
        self.target = target
        self._adaptation = adaptation

    def setup(self, stage: str | None = None) -> None:
        """Read the corpus and refuse what the stage can't use, before a model is built.

        Raises:
            UserError: the corpus can't be read, a split that the stage needs is missing, empty or without its audio, or
                a training batch would be a single utterance.
        """
        if stage in ("fit", None):
            self.wanted_indices(["train"])
            self._refuse_single_utterances()
        if stage in ("fit", "validate", None):
            self.wanted_indices(["validation"])
        if stage in ("test", "predict", None):
            self.wanted_indices(self.wanted_test_splits)

    def _refuse_single_utterances(self) -> None:
        plan = self.train_dataloader().batch_sampler.plan(0)
        if any(len(batch) < 2 for batch in plan):
            raise UserError(
                "a training batch would be a single utterance, which has neither a CCC nor batch statistics",
                where="batch_seconds, max_batch",
                remedy="Raise data.batch_seconds or data.max_batch, and train on two utterances at least",
            )

    @cached_property
    def dataset(self) -> EmotionDataset:
        """Examples of all utterances, whatever their split."""
        return EmotionDataset(self.utterances, max_samples=self.max_samples)

    @property
    def collate(self) -> Callable[[Sequence[EmotionExample]], EmotionBatch]:
        """Examples -> batch."""
        return collate_emotion

    def reason_to_drop(self, utterance: Utterance) -> str | None:
        """Say why an utterance isn't used: what is to be predicted isn't annotated."""
        if utterance.split not in ("train", "validation"):
            return None
        if self.target == "emotion":
            return "without emotion" if utterance.emotion is None else None
        return None if any(not isnan(label) for label in utterance.labels.values()) else "without labels"

    def train_dataloader(self) -> SpeechLoader[EmotionBatch]:
        """Shuffle the training set, or what the adaptation makes of it."""
        chosen = self.adaptation_set
        if chosen is None:
            return self.loader(self.train_indices, shuffle=True)
        copies = [(i, chosen.copies.get(self.utterances[i].speaker_id or "", 0)) for i in self.train_indices]
        collate = AddWeights(self.collate, chosen.weights) if chosen.weights else self.collate
        return self.loader([i for i, count in copies for _ in range(count)], shuffle=True, collate=collate)

    @cached_property
    def adaptation_set(self) -> AdaptationSet | None:
        """Training speakers that were chosen for the test's; None where all are trained on.

        Raises:
            UserError: there is nobody to choose for.
        """
        if self._adaptation is None:
            return None
        targets = self.wanted_indices(self.wanted_test_splits)
        training, asking = ([self.utterances[i] for i in indices] for indices in (self.train_indices, targets))
        chosen = self._adaptation.choose(training, asking)
        rank_zero_info(
            f"adaptation: {len(chosen.copies)} of {len(self.train_speaker_ids)} training speakers were chosen"
        )
        return chosen

    def val_dataloader(self) -> SpeechLoader[EmotionBatch]:
        """Go through the validation set."""
        return self.split_dataloader("validation")

    def test_dataloader(self) -> SpeechLoader[EmotionBatch]:
        """Go through all wanted test sets, as one."""
        return self.loader(self.wanted_indices(self.wanted_test_splits), shuffle=False)

    def predict_dataloader(self) -> SpeechLoader[EmotionBatch]:
        """Go through the wanted test sets."""
        return self.test_dataloader()

    def split_dataloader(self, split: str) -> SpeechLoader[EmotionBatch]:
        """Go through any set once, from the longest utterance to the shortest."""
        return self.loader(self.wanted_indices([split]), shuffle=False)

    def share_dataloader(self, split: str) -> SpeechLoader[EmotionBatch]:
        """Go through this device's share of any set; unlike in a stage, none is repeated to make shares even."""
        return self.share(self.wanted_indices([split]))

    @property
    def wanted_test_splits(self) -> list[str]:
        """Names of the sets to test on.

        Raises:
            UserError: the corpus has none.
        """
        names = list(self.corpus.splits.test) if self.test_splits is None else canonical_splits(self.test_splits)
        if not names:
            raise UserError(
                "the corpus has no test set",
                where="data.test_splits",
                remedy="Name the sets to test on, for example data.test_splits=[validation]",
            )
        return names


REMEDY = "Run `ser cache` on this corpus, all splits of it, into a new folder, and give that as --data.cache"


class CachedEmotionDataModule(EmotionDataModule):
    """What `EmotionDataModule` gives, with cached frames in place of audio, which needn't be there any more.

    For `--model.encoder CachedFeatures`. Frames are read in half precision; the trainer's precision is the model's.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        cache: the folder that `ser cache` wrote, or another tool.
        normalize_speakers: baseline: bring each speaker's own frames to zero mean and unit variance, over all that is
            cached of them, labels unseen; unknown speakers by the training set's moments.
        batch_seconds: seconds of a batch, padding included, at most.
        max_batch: utterances of a batch, at most.
        test_splits: sets to test on; all but train and validation if None.
        known_speakers_only: leave out utterances whose speaker is unknown, as the paper does.
        num_workers: processes that read ahead, for each loader.
        speaker_features: a vector a speaker, for what makes e_s of such; None where nothing asks for them.
        permute_speaker_features: control: every speaker gets another one's, the same each time.
        target: what is predicted: the emotion attributes, or categorical emotion.
        adaptation: chooses the training speakers that are trained on for the test's speakers; all of them if None.
        seed: of the shuffling.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        *,
        cache: str = "feature_cache",
        normalize_speakers: bool = False,
        batch_seconds: float = 360.0,
        max_batch: int = 32,
        test_splits: list[str] | None = None,
        known_speakers_only: bool = True,
        num_workers: int = 1,
        speaker_features: SpeakerFeatureSource | None = None,
        permute_speaker_features: bool = False,
        target: Literal["attributes", "emotion"] = "attributes",
        adaptation: Adaptation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            corpus,
            batch_seconds=batch_seconds,
            max_batch=max_batch,
            test_splits=test_splits,
            known_speakers_only=known_speakers_only,
            num_workers=num_workers,
            speaker_features=speaker_features,
            permute_speaker_features=permute_speaker_features,
            target=target,
            adaptation=adaptation,
            seed=seed,
        )
        self._cache_folder, self.normalize_speakers = cache, normalize_speakers

    @cached_property
    def cache(self) -> FeatureCache:
        """The frames of the corpus."""
        return FeatureCache.load(self._cache_folder)

    @property
    def feature_source(self) -> FeatureSource:
        """What made the frames that batches hold in place of audio."""
        return self.cache.source

    @cached_property
    def dataset(self) -> CachedDataset:  # type: ignore[override]  # frames in place of audio
        """Examples of all utterances, whatever their split."""
        training = [self.utterances[index] for index in self.train_indices] if self.normalize_speakers else []
        normalization = SpeakerNormalization.of(self.cache, self.utterances, training) if training else None
        return CachedDataset(self.utterances, self.cache, normalization)

    # its batches are of the cached kind, which a model reads by `CachedFeatures`
    collate = staticmethod(collate_cached)  # type: ignore[assignment]

    def length_of(self, utterance: Utterance) -> int:
        """How much of an utterance a batch holds, in samples."""
        frames = self.cache.num_frames(utterance.utterance_id)
        return max(1, round(frames * self.cache.source.frame_seconds * SAMPLE_RATE))

    def refuse_unusable(self, utterances: Sequence[Utterance], split: str) -> None:
        """Refuse a split that the cache doesn't hold.

        Raises:
            UserError: frames are missing, or were made of other audio than lies there now.
        """
        missing = [utterance.utterance_id for utterance in utterances if utterance.utterance_id not in self.cache]
        if missing:
            what = f"no features of {len(missing)} of {len(utterances)} utterances of split {split}"
            raise UserError(f"{what}, {missing[0]} the first", where=self.cache.folder, remedy=REMEDY)
        for utterance in utterances:
            self.cache.refuse_changed(utterance.utterance_id, utterance.path)

    def training_audio(self, limit: int) -> Iterator[NDArray[np.float32]]:
        """Refuse an encoder that asks for audio.

        Raises:
            UserError: always.
        """
        raise UserError(
            "batches hold cached features, not audio",
            where="--data CachedEmotionDataModule",
            remedy="Give --model.encoder CachedFeatures beside it, or --data EmotionDataModule",
        )

    def state_dict(self) -> dict[str, Any]:
        """Have a checkpoint say which features it was trained on."""
        return {"source": asdict(self.feature_source), "normalize_speakers": self.normalize_speakers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained on other features.

        Raises:
            UserError: another encoder, layer or stride made them, or they were normalised otherwise.
        """
        trained, now = state_dict["source"], asdict(self.feature_source)
        differing = [f"{name} {now[name]}, not {trained[name]}" for name in trained if trained[name] != now[name]]
        if differing:
            raise UserError(
                f"features of another encoder than the checkpoint was trained on ({'; '.join(differing)})",
                where=self._cache_folder,
                remedy="Give the cache it was trained on as --data.cache, or train on this one",
            )
        if state_dict["normalize_speakers"] != self.normalize_speakers:
            raise UserError(
                f"the checkpoint was trained with {str(state_dict['normalize_speakers']).lower()}",
                where=f"--data.normalize_speakers {str(self.normalize_speakers).lower()}",
                remedy="Give the same value in training and test",
            )
