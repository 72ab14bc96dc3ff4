"""The audio of `ser kmeans`: whole utterances, in batches that are the same in every run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from jsonargparse.typing import NonNegativeInt

from ser_personal.audio import BAD_AUDIO, num_frames
from ser_personal.corpus.csv_corpus import open_corpus
from ser_personal.corpus.splits import canonical_splits, require_split
from ser_personal.data.batching import BucketBatchSampler, GivenBatches
from ser_personal.data.dataset import WholeUtterances, collate_speech, samples_of
from ser_personal.data.loader import SpeechLoader
from ser_personal.errors import UserError
from ser_personal.files import content_hash
from ser_personal.ranges import PositiveFinite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.corpus.base import Corpus
    from ser_personal.types import SpeechBatch, Utterance


@dataclass(frozen=True)
class PseudoLabelData:
    """Which utterances get pseudo-labels, and which of them the codebook is fitted on.

    Attributes:
        corpus: a corpus, a folder in MSP-Podcast's layout, or a corpus.csv.
        splits: sets that get pseudo-labels; all if None.
        fit_splits: sets that the codebook is fitted on, by default none of which a model is tested on.
        batch_seconds: audio of a batch, padding included.
        num_workers: processes that decode audio.
    """

    corpus: Corpus | str
    splits: list[str] | None = None
    fit_splits: list[str] = field(default_factory=lambda: ["train"])
    batch_seconds: PositiveFinite = 120.0
    num_workers: NonNegativeInt = 0

    @cached_property
    def _fit_splits(self) -> list[str]:
        return canonical_splits(self.fit_splits)

    @cached_property
    def utterances(self) -> list[Utterance]:
        """Everything that gets pseudo-labels."""
        sets = {name: utterances for name, utterances in open_corpus(self.corpus).splits.sets.items() if utterances}
        splits = canonical_splits(self.splits or sets)
        for name in [*splits, *self._fit_splits]:
            require_split(name, sets)
        utterances = [utterance for name in splits for utterance in sets[name]]
        empty = [utterance for utterance in utterances if not num_frames(samples_of(utterance))]
        if empty:
            what = f"{len(empty)} audio files are unreadable or shorter than one frame of 25 ms, this one the first"
            raise UserError(what, where=empty[0].path, remedy=BAD_AUDIO)
        return utterances

    @property
    def fingerprint(self) -> str:
        """Identifies the utterances, their lengths, and which of them the codebook is fitted on."""
        lengths = (f"{utterance.utterance_id}\t{samples_of(utterance)}" for utterance in self.utterances)
        return f"{len(self.utterances)} utterances, {content_hash(f'{sorted(self._fit_splits)}', *lengths)}"

    def fit_indices(self) -> list[int]:
        """Utterances that the codebook is fitted on, as positions in `utterances`."""
        indices = [i for i, utterance in enumerate(self.utterances) if utterance.split in self._fit_splits]
        if not indices:
            remedy = "Name one of data.splits there, or give a codebook"
            raise UserError("no audio to fit the codebook on", where="data.fit_splits", remedy=remedy)
        return indices

    def batches(self, indices: Sequence[int] | None = None) -> list[list[int]]:
        """Batch these utterances, all if None, from the longest to the shortest."""
        indices = range(len(self.utterances)) if indices is None else indices
        num_samples = [samples_of(self.utterances[i]) for i in indices]
        return BucketBatchSampler(indices, num_samples, batch_seconds=self.batch_seconds, shuffle=False).plan(epoch=0)

    def loader(self, batches: Sequence[list[int]]) -> SpeechLoader[SpeechBatch]:
        """Load some of the batches."""
        longest = max((samples_of(self.utterances[i]) for batch in batches for i in batch), default=0)
        dataset = WholeUtterances(self.utterances, max_samples=longest)
        return SpeechLoader(dataset, GivenBatches(batches), collate_speech, num_workers=self.num_workers)
