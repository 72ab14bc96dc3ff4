"""Raw predictions of recordings: decoded, cut into utterances, and these predicted many together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ser_personal.audio import SAMPLE_RATE, is_silent
from ser_personal.errors import UserError
from ser_personal.recognition.recordings import Recording, chunks
from ser_personal.recognition.segmenters import ByWindows, cut_turns, split_evenly

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.recognition.profiles import SpeakerProfiles
    from ser_personal.recognition.segmenters import Segment, Segmenter
    from ser_personal.recognition.turns import Turn

CHUNK_SECONDS = 600.0
CHUNK_RECORDINGS = 256
DECODING_THREADS = 2


@dataclass(frozen=True, eq=False)
class Utterances:
    """The utterances of one recording and the model's predictions of them.

    Attributes:
        seconds: of the whole recording.
        segments: in the order of time.
        speaker_ids: of each segment.
        pooled: (utterances, dim).
        predictions: (utterances, attributes), label points, raw.
    """

    recording: Recording
    seconds: float
    segments: list[Segment]
    speaker_ids: list[str | None]
    pooled: NDArray[np.float64]
    predictions: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RawRecognizer:
    """Decodes recordings, cuts them into utterances and predicts these, many together.

    Attributes:
        network: the model.
        segmenter: finds the utterances where no turns are given.
        max_samples: of an utterance.
        profiles: of enrolled speakers, who may have embeddings of their own.
        training_speakers: speaker ids are those of the embedding table; otherwise everyone is outside it.
    """

    network: EmotionNetwork
    segmenter: Segmenter
    max_samples: int
    profiles: SpeakerProfiles
    training_speakers: bool = False

    def __call__(self, recordings: Iterable[Recording]) -> Iterator[Utterances | UserError]:
        """Raw predictions of each recording, in order, or what is wrong with it; some minutes of audio at a time."""
        for chunk in chunks(recordings, CHUNK_SECONDS, CHUNK_RECORDINGS):
            yield from self.together(chunk)

    def together(self, recordings: Sequence[Recording]) -> list[Utterances | UserError]:
        """Raw predictions of each recording, in order, or what is wrong with it, all of their audio in memory."""
        with ThreadPoolExecutor(DECODING_THREADS) as threads:
            cut = list(threads.map(self._cut, recordings))
        usable = [found for found in cut if not isinstance(found, UserError)]
        try:
            predicted = iter(self._predict(usable))
        except Exception:  # noqa: BLE001  one of them did it, and which is found one by one
            predicted = iter([self._predict_alone(found) for found in usable])
        return [found if isinstance(found, UserError) else next(predicted) for found in cut]

    def _predict(self, recordings: Sequence[_Cut]) -> list[Utterances | UserError]:
        if not recordings:
            return []
        recognized = self.network.recognize(
            [found.waveform[segment.start : segment.end] for found in recordings for segment in found.segments],
            [self._id_in_network(speaker_id) for found in recordings for speaker_id in found.speaker_ids],
        )
        ends = np.cumsum([len(found.segments) for found in recordings])[:-1]
        return [
            Utterances(recording, len(waveform) / SAMPLE_RATE, segments, speaker_ids, pooled, predictions)
            for (recording, waveform, segments, speaker_ids), pooled, predictions in zip(
                recordings, np.split(recognized.pooled, ends), np.split(recognized.predictions, ends), strict=True
            )
        ]

    def _predict_alone(self, found: _Cut) -> Utterances | UserError:
        try:
            return self._predict([found])[0]
        except Exception as error:  # noqa: BLE001  whatever a recording does, the others are done
            return _failure(found.recording, error)

    def _cut(self, recording: Recording) -> _Cut | UserError:
        try:
            for speaker_id in recording.speaker_ids:
                self.network.check_speaker(self._id_in_network(speaker_id))
            waveform = recording.load()
            if isinstance(recording.turns, tuple):
                cut = [one for one in self._of_turns(recording.turns, len(waveform)) if self._counts(one[0], waveform)]
            else:
                cut = [(segment, recording.speaker_id) for segment in self.segmenter(waveform)]
        except UserError as error:
            return error
        except Exception as error:  # noqa: BLE001  as above
            return _failure(recording, error)
        if not cut:
            remedy = "Leave it out, or give --cut windows"
            return UserError("no speech was found in it", where=recording.source, remedy=remedy)
        segments, speaker_ids = zip(*cut, strict=True)
        return _Cut(recording, waveform, [*segments], [*speaker_ids])

    def _of_turns(self, turns: Sequence[Turn], num_samples: int) -> list[tuple[Segment, str | None]]:
        if isinstance(self.segmenter, ByWindows):
            return cut_turns(turns, num_samples, self.segmenter.within)
        return cut_turns(turns, num_samples, partial(split_evenly, max_samples=self.max_samples))

    def _counts(self, segment: Segment, waveform: NDArray[np.float32]) -> bool:
        """Windows without sound are left out; of a turn, a part is in it, however quiet."""
        return not isinstance(self.segmenter, ByWindows) or not is_silent(waveform[segment.start : segment.end])

    def _id_in_network(self, speaker_id: str | None) -> str | None:
        return speaker_id if self.training_speakers else self.profiles.id_in_network(speaker_id)


class _Cut(NamedTuple):
    recording: Recording
    waveform: NDArray[np.float32]
    segments: list[Segment]
    speaker_ids: list[str | None]


def _failure(recording: Recording, error: Exception) -> UserError:
    what = f"can't be recognised ({type(error).__name__}: {error})"
    failure = UserError(what, where=recording.source, remedy="Leave it out")
    failure.__cause__ = error
    return failure
