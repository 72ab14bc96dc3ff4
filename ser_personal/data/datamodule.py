"""What both datamodules share: which utterances of a split are used, and loaders over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from ser_personal.audio import WINDOW
from ser_personal.corpus.resolve import open_corpus
from ser_personal.corpus.splits import canonical_split, canonical_splits, require_split
from ser_personal.data.batching import BucketBatchSampler, ExampleKey, GivenBatches
from ser_personal.data.dataset import SpeechExample, UtteranceExample, samples_of
from ser_personal.data.loader import SpeechLoader
from ser_personal.data.speaker_features import AddSpeakerFeatures, SpeakerFeatures, SpeakerFeatureSource
from ser_personal.errors import UserError
from ser_personal.ranges import LARGEST_SEED, require_range
from ser_personal.types import ATTRIBUTES, SpeakerBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from ser_personal.corpus.base import Corpus
    from ser_personal.data.batching import BatchSampler
    from ser_personal.data.dataset import UtteranceDataset
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
    ) -> None:
        require_range("batch_seconds", batch_seconds, 0, above=True)
        if max_batch is not None:
            require_range("max_batch", max_batch, 1)
        require_range("max_samples", max_samples, WINDOW)
        require_range("num_workers", num_workers, 0)
        require_range("seed", seed, 0, LARGEST_SEED)
        super().__init__()
        self._corpus_or_path = corpus
        self.batch_seconds, self.max_batch, self.max_samples = batch_seconds, max_batch, max_samples
        self.known_speakers_only = known_speakers_only
        self.num_workers, self.seed = num_workers, seed
        self._feature_source, self._permute_features = speaker_features, permute_speaker_features
        self._indices_of: dict[str, list[int]] = {}
        self._told_of_repeats = False

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
    @abstractmethod
    def train_indices(self) -> list[int]:
        """Positions of the training utterances in `utterances`."""

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
            key = ExampleKey(self.train_indices[k * len(self.train_indices) // count], epoch=0)
            yield cast("SpeechExample", self.dataset[key]).waveform

    @property
    def feature_source(self) -> FeatureSource | None:
        """What made the frames that batches hold in place of audio; None, for they hold audio."""
        return None

    def length_of(self, utterance: Utterance) -> int:
        """How much of an utterance a batch holds, in samples."""
        return min(samples_of(utterance), self.max_samples)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch but for its lengths: what is asked of them on the CPU waits for no device."""
        return {**super().transfer_batch_to_device(batch, device, dataloader_idx), "num_samples": batch["num_samples"]}

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

    def split_indices(self, split: str) -> list[int]:
        """Find the utterances of a split that are used, as positions in `utterances`; the others are counted once.

        Raises:
            UserError: there is no such split, or audio of it is missing, unreadable or shorter than one frame.
        """
        name = canonical_split(split)
        if name not in self._indices_of:
            self._indices_of[name] = self._select(name)
        return self._indices_of[name]

    def wanted_indices(self, splits: Sequence[str]) -> list[int]:
        """Find the utterances of several splits that are used, each once however often its split is named.

        Raises:
            UserError: there are none.
        """
        indices = [index for split in canonical_splits(splits) for index in self.split_indices(split)]
        if not indices:
            raise UserError(
                "no utterance is left to use",
                where=f"split {', '.join(splits)}" if splits else "splits",
                remedy="See what `ser check CORPUS` lists; data.known_speakers_only=false keeps unknown speakers",
            )
        return indices

    def sampler(self, indices: Sequence[int], *, shuffle: bool) -> BucketBatchSampler:
        """Put some utterances into batches."""
        return BucketBatchSampler(
            indices,
            [self.length_of(self.utterances[i]) for i in indices],
            batch_seconds=self.batch_seconds,
            max_batch=self.max_batch,
            shuffle=shuffle,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )

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
        sampler = self.sampler(indices, shuffle=shuffle)
        if shuffle:
            self._refuse_idle_processes(sampler, len(indices))
        return self._load(sampler, indices, collate or self.collate, persistent=shuffle)

    def share(self, indices: Sequence[int]) -> SpeechLoader[Batch]:
        """Load this rank's share of some utterances, each on one rank alone; ranks may differ by a batch."""
        return self._load(GivenBatches(self.sampler(indices, shuffle=False).share), indices, self.collate)

    def _load(
        self,
        sampler: BatchSampler,
        indices: Sequence[int],
        collate: Callable[[Sequence[Example]], Batch],
        *,
        persistent: bool = False,
    ) -> SpeechLoader[Batch]:
        if self.speaker_features is not None:
            self.speaker_features.of([self.utterances[i].speaker_id for i in indices])
            collate = AddSpeakerFeatures(collate, self.speaker_features)
        return SpeechLoader(self.dataset, sampler, collate, num_workers=self.num_workers, persistent=persistent)

    def _select(self, split: str) -> list[int]:
        sets = self.corpus.splits.sets
        require_split(split, sets)
        known = [u for u in sets[split] if u.speaker_id is not None or not self.known_speakers_only]
        self.refuse_unusable(known, split)
        reasons = {utterance.utterance_id: self.reason_to_drop(utterance) for utterance in known}
        dropped = Counter(reason for reason in reasons.values() if reason is not None)
        if unknown := len(sets[split]) - len(known):
            dropped["unknown speaker"] = unknown
        kept = [self._position[id_] for id_, reason in reasons.items() if reason is None]
        if dropped:
            listed = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
            rank_zero_info(f"{split}: {len(kept)} utterances used; left out: {listed}")
        return kept

    def refuse_unusable(self, utterances: Sequence[Utterance], split: str) -> None:
        """Refuse a split of which something can't be read.

        Raises:
            UserError: audio is missing, unreadable or shorter than one frame.
        """
        unusable = [utterance for utterance in utterances if samples_of(utterance) < WINDOW]
        if unusable:
            first = unusable[0]
            wrong = "missing or unreadable" if isnan(first.seconds) else f"shorter than {WINDOW} samples"
            raise UserError(
                f"audio is {wrong}, the first of {len(unusable)} such utterances in split {split}",
                where=first.path,
                remedy="`ser check CORPUS` lists them all; restore the files or remove their rows",
            )

    @cached_property
    def _position(self) -> dict[str, int]:
        return {utterance.utterance_id: i for i, utterance in enumerate(self.utterances)}

    def _refuse_idle_processes(self, sampler: BucketBatchSampler, utterances: int) -> None:
        processes = sampler.world_size
        if processes > utterances:
            raise UserError(
                f"{processes} processes for {utterances} training utterances",
                where="trainer.devices",
                remedy="Ask for fewer devices or nodes, or give more audio",
            )
        if sampler.repeated and not self._told_of_repeats:
            self._told_of_repeats = True
            rank_zero_info(
                f"{len(sampler.repeated)} batches of an epoch ({sum(map(len, sampler.repeated))} of {utterances}"
                f" utterances) are trained on twice, so that {processes} processes have equally many"
            )
