"""Recordings -> their utterances and what the model says of them, before any calibration."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ser_personal.audio import SAMPLE_RATE
from ser_personal.errors import UserError
from ser_personal.recognition.recordings import Recording, chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.recognition.profiles import SpeakerProfiles
    from ser_personal.recognition.segments import Segmenter
    from ser_personal.recognition.voice_activity import Segment

CHUNK_SECONDS = 600.0
CHUNK_RECORDINGS = 256
DECODING_THREADS = 2


@dataclass(frozen=True, eq=False)
class Utterances:
    """The utterances of one recording and what the model says of them.

    Attributes:
        recording: which.
        seconds: of the whole recording.
        segments: where they are, in the order of time.
        pooled: (utterances, dim).
        predictions: (utterances, attributes), label points, raw.
    """

    recording: Recording
    seconds: float
    segments: list[Segment]
    pooled: NDArray[np.float64]
    predictions: NDArray[np.float64]


class CutRecording(NamedTuple):
    """A decoded recording and where its utterances are.

    Attributes:
        recording: which.
        waveform: (samples,), 16 kHz.
        segments: in the order of time, at least one.
    """

    recording: Recording
    waveform: NDArray[np.float32]
    segments: list[Segment]


@dataclass(frozen=True, eq=False)
class RawRecognizer:
    """Decodes recordings, cuts them into utterances and predicts these, many together.

    Attributes:
        network: the model.
        segmenter: finds the utterances.
        profiles: of enrolled speakers, who may have embeddings of their own.
        training_speakers: speaker ids are those of the embedding table; otherwise everyone is outside it.
    """

    network: EmotionNetwork
    segmenter: Segmenter
    profiles: SpeakerProfiles
    training_speakers: bool = False

    def __call__(self, recordings: Iterable[Recording]) -> Iterator[Utterances | UserError]:
        """Raw predictions of each recording, in order, or what is wrong with it; some minutes of audio at a time."""
        for chunk in chunks(recordings, CHUNK_SECONDS, CHUNK_RECORDINGS):
            yield from self.together(chunk)

    def together(self, recordings: Sequence[Recording]) -> list[Utterances | UserError]:
        """Raw predictions of each recording, in order, or what is wrong with it, all of their audio in memory."""
        with ThreadPoolExecutor(DECODING_THREADS) as threads:
            found = list(threads.map(self._cut, recordings))
        cut = [one for one in found if isinstance(one, CutRecording)]
        recognized = self.network.recognize(
            [one.waveform[segment.start : segment.end] for one in cut for segment in one.segments],
            [self._embedded(one.recording) for one in cut for _ in one.segments],
        )
        outcomes: list[Utterances | UserError] = []
        first = 0
        for one in found:
            if isinstance(one, UserError):
                outcomes.append(one)
                continue
            mine = slice(first, first + len(one.segments))
            first = mine.stop
            seconds = len(one.waveform) / SAMPLE_RATE
            pooled, predictions = recognized.pooled[mine], recognized.predictions[mine]
            outcomes.append(Utterances(one.recording, seconds, one.segments, pooled, predictions))
        return outcomes

    def _cut(self, recording: Recording) -> CutRecording | UserError:
        try:
            self.network.check_speaker(self._embedded(recording))
            waveform = recording.load()
        except UserError as error:
            return error
        segments = self.segmenter(waveform)
        if not segments:
            remedy = "Leave it out, or cut it into windows"
            return UserError("no speech was found in it", where=recording.source, remedy=remedy)
        return CutRecording(recording, waveform, segments)

    def _embedded(self, recording: Recording) -> str | None:
        if self.training_speakers:
            return recording.speaker_id
        return self.profiles.name_in_network(recording.speaker_id)
