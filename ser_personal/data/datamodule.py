"""What all datamodules share: a corpus, what a fit needs to know of it, and loaders over parts of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from ser_personal.audio import WINDOW
from ser_personal.corpus.resolve import open_corpus
from ser_personal.data.bad_audio import BadAudio, OnBadAudio, SkippedAudio
from ser_personal.data.batching import ExampleKey
from ser_personal.data.dataset import SpeechExample, UtteranceExample, samples_of
from ser_personal.data.loader_factory import LoaderFactory, Process
from ser_personal.data.speaker_features import SpeakerFeatures, SpeakerFeatureSource
from ser_personal.data.used_utterances import UsedUtterances, refuse_unusable_audio, wrong_with_audio
from ser_personal.errors import UserError
from ser_personal.ranges import LARGEST_SEED, require_range
from ser_personal.types import ATTRIBUTES, SpeakerBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from ser_personal.corpus.base import Corpus
    from ser_personal.data.dataset import UtteranceDataset
    from ser_personal.data.loader import SpeechLoader
    from ser_personal.types import FeatureSource, Utterance

Example = TypeVar("Example", bound=UtteranceExample)
Batch = TypeVar("Batch", bound=SpeakerBatch)


class SpeechDataModule(LightningDataModule, ABC, Generic[Example, Batch]):
    """Loaders over a corpus, which is read at the first use, not here.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        batch_seconds: seconds of a batch, padding included, at most.
        max_batch: utterances of a batch, at most; no limit if None.
        max_samples: samples of an utterance, at most.
        known_speakers_only: leave out utterances whose speaker is unknown.
        num_workers: processes that decode audio, for each loader.
        seed: of the shuffling.
        speaker_features: a vector a speaker, for what makes e_s of such; None where nothing asks for them.
        permute_speaker_features: control: every speaker gets another one's, the same each time.
        on_bad_audio: raise an error at audio that can't be used, or skip it.
        max_bad_share: of a set that may be skipped.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        *,
        batch_seconds: float,
        max_batch: int | None,
        max_samples: int,
        known_speakers_only: bool,
        num_workers: int,
        seed: int,
        speaker_features: SpeakerFeatureSource | None = None,
        permute_speaker_features: bool = False,
        on_bad_audio: OnBadAudio = "raise",
        max_bad_share: float = 0.01,
    ) -> None:
        require_range("batch_seconds", batch_seconds, 0, above=True)
        if max_batch is not None:
            require_range("max_batch", max_batch, 1)
        require_range("max_samples", max_samples, WINDOW)
        require_range("num_workers", num_workers, 0)
        require_range("seed", seed, 0, LARGEST_SEED)
        require_range("max_bad_share", max_bad_share, 0, 1)
        super().__init__()
        self._corpus_or_path = corpus
        self.batch_seconds, self.max_batch, self.max_samples = batch_seconds, max_batch, max_samples
        self.known_speakers_only = known_speakers_only
        self.num_workers, self.seed = num_workers, seed
        self._feature_source, self._permute_features = speaker_features, permute_speaker_features
        self.skipped_audio = SkippedAudio(max_bad_share) if on_bad_audio == "skip" else None

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus, opened."""
        return open_corpus(self._corpus_or_path)

    @property
    def utterances(self) -> list[Utterance]:
        """All utterances of the corpus, used or not: what a batch's `indices` point to."""
        return self.corpus.utterances

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest value of a label."""
        return self.corpus.scale

    @property
    def train_indices(self) -> list[int]:
        """Positions of the training utterances in `utterances`."""
        return self.split_indices("train")

    @property
    def train_speaker_ids(self) -> list[str]:
        """Known training speakers, sorted."""
        return sorted({id_ for i in self.train_indices if (id_ := self.utterances[i].speaker_id) is not None})

    @cached_property
    def speaker_features(self) -> SpeakerFeatures | None:
        """Features of the corpus's speakers; None where nobody asked for any."""
        if self._feature_source is None:
            return None
        features = self._feature_source.read(self.utterances)
        return features.permuted() if self._permute_features else features

    def speaker_features_of(self, speaker_ids: Sequence[str]) -> NDArray[np.float32] | None:
        """Features of speakers, (speakers, feature_dim); None where nobody asked for any."""
        return None if self.speaker_features is None else self.speaker_features.of(speaker_ids)

    @property
    def train_label_mean(self) -> dict[str, float]:
        """Attribute -> mean label of the training set; attributes without labels are left out."""
        labels = {
            attribute: [self.utterances[i].labels.get(attribute, np.nan) for i in self.train_indices]
            for attribute in ATTRIBUTES
        }
        return {name: float(np.nanmean(values)) for name, values in labels.items() if not np.isnan(values).all()}

    @property
    def train_emotions(self) -> dict[str, int]:
        """Categorical emotion -> how many training utterances have it, sorted."""
        return dict(sorted(Counter(e for i in self.train_indices if (e := self.utterances[i].emotion)).items()))

    def training_audio(self, limit: int) -> Iterator[NDArray[np.float32]]:
        """Decode at most `limit` training waveforms (samples,), spread evenly over the set, the same on every rank."""
        count = min(limit, len(self.train_indices))
        for k in range(count):
            example = self.example(self.train_indices[k * len(self.train_indices) // count])
            if example is not None:
                yield cast("SpeechExample", example).waveform

    def example(self, index: int) -> Example | None:
        """Fetch the utterance at a position in `utterances` by itself; None where its audio is bad and skipped.

        Raises:
            UserError: its audio is bad, and bad audio isn't skipped.
        """
        try:
            return self.dataset[ExampleKey(index, epoch=0)]
        except UserError as error:
            if self.skipped_audio is None:
                raise
            self.skipped_audio.add([BadAudio.of(index, self.utterances[index], error.what)])
            return None

    @property
    def feature_source(self) -> FeatureSource | None:
        """What made the frames that batches hold in place of audio; None, for they hold audio."""
        return None

    def length_of(self, utterance: Utterance) -> int:
        """How much of an utterance a batch holds, in samples."""
        return min(samples_of(utterance), self.max_samples)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch but for its lengths: what is asked of them on the CPU waits for no device."""
        lengths = {name: batch[name] for name in ("num_samples",) if name in batch}
        return {**super().transfer_batch_to_device(batch, device, dataloader_idx), **lengths}

    @property
    @abstractmethod
    def dataset(self) -> UtteranceDataset[Example]:
        """Examples of all utterances, whatever their split."""

    @property
    @abstractmethod
    def collate(self) -> Callable[[Sequence[Example]], Batch]:
        """Examples -> batch."""

    @abstractmethod
    def reason_to_drop(self, utterance: Utterance) -> str | None:
        """Say why an utterance with readable audio isn't used; None where it is."""

    def setup(self, stage: str | None = None) -> None:
        """Choose the file that lists skipped audio, in the run's folder."""
        # Every process has to ask for the folder, or the first one waits for the others' answer for ever.
        if self.skipped_audio is not None and self.trainer is not None:
            folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
            rank = f".rank{self.trainer.global_rank}" if self.trainer.global_rank else ""
            self.skipped_audio.keep_in(folder / f"skipped_audio{rank}.json")

    def state_dict(self) -> dict[str, Any]:
        """Have a checkpoint say which speakers it was trained on."""
        return {"train_speakers": self.train_speaker_ids}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with a fit on other speakers.

        Raises:
            UserError: the checkpoint was trained on others than this corpus has.
        """
        # one of before speakers were written down says nothing of them
        before = state_dict.get("train_speakers")
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING or before is None:
            return
        if differing := sorted({*before} ^ {*self.train_speaker_ids}):
            raise UserError(
                f"was trained on other speakers than this corpus has ({len(differing)} differ, first {differing[0]})",
                where="the checkpoint to resume",
                remedy="Resume on the same corpus, or start a fresh fit",
            )

    @cached_property
    def _used(self) -> UsedUtterances:
        return UsedUtterances(
            self.corpus,
            known_speakers_only=self.known_speakers_only,
            skipped_audio=self.skipped_audio,
            refuse_unusable=self.refuse_unusable,
            wrong_with=self.wrong_with,
            reason_to_drop=self.reason_to_drop,
        )

    def wrong_with(self, utterance: Utterance) -> str | None:
        """Say why an utterance is skipped before its audio is decoded; None where it isn't."""
        return wrong_with_audio(utterance)

    def refuse_unusable(self, utterances: Sequence[Utterance], split: str) -> None:
        """Refuse a split of which something can't be read.

        Raises:
            UserError: audio is missing, unreadable or shorter than one frame.
        """
        refuse_unusable_audio(utterances, split)

    def split_indices(self, split: str) -> list[int]:
        """Find the utterances of a split that are used, as positions in `utterances`; the others are counted once.

        Raises:
            UserError: there is no such split, or audio of it is missing, unreadable or shorter than one frame.
        """
        return self._used.of_split(split)

    def wanted_indices(self, splits: Sequence[str]) -> list[int]:
        """Find the utterances of several splits that are used, each once however often its split is named.

        Raises:
            UserError: there are none.
        """
        return self._used.of_splits(splits)

    def left_out(self, split: str, predicted: int) -> int:
        """Count the utterances of a set that should have been predicted and weren't, their audio being bad."""
        return self._used.left_out(split, predicted)

    @cached_property
    def _loaders(self) -> LoaderFactory[Example, Batch]:
        return LoaderFactory(
            self.dataset,
            self.length_of,
            batch_seconds=self.batch_seconds,
            max_batch=self.max_batch,
            num_workers=self.num_workers,
            seed=self.seed,
            speaker_features=self.speaker_features,
            used=self._used,
            skipped_audio=self.skipped_audio,
        )

    @property
    def _process(self) -> Process:
        return Process(self.trainer.global_rank, self.trainer.world_size) if self.trainer else Process(0, 1)

    def loader(
        self,
        indices: Sequence[int],
        *,
        shuffle: bool,
        collate: Callable[[Sequence[Example]], Batch] | None = None,
    ) -> SpeechLoader[Batch]:
        """Load some utterances in batches, this rank's share of them; one that stands several times, as often.

        Raises:
            UserError: training on fewer utterances than there are processes.
        """
        return self._loaders.even(indices, collate or self.collate, self._process, shuffle=shuffle)

    def share(self, indices: Sequence[int]) -> SpeechLoader[Batch]:
        """Load this rank's share of some utterances, each on one rank alone; ranks may differ by a batch."""
        return self._loaders.once(indices, self.collate, self._process)
