"""The audio that gets pseudo-labels: whole utterances, in batches that are the same in every run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from ser_personal.audio import num_frames
from ser_personal.corpus.csv_corpus import open_corpus
from ser_personal.corpus.splits import canonical_splits, require_split
from ser_personal.data.batching import BucketBatchSampler, GivenBatches
from ser_personal.data.dataset import SpeechDataset, SpeechExample, collate_speech, decode_part, samples_of
from ser_personal.data.loader import BadAudio, BadAudioTally, LenientDataset, OnBadAudio, SkippedAudio, SpeechLoader
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
        on_bad_audio: raise an error at audio that can't be used, or skip it: it gets no pseudo-labels.
        max_bad_share: of all audio that may be skipped; more stops the run.

    Raises:
        UserError: a number is out of its range.
    """

    corpus: Corpus | str
    splits: list[str] | None = None
    fit_splits: list[str] = field(default_factory=lambda: ["train"])
    batch_seconds: float = 120.0
    num_workers: int = 0
    on_bad_audio: OnBadAudio = "raise"
    max_bad_share: float = 0.01

    def __post_init__(self) -> None:
        require_range("batch_seconds", self.batch_seconds, 0, above=True)
        require_range("num_workers", self.num_workers, 0)
        require_range("max_bad_share", self.max_bad_share, 0, 1)

    @cached_property
    def _fit_splits(self) -> list[str]:
        return canonical_splits(self.fit_splits)

    @cached_property
    def utterances(self) -> list[Utterance]:
        """Everything that should get pseudo-labels, bad audio included.

        Raises:
            UserError: no such split.
        """
        sets = {name: utterances for name, utterances in open_corpus(self.corpus).splits.sets.items() if utterances}
        splits = canonical_splits(self.splits or sets)
        for name in [*splits, *self._fit_splits]:
            require_split(name, sets)
        return [utterance for name in splits for utterance in sets[name]]

    @cached_property
    def skipped_audio(self) -> SkippedAudio | None:
        """The list of what this process left out, as far as it has come; None where bad audio is an error."""
        return SkippedAudio(self.max_bad_share) if self.on_bad_audio == "skip" else None

    @cached_property
    def indices(self) -> list[int]:
        """Positions in `utterances` of those whose headers show nothing bad.

        Raises:
            UserError: audio has no frame, and bad audio isn't skipped, or not so much of it.
        """
        empty = [i for i, utterance in enumerate(self.utterances) if not num_frames(samples_of(utterance))]
        if self.skipped_audio is not None:
            self.skipped_audio.add([BadAudio.of(i, self.utterances[i], NO_FRAME) for i in empty])
            self.refuse_too_many_skipped()
        elif empty:
            what = f"{len(empty)} audio files are {NO_FRAME}, this one the first"
            remedy = "`ser check CORPUS` lists them; take them out of the corpus, or set data.on_bad_audio=skip"
            raise UserError(what, where=self.utterances[empty[0]].path, remedy=remedy)
        return sorted({*range(len(self.utterances))} - {*empty})

    @property
    def skipped_ids(self) -> set[str]:
        """Names of the utterances that were left out so far."""
        return {one.utterance_id for one in self.skipped_audio or ()}

    def refuse_too_many_skipped(self) -> None:
        """Stop a run that has left out more than it may.

        Raises:
            UserError: it is more than the share of all audio.
        """
        if self.skipped_audio is not None:
            self.skipped_audio.refuse_too_many(len(self.skipped_ids), len(self.utterances), self._where)

    @property
    def _where(self) -> str:
        return f"split {', '.join(sorted({utterance.split for utterance in self.utterances}))}"

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
        """Load some of the batches.

        A process stops only when what it has left out itself is too much of all: whether a run does depends on its last
        count alone, not on how many processes share it.
        """
        longest = max((samples_of(self.utterances[i]) for batch in batches for i in batch), default=0)
        dataset = WholeUtterances(self.utterances, max_samples=longest)
        load = partial(
            SpeechLoader,
            batch_sampler=GivenBatches(batches),
            collate=collate_speech,
            num_workers=self.num_workers,
        )
        if self.skipped_audio is None:
            return load(dataset)
        num_samples = [samples_of(self.utterances[i]) for i in self.indices]
        lenient = LenientDataset(dataset, self.indices, num_samples, self.max_bad_share, fills_up=False)
        tally = BadAudioTally(
            self.skipped_audio,
            utterances=len(self.indices),
            left_out_before=len(self.utterances) - len(self.indices),
            processes=1,
            where=self._where,
        )
        return load(lenient, tally=tally)


class WholeUtterances(SpeechDataset[SpeechExample]):
    """Utterances from their first sample to their last."""

    def __getitem__(self, key: ExampleKey) -> SpeechExample:
        utterance = self.utterances[key.index]
        return SpeechExample(key.index, utterance.speaker_id, decode_part(utterance, 0, samples_of(utterance)))
