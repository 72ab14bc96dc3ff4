"""Cached frames with annotations: fine-tuning on top of a frozen encoder that has run once."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ser_personal.audio import SAMPLE_RATE
from ser_personal.data.adaptation import Adaptation
from ser_personal.data.bad_audio import OnBadAudio
from ser_personal.data.cached_dataset import CachedDataset
from ser_personal.data.collate import collate_cached
from ser_personal.data.emotion_datamodule import EmotionDataModule
from ser_personal.data.feature_cache import FeatureCache
from ser_personal.data.frame_moments import SpeakerNormalization
from ser_personal.data.speaker_features import SpeakerFeatureSource
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ser_personal.corpus.base import Corpus
    from ser_personal.types import FeatureSource, Utterance

REMEDY = "Run `ser cache` on this corpus, all splits of it, into a new folder, and give that as --data.cache"
SKIP = "; what it skipped, data.on_bad_audio=skip skips too"


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
        on_bad_audio: raise an error at utterances that the cache doesn't hold, or skip them, as `ser cache` did.
        max_bad_share: of a set that may be skipped; more stops the run.
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
        on_bad_audio: OnBadAudio = "raise",
        max_bad_share: float = 0.01,
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
            on_bad_audio=on_bad_audio,
            max_bad_share=max_bad_share,
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
            raise UserError(f"{what}, {missing[0]} the first", where=self.cache.folder, remedy=f"{REMEDY}{SKIP}")
        for utterance in utterances:
            self._refuse_changed(utterance)

    def wrong_with(self, utterance: Utterance) -> str | None:
        """Say why an utterance is skipped: the cache doesn't hold it.

        Raises:
            UserError: it does, but its audio has changed since.
        """
        if utterance.utterance_id not in self.cache:
            return "has no cached features"
        self._refuse_changed(utterance)
        return None

    def _refuse_changed(self, utterance: Utterance) -> None:
        if not self.cache.is_of(utterance.utterance_id, utterance.path):
            what = f"audio has changed since its features were made, in split {utterance.split}"
            raise UserError(what, where=utterance.path, remedy=REMEDY)

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
