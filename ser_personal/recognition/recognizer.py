"""`EmotionRecognizer`: arousal, valence and dominance of raw audio, calibrated to each of its speakers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from ser_personal.audio import SAMPLE_RATE
from ser_personal.errors import UserError
from ser_personal.recognition.bundle import Bundle, CalibrationName
from ser_personal.recognition.bundle_reader import read_bundle
from ser_personal.recognition.calibrators import make_calibrator
from ser_personal.recognition.causal import CausalCalibrator, PLDCSettings, calibrate_in_turn
from ser_personal.recognition.hub import find_bundle
from ser_personal.recognition.profiles import SpeakerProfile, SpeakerProfiles
from ser_personal.recognition.recordings import Recording, recordings_of
from ser_personal.recognition.rows import CalibratedUtterances, Row, RowFormat
from ser_personal.recognition.segments import CutName, make_segmenter
from ser_personal.recognition.utterances import RawRecognizer, Utterances

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike
    from torch import Tensor

    from ser_personal.recognition.segments import Segmenter


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
            from ser_personal.recognition.enrolled import with_adapted_row

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
        from ser_personal.recognition.enrolled import listen_to_profiles

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
