"""`EmotionRecognizer`: arousal, valence and dominance of raw audio, calibrated to each of its speakers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from ser_personal.audio import SAMPLE_RATE
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.errors import UserError
from ser_personal.recognition.bundle import Bundle, CalibrationName, find_bundle, read_bundle
from ser_personal.recognition.causal import (
    CausalCalibrator,
    CausalPLDC,
    CausalPosterior,
    calibrate_in_turn,
)
from ser_personal.recognition.profiles import SpeakerProfile, SpeakerProfiles
from ser_personal.recognition.recordings import CutName, Recording, chunks, make_segmenter, recordings_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from ser_personal.calibration.conformal import ConformalTable
    from ser_personal.recognition.bundle import Bundle, CalibrationName
    from ser_personal.recognition.causal import CausalCalibrator
    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.recognition.recordings import Segment, Segmenter


def make_calibrator(
    bundle: Bundle, name: CalibrationName | None = None, pldc: PLDCSettings | None = None
) -> CausalCalibrator | None:
    """Make a bundle's calibrator; None where nothing is to calibrate.

    Args:
        bundle: what it is made from.
        name: which; if None, PLDC where settings of it are given, else the bundle's own choice.
        pldc: settings of PLDC; the bundle's own if None.

    Raises:
        UserError: the bundle doesn't hold what a calibration asked for by name needs.
    """
    chosen = name or (bundle.calibration if pldc is None else "pldc")
    if chosen == "posterior":
        if bundle.posterior is None:
            raise UserError(
                "holds no posterior",
                where="the bundle",
                remedy="Export it with --corpus, whose validation speakers it is fitted on, or ask for pldc",
            )
        return CausalPosterior(bundle.posterior, bundle.attributes)
    if chosen == "none":
        return None
    if bundle.bank is None:
        if name is None and pldc is None:
            return None
        raise UserError("holds no speaker bank", where="the bundle", remedy="Export it with --bank")
    return CausalPLDC(bundle.bank, bundle.attributes, pldc or bundle.pldc)


Row = dict[str, str | float | int | None]


class CalibratedUtterances(NamedTuple):
    """Calibrated predictions of one recording.

    Attributes:
        predictions: (utterances, attributes), label points.
        behind: (utterances,), how many of the speaker's utterances are behind each calibration, 0 for none.
    """

    predictions: NDArray[np.float64]
    behind: list[int]


@dataclass(frozen=True)
class RowFormat:
    """How a model's predictions are written down.

    Attributes:
        attributes: what it predicts, in the order of its outputs.
        scale: least and greatest label, None where nobody said.
        conformal: half-widths of intervals; None where they weren't measured.
    """

    attributes: tuple[str, ...]
    scale: tuple[float, float] | None
    conformal: ConformalTable | None

    @property
    def columns(self) -> list[str]:
        """Columns of a row, in their order."""
        of_attribute = ("raw", "calibrated", "low", "high")
        values = [f"{attribute}_{name}" for attribute in self.attributes for name in of_attribute]
        return ["source", "start", "end", "speaker", *values, "calibration_utterances"]

    def rows(self, utterances: Utterances, calibrated: CalibratedUtterances, *, measured: bool) -> list[Row]:
        """Rows of a recording.

        Args:
            utterances: of one recording.
            calibrated: what a calibrator made of them.
            measured: whether the intervals hold around this calibrator's values; there are none otherwise.
        """
        rows: list[Row] = []
        for segment, raw, values, behind in zip(
            utterances.segments, utterances.predictions, calibrated.predictions, calibrated.behind, strict=True
        ):
            row: Row = {
                "source": utterances.recording.source,
                "start": segment.start / SAMPLE_RATE,
                "end": segment.end / SAMPLE_RATE,
                "speaker": utterances.recording.speaker_id,
            }
            for column, attribute in enumerate(self.attributes):
                value = float(values[column])
                row[f"{attribute}_raw"] = float(raw[column])
                row[f"{attribute}_calibrated"] = value
                row[f"{attribute}_low"], row[f"{attribute}_high"] = (
                    self._interval(attribute, value, behind) if measured or not behind else (nan, nan)
                )
            row["calibration_utterances"] = behind
            rows.append(row)
        return rows

    def _interval(self, attribute: str, value: float, behind: int) -> tuple[float, float]:
        if self.conformal is None:
            return nan, nan
        width = self.conformal.half_width(attribute, behind)
        low, high = self.scale or (-inf, inf)
        return min(max(value - width, low), high), max(min(value + width, high), low)


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


class EmotionRecognizer:
    """A trained model for people's own recordings.

    Speaker ids are the caller's own names. Each utterance of a named speaker is calibrated by what the speaker has said
    so far in the call, itself included, in the order given. An enrolled speaker starts from what was said before, and
    every call adds to it; of others nothing is kept.

    Args:
        bundle: the model.
        calibration: `pldc`, `posterior` or `none`; as the bundle says if None.
        pldc: settings of PLDC, which then calibrates unless another is named; the bundle's own if None.
        segmenter: finds the utterances; by speech if None.
        profiles: enrolled speakers; nobody, and in memory alone, if None.
        training_speakers: ids are those of the training corpus, whose embeddings are then used. Otherwise everyone is
            new to the model, whatever their id: another corpus's speaker 12 isn't the training's.
        device: to run on; a GPU where there is one, if None.

    Attributes:
        raw: predicts, before any calibration.
        calibrator: may be replaced by anything that calibrates an utterance by its speaker's profile. The bundle's
            intervals are measured with its own: around another's predictions there are none.

    Raises:
        UserError: the bundle holds nothing for the calibration asked for.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        calibration: CalibrationName | None = None,
        pldc: PLDCSettings | None = None,
        segmenter: Segmenter | None = None,
        profiles: SpeakerProfiles | None = None,
        training_speakers: bool = False,
        device: str | None = None,
    ) -> None:
        import torch

        self.bundle = bundle
        own = calibration is None and pldc is None
        self._measured_with = make_calibrator(bundle)
        self.calibrator: CausalCalibrator | None = (
            self._measured_with if own else make_calibrator(bundle, calibration, pldc)
        )
        self._format = RowFormat(bundle.attributes, bundle.scale, bundle.conformal)
        self._raw_is_meant = (calibration or bundle.calibration) == "none"
        self.profiles = profiles if profiles is not None else SpeakerProfiles(bundle.model)
        segmenter = segmenter or make_segmenter("speech", max_samples=bundle.max_samples, window_seconds=5.0)
        self.raw = RawRecognizer(bundle.network, segmenter, self.profiles, training_speakers)
        self._listen_to_profiles()
        bundle.network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        profiles: str | Path | None = None,
        calibration: CalibrationName | None = None,
        pldc: PLDCSettings | None = None,
        cut: CutName = "speech",
        window_seconds: float = 5.0,
        training_speakers: bool = False,
        device: str | None = None,
    ) -> Self:
        """Load a bundle.

        Args:
            name: a folder that `ser export` wrote, or the name of one on the Hugging Face hub.
            profiles: file for enrolled speakers, read where it exists; in memory alone if None.
            calibration: see the class.
            pldc: see the class.
            cut: how long recordings are cut: by `speech` (`silero`, or `energy` where silero-vad isn't installed), or
                into `windows`.
            window_seconds: of a window.
            training_speakers: see the class.
            device: to run on; a GPU where there is one, if None.

        Raises:
            UserError: the bundle or the profiles can't be read, or are of a newer version, or the bundle holds
                nothing for the calibration asked for.
        """
        bundle = read_bundle(find_bundle(name))
        return cls(
            bundle,
            calibration=calibration,
            pldc=pldc,
            segmenter=make_segmenter(cut, max_samples=bundle.max_samples, window_seconds=window_seconds),
            profiles=None if profiles is None else SpeakerProfiles.open(bundle.model, Path(profiles)),
            training_speakers=training_speakers,
            device=device,
        )

    @property
    def attributes(self) -> tuple[str, ...]:
        """What is predicted."""
        return self.bundle.attributes

    @property
    def columns(self) -> list[str]:
        """Columns of a prediction."""
        return self._format.columns

    def predict(
        self,
        audio: str | Path | ArrayLike | Tensor | Sequence[str | Path | ArrayLike | Tensor],
        speaker_ids: str | Sequence[str | None] | None = None,
        *,
        calibrate: bool = True,
        sample_rate: int = SAMPLE_RATE,
    ) -> pd.DataFrame:
        """Predict recordings, whole where they are as short as an utterance, cut into utterances where longer.

        Args:
            audio: a path, a waveform (samples,), or several of either.
            speaker_ids: of all recordings, or one each; None where unknown.
            calibrate: calibrate utterances of named speakers, and go on with the profiles of the enrolled.
            sample_rate: of waveforms, Hz.

        Returns:
            One row an utterance: source (the path, or `array N`), start and end in seconds, speaker, and of each
            attribute, in label points, `_raw`, `_calibrated` (the raw value where nothing calibrates it), `_low` and
            `_high` (an interval around it, within the label scale; NaN where the bundle has no table for it); then
            calibration_utterances, how many of the speaker's utterances are behind the calibration, 0 for none.

        Raises:
            UserError: a recording can't be decoded or holds no speech, or speakers are named and the bundle holds no
                speaker bank.
        """
        import pandas as pd

        recordings = recordings_of(audio, speaker_ids, sample_rate=sample_rate)
        self.check_calibrates(recordings, calibrate=calibrate)
        profiles: dict[str, SpeakerProfile] = {}
        rows: list[Row] = []
        for outcome in self.raw(recordings):
            if isinstance(outcome, UserError):
                raise outcome
            rows += self.rows(outcome, profiles, calibrate=calibrate)
        self.keep(profiles)
        return pd.DataFrame(rows, columns=self.columns)

    def enroll(
        self,
        speaker_id: str,
        audio: str | Path | ArrayLike | Tensor | Sequence[str | Path | ArrayLike | Tensor],
        *,
        adapted: str | None = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> SpeakerProfile:
        """Add recordings of a speaker to the speaker's profile, and save it where profiles are saved.

        Ask the speaker first: a profile holds a voice vector, which is biometric data.

        Args:
            speaker_id: any name; a new one starts a profile.
            audio: a path, a waveform (samples,), or several of either.
            adapted: checkpoint of `ser fit --config configs/adapt.yaml` with a row learnt on this speaker's audio, by
                which the model knows the voice from then on.
            sample_rate: of waveforms, Hz.

        Raises:
            UserError: a recording can't be decoded or holds no speech, or there is no such row, or it comes when the
                speaker has been heard without it.
        """
        profile = self._start(speaker_id)
        if adapted is not None:
            from ser_personal.recognition.profiles import with_adapted_row

            profile = with_adapted_row(profile, self.bundle.network, adapted, speaker_id)
            self.profiles.update({speaker_id: profile})
            self._listen_to_profiles()
        for outcome in self.raw(recordings_of(audio, speaker_id, sample_rate=sample_rate)):
            if isinstance(outcome, UserError):
                raise outcome
            for pooled, prediction in zip(outcome.pooled, outcome.predictions, strict=True):
                profile = profile.heard(pooled, prediction)
        self.profiles.update({speaker_id: profile})
        return profile

    def _listen_to_profiles(self) -> None:
        from ser_personal.recognition.profiles import listen_to_profiles

        listen_to_profiles(self.bundle.network, self.profiles)

    def check_calibrates(self, recordings: Iterable[Recording], *, calibrate: bool) -> None:
        """Refuse what would leave named speakers uncalibrated unnoticed.

        Raises:
            UserError: speakers are named and there is nothing to calibrate them by.
        """
        named = any(recording.speaker_id is not None for recording in recordings)
        if calibrate and named and self.calibrator is None and not self._raw_is_meant:
            raise UserError(
                "holds no speaker bank, so nobody can be calibrated",
                where="the bundle",
                remedy="Export it with --bank, or ask for raw predictions: calibrate false, or no speakers",
            )

    def calibrated(
        self, utterances: Utterances, profiles: dict[str, SpeakerProfile], *, calibrate: bool = True
    ) -> CalibratedUtterances:
        """Calibrate a recording's utterances one after the other.

        Args:
            utterances: of one recording.
            profiles: of the speakers heard so far, changed in place; who isn't in it starts as enrolled, or afresh.
            calibrate: whether to; else all is raw and no profile changes.
        """
        speaker_id = utterances.recording.speaker_id
        values, behind = utterances.predictions.copy(), [0] * len(utterances.segments)
        if calibrate and speaker_id is not None and self.calibrator is not None:
            profile = profiles[speaker_id] if speaker_id in profiles else self._start(speaker_id)
            behind = [profile.utterances + number + 1 for number in range(len(behind))]
            values, profiles[speaker_id] = calibrate_in_turn(
                self.calibrator, utterances.predictions, utterances.pooled, profile
            )
        return CalibratedUtterances(values, behind)

    def rows(self, utterances: Utterances, profiles: dict[str, SpeakerProfile], *, calibrate: bool = True) -> list[Row]:
        """Rows of `predict` for a recording; arguments as of `calibrated`."""
        calibrated = self.calibrated(utterances, profiles, calibrate=calibrate)
        return self._format.rows(utterances, calibrated, measured=self.calibrator is self._measured_with)

    def keep(self, profiles: dict[str, SpeakerProfile]) -> None:
        """Save what was heard of enrolled speakers; forget the others."""
        enrolled = {speaker_id: profile for speaker_id, profile in profiles.items() if speaker_id in self.profiles}
        if enrolled:
            self.profiles.update(enrolled)

    def _start(self, speaker_id: str) -> SpeakerProfile:
        if speaker_id in self.profiles:
            return self.profiles[speaker_id]
        return SpeakerProfile.empty(self.bundle.network.dim, len(self.attributes))
