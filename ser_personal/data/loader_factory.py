"""Sets of utterances -> loaders: each process its share, with speaker features, and bad audio counted."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from ser_personal.data.bad_audio import BadAudioTally
from ser_personal.data.batching import BucketBatchSampler, GivenBatches
from ser_personal.data.dataset import UtteranceExample
from ser_personal.data.lenient_dataset import LenientDataset
from ser_personal.data.loader import SpeechLoader
from ser_personal.data.speaker_features import AddSpeakerFeatures
from ser_personal.errors import UserError
from ser_personal.types import SpeakerBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ser_personal.data.bad_audio import SkippedAudio
    from ser_personal.data.batching import BatchSampler
    from ser_personal.data.dataset import UtteranceDataset
    from ser_personal.data.speaker_features import SpeakerFeatures
    from ser_personal.data.used_utterances import UsedUtterances
    from ser_personal.types import Utterance

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
        used: knows what sets lack already, their audio being bad.
        skipped_audio: lists bad audio, which is then left out of batches; None raises an error at it.
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
        used: UsedUtterances,
        skipped_audio: SkippedAudio | None,
    ) -> None:
        self._dataset, self._length_of = dataset, length_of
        self._batch_seconds, self._max_batch, self._seed = batch_seconds, max_batch, seed
        self._num_workers = num_workers
        self._speaker_features = speaker_features
        self._used, self._skipped_audio = used, skipped_audio
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
        load = partial(
            SpeechLoader,
            batch_sampler=sampler,
            collate=collate,
            num_workers=self._num_workers,
            persistent=persistent,
        )
        if self._skipped_audio is None:
            return load(self._dataset)
        size_of = Counter(self._dataset.utterances[i].split for i in indices)
        tally = BadAudioTally(
            self._skipped_audio,
            utterances=len(indices),
            left_out_before=self._used.lacking(size_of),
            processes=process.world_size,
            where=f"split {', '.join(sorted(size_of))}",
        )
        lenient = LenientDataset(
            self._dataset,
            indices,
            self._lengths(indices),
            self._skipped_audio.max_share,
            # what is given once to one process alone is summed up there, and must not count again as a stand-in
            fills_up=not isinstance(sampler, GivenBatches),
        )
        return load(lenient, tally=tally)

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
