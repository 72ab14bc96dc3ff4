"""Raw predictions of recordings: decoded, cut into utterances, and these predicted many together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from ser_personal.audio import BAD_AUDIO, SAMPLE_RATE, is_silent
from ser_personal.errors import UserError
from ser_personal.files import content_hash
from ser_personal.recognition.recordings import Recording, chunks
from ser_personal.recognition.segmenters import ByWindows, Segment, before_pause, cut_turns, split_evenly
from ser_personal.recognition.turns import Turn, check_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.recognition.segmenters import Segmenter

    # an utterance: where it is, who speaks, and its samples
    _Piece = tuple[Segment, str | None, NDArray[np.float32]]

CHUNK_SECONDS = 600.0
# of recordings longer than that, samples
BLOCK = 300 * SAMPLE_RATE
CHUNK_RECORDINGS = 256
DECODING_THREADS = 2
Result = TypeVar("Result")


class PredictedUtterance(NamedTuple):
    """An utterance of a recording, and what the model predicts of it.

    `pooled` is (dim,), `prediction` (attributes,), label points, raw, or (emotions,), probabilities.
    """

    segment: Segment
    speaker_id: str | None
    pooled: NDArray[np.float64]
    prediction: NDArray[np.float64]
    sample_hash: int


class Utterances(NamedTuple):
    """The utterances of a recording in the order of time."""

    recording: Recording
    utterances: list[PredictedUtterance]


@dataclass(frozen=True, eq=False)
class RawRecognizer:
    """Decodes recordings, cuts them into utterances of at most `max_samples` and predicts these, many together.

    Speaker ids are those of the embedding table if `training_speakers`; otherwise everyone is outside it.
    """

    network: EmotionNetwork
    segmenter: Segmenter
    max_samples: int
    training_speakers: bool = False

    def __call__(self, recordings: Iterable[Recording]) -> Iterator[Utterances | UserError]:
        """Raw predictions of each recording, in order, or what is wrong with it; some minutes of audio at a time."""
        for chunk in chunks(recordings, CHUNK_SECONDS, CHUNK_RECORDINGS):
            yield from self.together(chunk)

    def each(self, recordings: Iterable[Recording]) -> Iterator[Utterances]:
        """Raw predictions of each recording, in order, until one is wrong."""
        for outcome in self(recordings):
            if isinstance(outcome, UserError):
                raise outcome
            yield outcome

    def together(self, recordings: Sequence[Recording]) -> list[Utterances | UserError]:
        """Raw predictions of one of `chunks`, in order, or what is wrong with a recording, all audio in memory."""
        if _is_long(recordings[0]):
            return [_outcome(self._alone, recording) for recording in recordings]
        with ThreadPoolExecutor(DECODING_THREADS) as threads:
            cut = list(threads.map(partial(_outcome, lambda recording: next(self._cuts(recording))), recordings))
        pieces = [piece for found in cut if not isinstance(found, UserError) for piece in found]
        try:
            predicted = iter(self._predict(pieces))
        except Exception:  # noqa: BLE001  one recording caused it, which is found one by one
            return [_outcome(self._alone, recording) for recording in recordings]
        return [
            found if isinstance(found, UserError) else Utterances(recording, list(islice(predicted, len(found))))
            for recording, found in zip(recordings, cut, strict=True)
        ]

    def _alone(self, recording: Recording) -> Utterances:
        return Utterances(recording, [one for pieces in self._cuts(recording) for one in self._predict(pieces)])

    def _cuts(self, recording: Recording) -> Iterator[list[_Piece]]:
        """The utterances of a recording: of one block after the other where it is long, else of all of it."""
        if recording.fault is not None:
            raise recording.fault
        total = recording.num_samples()
        check_turns(recording.turns or (), total)
        planned = self._planned(recording, total)
        held, first, found = np.zeros(0, dtype=np.float32), 0, False
        for block in recording.blocks(BLOCK) if _is_long(recording) else [recording.load()]:
            held = np.concatenate([held, block])
            now = first + len(held)
            if planned is None:
                speech, rest = self.segmenter(held), len(held)
                if now < total:
                    speech, rest = before_pause(speech, rest)
                cut = [(Segment(first + one.start, first + one.end), recording.speaker_id) for one in speech]
            else:
                ready = next((number for number, (piece, _) in enumerate(planned) if piece.end > now), len(planned))
                cut, planned = planned[:ready], planned[ready:]
                rest = min(planned[0][0].start - first, len(held)) if planned else len(held)
            pieces = [(one, speaker_id, held[one.start - first : one.end - first]) for one, speaker_id in cut]
            pieces = [piece for piece in pieces if not is_silent(piece[-1])]
            if pieces:
                yield pieces
                found = True
            held, first = held[rest:].copy(), first + rest
        if not found:
            raise UserError("no speech was found in it", remedy="Leave it out, or give --cut windows")

    def _predict(self, pieces: Sequence[_Piece]) -> list[PredictedUtterance]:
        if not pieces:
            return []
        known = [speaker_id if self.training_speakers else None for _, speaker_id, _ in pieces]
        recognized = self.network.recognize([waveform for *_, waveform in pieces], known)
        return [
            PredictedUtterance(segment, speaker_id, pooled, prediction, int(content_hash(waveform)[:16], 16))
            for (segment, speaker_id, waveform), pooled, prediction in zip(pieces, *recognized, strict=True)
        ]

    def _planned(self, recording: Recording, num_samples: int) -> list[tuple[Segment, str | None]] | None:
        """Utterances that turns or windows define, and their speakers; None where they depend on the audio."""
        if isinstance(self.segmenter, ByWindows):
            whole = (Turn(0, inf, recording.speaker_id),)
            return cut_turns(whole if recording.turns is None else recording.turns, num_samples, self.segmenter.within)
        if recording.turns is None:
            return None
        return cut_turns(recording.turns, num_samples, partial(split_evenly, max_samples=self.max_samples))


def _is_long(recording: Recording) -> bool:
    return recording.seconds() > CHUNK_SECONDS


def _outcome(work: Callable[[Recording], Result], recording: Recording) -> Result | UserError:
    try:
        return work(recording)
    except UserError as error:
        remedy = "Leave it out, or give sound such as 16 kHz WAV or FLAC" if error.remedy == BAD_AUDIO else error.remedy
        return UserError(error.what, where=recording.source, remedy=remedy)
    except Exception as error:  # noqa: BLE001
        what = f"can't be recognised ({type(error).__name__}: {error})"
        return UserError(what, where=recording.source, remedy="Leave it out")
