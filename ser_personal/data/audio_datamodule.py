"""Speech of any set, for an encoder that passes over it once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from ser_personal.data.bad_audio import OnBadAudio
from ser_personal.data.collate import collate_speech
from ser_personal.data.datamodule import SpeechDataModule
from ser_personal.data.dataset import SpeechDataset, SpeechExample, decode_part, samples_of
from ser_personal.types import SpeechBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ser_personal.corpus.base import Corpus
    from ser_personal.data.batching import ExampleKey
    from ser_personal.data.loader import SpeechLoader
    from ser_personal.types import Utterance


class AudioDataModule(SpeechDataModule[SpeechExample, SpeechBatch]):
    """Every utterance of some sets, of known speakers and others, whatever is annotated of it.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        splits: sets to pass over; all if None.
        batch_seconds: seconds of a batch, padding included, at most.
        max_samples: longer audio keeps its last `max_samples`, as in fine-tuning.
        num_workers: processes that decode audio.
        on_bad_audio: raise an error at audio that can't be used, or skip it.
        max_bad_share: of a set that may be skipped; more stops the run.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        *,
        splits: list[str] | None = None,
        batch_seconds: float = 120.0,
        max_samples: int = 250_000,
        num_workers: int = 0,
        on_bad_audio: OnBadAudio = "raise",
        max_bad_share: float = 0.01,
    ) -> None:
        super().__init__(
            corpus,
            batch_seconds=batch_seconds,
            max_batch=None,
            max_samples=max_samples,
            known_speakers_only=False,
            num_workers=num_workers,
            seed=0,
            on_bad_audio=on_bad_audio,
            max_bad_share=max_bad_share,
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
