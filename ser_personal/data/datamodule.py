"""What all datamodules share: a corpus, what a fit needs to know of it, and loaders over parts of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from ser_personal.audio import BAD_AUDIO, WINDOW
from ser_personal.corpus.csv_corpus import open_corpus
from ser_personal.corpus.splits import canonical_split, canonical_splits, require_split
from ser_personal.data.batching import BucketBatchSampler, ExampleKey, GivenBatches
from ser_personal.data.dataset import (
    SpeechDataset,
    SpeechExample,
    UtteranceExample,
    collate_speech,
    decode_part,
    samples_of,
)
from ser_personal.data.loader import SpeechLoader
from ser_personal.data.speaker_features import AddSpeakerFeatures, SpeakerFeatures, SpeakerFeatureSource
from ser_personal.errors import LARGEST_SEED, UserError, require_range
from ser_personal.types import ATTRIBUTES, SpeakerBatch, SpeechBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from ser_personal.corpus.base import Corpus
    from ser_personal.data.batching import BatchSampler
    from ser_personal.data.dataset import UtteranceDataset
    from ser_personal.data.speaker_features import SpeakerFeatures
    from ser_personal.types import FeatureSource, Utterance


class UsedUtterances:
    """Chooses the utterances of a split when it is first asked for, and says once how many were left out.

    Args:
        corpus: whose utterances.
        known_speakers_only: leave out utterances whose speaker is unknown.
        refuse_unusable: raises an error where something of a split, named beside it, can't be read.
        reason_to_drop: says why an utterance with readable audio isn't used; None where it is.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        known_speakers_only: bool,
        refuse_unusable: Callable[[Sequence[Utterance], str], None],
        reason_to_drop: Callable[[Utterance], str | None],
    ) -> None:
        self._corpus = corpus
        self._known_speakers_only = known_speakers_only
        self._refuse_unusable, self._reason_to_drop = refuse_unusable, reason_to_drop
        self._indices_of: dict[str, list[int]] = {}

    def of_split(self, split: str) -> list[int]:
        """Find the utterances of a split that are used, as positions in the corpus.

        Raises:
            UserError: there is no such split, or audio of it is missing, unreadable or shorter than one frame.
        """
        name = canonical_split(split)
        if name not in self._indices_of:
            self._indices_of[name] = self._select(name)
        return self._indices_of[name]

    def of_splits(self, splits: Sequence[str]) -> list[int]:
        """Find the utterances of several splits that are used, each once however often its split is named.

        Raises:
            UserError: there are none.
        """
        indices = [index for split in canonical_splits(splits) for index in self.of_split(split)]
        if not indices:
            raise UserError(
                "no utterance is left to use",
                where=f"split {', '.join(splits)}" if splits else "splits",
                remedy="See what `ser check CORPUS` lists; data.known_speakers_only=false keeps unknown speakers",
            )
        return indices

    def _select(self, split: str) -> list[int]:
        sets = self._corpus.splits.sets
        require_split(split, sets)
        known = [u for u in sets[split] if u.speaker_id is not None or not self._known_speakers_only]
        self._refuse_unusable(known, split)
        reasons = {utterance.utterance_id: self._reason_to_drop(utterance) for utterance in known}
        dropped = Counter(reason for reason in reasons.values() if reason is not None)
        if unknown := len(sets[split]) - len(known):
            dropped["unknown speaker"] = unknown
        kept = [self._position[id_] for id_, reason in reasons.items() if reason is None]
        if dropped:
            listed = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
            rank_zero_info(f"{split}: {len(kept)} utterances used; left out: {listed}")
        return kept

    @cached_property
    def _position(self) -> dict[str, int]:
        return {utterance.utterance_id: i for i, utterance in enumerate(self._corpus.utterances)}


def refuse_unusable_audio(utterances: Sequence[Utterance], split: str) -> None:
    """Refuse a split of which something can't be read.

    Raises:
        UserError: audio is missing, unreadable or shorter than one frame.
    """
    unusable = [utterance for utterance in utterances if wrong_with_audio(utterance) is not None]
    if unusable:
        first = unusable[0]
        raise UserError(
            f"audio is {wrong_with_audio(first)}, the first of {len(unusable)} such utterances in split {split}",
            where=first.path,
            remedy=BAD_AUDIO,
        )


def wrong_with_audio(utterance: Utterance) -> str | None:
    """Say what an audio file's header shows to be wrong; None where nothing is."""
    if samples_of(utterance) >= WINDOW:
        return None
    return "missing or unreadable" if isnan(utterance.seconds) else f"shorter than {WINDOW} samples"


Example = TypeVar("Example", bound=UtteranceExample)
Batch = TypeVar("Batch", bound=SpeakerBatch)


class Process(NamedTuple):
    """One of the processes that share a set.

    Attributes:
        rank: which of them.
        world_size: how many there are.
    """

    rank: int
    world_size: int


class LoaderFactory(Generic[Example, Batch]):
    """Makes loaders of batches of similar lengths, each within a budget of padded audio.

    Args:
        dataset: examples of all utterances, whatever their split.
        length_of: how much of an utterance a batch holds, in samples.
        batch_seconds: seconds of a batch, padding included, at most.
        max_batch: utterances of a batch, at most; no limit if None.
        num_workers: processes that decode audio, for each loader.
        seed: of the shuffling.
        speaker_features: joined to batches; None where nothing asks for any.
    """

    def __init__(
        self,
        dataset: UtteranceDataset[Example],
        length_of: Callable[[Utterance], int],
        *,
        batch_seconds: float,
        max_batch: int | None,
        num_workers: int,
        seed: int,
        speaker_features: SpeakerFeatures | None,
    ) -> None:
        self._dataset, self._length_of = dataset, length_of
        self._batch_seconds, self._max_batch, self._seed = batch_seconds, max_batch, seed
        self._num_workers = num_workers
        self._speaker_features = speaker_features
        self._told_of_repeats = False

    def even(
        self,
        indices: Sequence[int],
        collate: Callable[[Sequence[Example]], Batch],
        process: Process,
        *,
        shuffle: bool,
    ) -> SpeechLoader[Batch]:
        """Load a process's share, as many batches as any other's; an utterance that stands several times, as often.

        Raises:
            UserError: training on fewer utterances than there are processes.
        """
        sampler = self._sampler(indices, process, shuffle=shuffle)
        if shuffle:
            self._refuse_idle_processes(sampler, len(indices))
        return self._load(sampler, indices, collate, process, persistent=shuffle)

    def once(
        self, indices: Sequence[int], collate: Callable[[Sequence[Example]], Batch], process: Process
    ) -> SpeechLoader[Batch]:
        """Load a process's share, each utterance on one process alone; they may differ by a batch."""
        share = self._sampler(indices, process, shuffle=False).share
        return self.given(share, indices, collate, process)

    def given(
        self,
        batches: Sequence[list[int]],
        indices: Sequence[int],
        collate: Callable[[Sequence[Example]], Batch],
        process: Process,
    ) -> SpeechLoader[Batch]:
        """Load some batches of a set as they are."""
        return self._load(GivenBatches(batches), indices, collate, process)

    def _sampler(self, indices: Sequence[int], process: Process, *, shuffle: bool) -> BucketBatchSampler:
        return BucketBatchSampler(
            indices,
            self._lengths(indices),
            batch_seconds=self._batch_seconds,
            max_batch=self._max_batch,
            shuffle=shuffle,
            seed=self._seed,
            rank=process.rank,
            world_size=process.world_size,
        )

    def _lengths(self, indices: Sequence[int]) -> list[int]:
        return [self._length_of(self._dataset.utterances[i]) for i in indices]

    def _load(
        self,
        sampler: BatchSampler,
        indices: Sequence[int],
        collate: Callable[[Sequence[Example]], Batch],
        process: Process,
        *,
        persistent: bool = False,
    ) -> SpeechLoader[Batch]:
        if self._speaker_features is not None:
            self._speaker_features.of([self._dataset.utterances[i].speaker_id for i in indices])
            collate = AddSpeakerFeatures(collate, self._speaker_features)
        return SpeechLoader(self._dataset, sampler, collate, num_workers=self._num_workers, persistent=persistent)

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
            yield cast("SpeechExample", example).waveform

    def example(self, index: int) -> Example:
        """Fetch the utterance at a position in `utterances` by itself.

        Raises:
            UserError: its audio is bad.
        """
        return self.dataset[ExampleKey(index, epoch=0)]

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
            refuse_unusable=self.refuse_unusable,
            reason_to_drop=self.reason_to_drop,
        )

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


class AudioDataModule(SpeechDataModule[SpeechExample, SpeechBatch]):
    """Every utterance of some sets, of known speakers and others, whatever is annotated of it.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        splits: sets to pass over; all if None.
        batch_seconds: seconds of a batch, padding included, at most.
        max_samples: longer audio keeps its last `max_samples`, as in fine-tuning.
        num_workers: processes that decode audio.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        *,
        splits: list[str] | None = None,
        batch_seconds: float = 120.0,
        max_samples: int = 250_000,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            corpus,
            batch_seconds=batch_seconds,
            max_batch=None,
            max_samples=max_samples,
            known_speakers_only=False,
            num_workers=num_workers,
            seed=0,
        )
        self._splits = splits

    @property
    def splits(self) -> list[str]:
        """Sets to pass over."""
        existing = [name for name, utterances in self.corpus.splits.sets.items() if utterances]
        return existing if self._splits is None else self._splits

    @cached_property
    def indices(self) -> list[int]:
        """Positions in `utterances` of what is passed over."""
        return self.wanted_indices(self.splits)

    def batches(self) -> list[list[int]]:
        """Put what is passed over into batches, from the longest utterances to the shortest."""
        return self.loader(self.indices, shuffle=False).batch_sampler.plan(0)

    def loader_of(self, batches: Sequence[list[int]]) -> SpeechLoader[SpeechBatch]:
        """Load some of the batches."""
        return self._loaders.given(batches, self.indices, self.collate, self._process)

    @cached_property
    def dataset(self) -> LastPart:
        """Examples of all utterances, whatever their split."""
        return LastPart(self.utterances, max_samples=self.max_samples)

    @property
    def collate(self) -> Callable[[Sequence[SpeechExample]], SpeechBatch]:
        """Examples -> batch."""
        return collate_speech

    def reason_to_drop(self, utterance: Utterance) -> str | None:
        """Say why an utterance isn't used: all are."""
        return None


class LastPart(SpeechDataset[SpeechExample]):
    """Whole utterances; of a longer one the last `max_samples`."""

    def __getitem__(self, key: ExampleKey) -> SpeechExample:
        utterance = self.utterances[key.index]
        total = samples_of(utterance)
        size = min(total, self.max_samples)
        return SpeechExample(key.index, utterance.speaker_id, decode_part(utterance, total - size, size))
