"""The audio that gets pseudo-labels: whole utterances, in batches that are the same in every run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ser_personal.audio import BAD_AUDIO, num_frames
from ser_personal.corpus.csv_corpus import open_corpus
from ser_personal.corpus.splits import canonical_splits, require_split
from ser_personal.data.batching import BucketBatchSampler, GivenBatches
from ser_personal.data.dataset import SpeechDataset, SpeechExample, collate_speech, decode_part, samples_of
from ser_personal.data.loader import SpeechLoader
from ser_personal.errors import UserError, require_range
from ser_personal.files import content_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.corpus.base import Corpus
    from ser_personal.data.batching import ExampleKey
    from ser_personal.types import SpeechBatch, Utterance

NO_FRAME = "unreadable or shorter than one frame of 25 ms"


@dataclass(frozen=True)
class PseudoLabelData:
    """Which utterances get pseudo-labels, and which of them the codebook is fitted on.

    Attributes:
        corpus: a corpus, a folder in MSP-Podcast's layout, or a corpus.csv.
        splits: sets that get pseudo-labels; all if None.
        fit_splits: sets that the codebook is fitted on, by default none of which a model is tested on.
        batch_seconds: audio of a batch, padding included.
        num_workers: processes that decode audio.

    Raises:
        UserError: a number is out of its range.
    """

    corpus: Corpus | str
    splits: list[str] | None = None
    fit_splits: list[str] = field(default_factory=lambda: ["train"])
    batch_seconds: float = 120.0
    num_workers: int = 0

    def __post_init__(self) -> None:
        require_range("batch_seconds", self.batch_seconds, 0, above=True)
        require_range("num_workers", self.num_workers, 0)

    @cached_property
    def _fit_splits(self) -> list[str]:
        return canonical_splits(self.fit_splits)

    @cached_property
    def utterances(self) -> list[Utterance]:
        """Everything that gets pseudo-labels.

        Raises:
            UserError: no such split.
        """
        sets = {name: utterances for name, utterances in open_corpus(self.corpus).splits.sets.items() if utterances}
        splits = canonical_splits(self.splits or sets)
        for name in [*splits, *self._fit_splits]:
            require_split(name, sets)
        return [utterance for name in splits for utterance in sets[name]]

    @cached_property
    def indices(self) -> list[int]:
        """Positions in `utterances`.

        Raises:
            UserError: audio has no frame.
        """
        empty = [i for i, utterance in enumerate(self.utterances) if not num_frames(samples_of(utterance))]
        if empty:
            what = f"{len(empty)} audio files are {NO_FRAME}, this one the first"
            raise UserError(what, where=self.utterances[empty[0]].path, remedy=BAD_AUDIO)
        return [*range(len(self.utterances))]

    @property
    def fingerprint(self) -> str:
        """Identifies the utterances with usable audio, their lengths, and which of them the codebook is fitted on."""
        used = (self.utterances[i] for i in self.indices)
        lengths = (f"{utterance.utterance_id}\t{samples_of(utterance)}" for utterance in used)
        return f"{len(self.indices)} utterances, {content_hash(f'{sorted(self._fit_splits)}', *lengths)}"

    def fit_indices(self) -> list[int]:
        """Find what the codebook is fitted on, as positions in `utterances`.

        Raises:
            UserError: nothing of `splits` lies in `fit_splits`.
        """
        indices = [i for i in self.indices if self.utterances[i].split in self._fit_splits]
        if not indices:
            remedy = "Name one of data.splits there, or give a codebook"
            raise UserError("no audio to fit the codebook on", where="data.fit_splits", remedy=remedy)
        return indices

    def fit_batches(self) -> list[list[int]]:
        """Put what the codebook is fitted on into batches, from the longest utterances to the shortest."""
        return self._batches(self.fit_indices())

    def batches(self) -> list[list[int]]:
        """Put everything that gets pseudo-labels into batches, from the longest utterances to the shortest."""
        return self._batches(self.indices)

    def _batches(self, indices: Sequence[int]) -> list[list[int]]:
        num_samples = [samples_of(self.utterances[i]) for i in indices]
        return BucketBatchSampler(indices, num_samples, batch_seconds=self.batch_seconds, shuffle=False).plan(epoch=0)

    def loader(self, batches: Sequence[list[int]]) -> SpeechLoader[SpeechBatch]:
        """Load some of the batches."""
        longest = max((samples_of(self.utterances[i]) for batch in batches for i in batch), default=0)
        dataset = WholeUtterances(self.utterances, max_samples=longest)
        return SpeechLoader(dataset, GivenBatches(batches), collate_speech, num_workers=self.num_workers)


class WholeUtterances(SpeechDataset[SpeechExample]):
    """Utterances from their first sample to their last."""

    def __getitem__(self, key: ExampleKey) -> SpeechExample:
        utterance = self.utterances[key.index]
        return SpeechExample(key.index, utterance.speaker_id, decode_part(utterance, 0, samples_of(utterance)))
