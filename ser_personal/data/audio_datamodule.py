"""Speech of any set, for an encoder that passes over it once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from ser_personal.data.collate import collate_speech
from ser_personal.data.datamodule import SpeechDataModule
from ser_personal.data.dataset import SpeechDataset, SpeechExample, decode_part, samples_of
from ser_personal.types import SpeechBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ser_personal.corpus.base import Corpus
    from ser_personal.data.batching import ExampleKey
    from ser_personal.types import Utterance


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
