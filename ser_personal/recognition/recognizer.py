"""`EmotionRecognizer`: emotion of raw audio, attributes calibrated to each speaker or probabilities of categories."""

from __future__ import annotations

import sys
from collections import defaultdict
from math import inf, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ser_personal.audio import SAMPLE_RATE
from ser_personal.calibration.few_labels import LabelPrior
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.corpus.table import known
from ser_personal.errors import UserError, counted
from ser_personal.recognition.bundle import Bundle, CalibrationName, find_bundle, read_bundle
from ser_personal.recognition.causal import CausalLabels, make_calibrator
from ser_personal.recognition.profiles import SpeakerProfile, SpeakerProfiles
from ser_personal.recognition.raw import RawRecognizer, Utterances
from ser_personal.recognition.recordings import Channel, Recording, recordings_of
from ser_personal.recognition.segmenters import CutName, make_segmenter
from ser_personal.recognition.turns import overlap
from ser_personal.scores import speaker_name
from ser_personal.types import plain_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from ser_personal.recognition.causal import CausalCalibrator
    from ser_personal.recognition.profiles import Added
    from ser_personal.recognition.segmenters import Segmenter

    Audio = str | Path | ArrayLike | Tensor

# the likeliest emotion, as in the tables of `ser test` and `ser predict`
PREDICTED = "predicted"

Row = dict[str, str | float | int | None]


class EmotionRecognizer:
    """A trained model for people's own recordings.

    Speaker ids are the caller's own names. Each utterance of a named speaker is calibrated by what the speaker has said
    so far in the call, itself included, in the order of the recordings. An enrolled speaker starts from what was said
    before, and every call adds to it; nothing is kept of others. The same sound counts once. Intervals and the weight
    of labels are measured with the bundle's own calibration: PLDC with other settings has no intervals, and labels have
    their default weight.

    Args:
        bundle: the model.
        calibration: `pldc`, `posterior` or `none`, which the labels of an enrolled speaker correct, where there are
            some; as the bundle says if None.
        pldc: settings of PLDC, which then calibrates unless another is named; the bundle's own if None.
        segmenter: finds the utterances; by speech if None.
        profiles: enrolled speakers; none, and in memory alone, if None.
        training_speakers: ids are those of the training corpus, whose embeddings are then used. Otherwise everyone is
            new to the model, whatever their id: another corpus's speaker 12 isn't the training's.
        device: to run on; CUDA where there is one, if None.
        bf16: compute the encoder in bfloat16 (ours): faster on GPUs that have it, far slower on most CPUs.
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
        bf16: bool = False,
    ) -> None:
        import torch

        self.bundle = bundle
        chosen = calibration or (bundle.calibration if pldc is None else "pldc")
        self.calibrator: CausalCalibrator | None = make_calibrator(bundle, chosen, pldc)
        own_settings = chosen != "pldc" or pldc in (None, bundle.pldc)
        fitted, usual = bundle.label_priors.get(chosen, {}) if own_settings else {}, LabelPrior.default(bundle.scale)
        priors = tuple(fitted.get(attribute, usual) for attribute in bundle.attributes)
        self._with_labels = CausalLabels(self.calibrator, priors)
        self._has_intervals = chosen == bundle.calibration and own_settings
        if profiles is not None:
            self._require_attributes()
        self.profiles = profiles if profiles is not None else SpeakerProfiles(bundle.model)
        segmenter = segmenter or make_segmenter("speech", max_samples=bundle.max_samples)
        self.raw = RawRecognizer(bundle.network, segmenter, bundle.max_samples, training_speakers)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.zeros(1, device=device).cpu()
        # AssertionError: torch was built without it; NotImplementedError, a RuntimeError: it holds no values
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"{device} can't compute on this machine", where="--device", remedy="Give cpu") from error
        bundle.network.to(device)
        bundle.network.bf16 = bf16

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        profiles: str | Path | None = None,
        cut: CutName = "speech",
        window_seconds: float = 5.0,
        hop_seconds: float | None = None,
        revision: str | None = None,
        token: str | None = None,
        **options: Any,
    ) -> Self:
        """Load a bundle.

        Args:
            name: a folder that `ser export` wrote, or the name of one on the Hugging Face hub.
            profiles: file for enrolled speakers, read where it exists; in memory alone if None.
            cut: how long recordings are cut: by `speech` (`silero`, or `energy` where silero-vad isn't installed), or
                into `windows`, which turns are cut into as well.
            window_seconds: of a window.
            hop_seconds: from the beginning of a window to that of the next; `window_seconds` if None.
            revision: branch, tag or commit on the hub; the newest if None.
            token: for a private one on the hub; that of `hf auth login` or HF_TOKEN if None.
            options: calibration, pldc, training_speakers, device and bf16, as the class has them.
        """
        bundle = read_bundle(find_bundle(name, revision, token))
        segmenter = make_segmenter(
            cut, max_samples=bundle.max_samples, window_seconds=window_seconds, hop_seconds=hop_seconds
        )
        enrolled = None if profiles is None else SpeakerProfiles(bundle.model, Path(profiles))
        return cls(bundle, segmenter=segmenter, profiles=enrolled, **options)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the predicted attributes, in the order of their columns; none where emotions are predicted."""
        return self.bundle.attributes

    @property
    def emotions(self) -> tuple[str, ...]:
        """Names of the emotions whose probabilities are predicted instead, in the order of their columns."""
        return self.bundle.emotions

    def columns_of(self, recordings: Iterable[Recording]) -> list[str]:
        """Columns of predictions; `file`, `start` and `end` are audformat's names of a segmented index."""
        marks = ["overlap", "short"] if any(recording.turns is not None for recording in recordings) else []
        if self.emotions:
            probabilities = [f"{emotion}_probability" for emotion in self.emotions]
            return ["speaker", "start", "end", PREDICTED, *probabilities, *marks, "file"]
        calibrated = [f"{attribute}_calibrated" for attribute in self.attributes]
        rest = [f"{attribute}_{name}" for attribute in self.attributes for name in ("low", "high", "raw")]
        return ["speaker", "start", "end", *calibrated, *rest, "calibration_utterances", *marks, "file"]

    def predict(
        self,
        audio: Audio | Sequence[Audio],
        speaker_ids: str | Sequence[str | None] | None = None,
        segments: str | Path | Sequence[Any] | None = None,
        *,
        channel: Channel = "mix",
        calibrate: bool = True,
        sample_rate: int = SAMPLE_RATE,
    ) -> pd.DataFrame:
        """Predict recordings, whole where they are as short as an utterance, cut into utterances where longer.

        Args:
            audio: a path, a waveform (samples,), or several of either.
            speaker_ids: of all recordings, or one each; None where unknown.
            segments: who speaks when, where several do: RTTM or a TextGrid (see `ser annotate`), or of each recording a
                list of (start, end, speaker) in seconds.
            channel: of files, `mix` is all mixed, `left` and `right` one, and `each` a speaker a channel, `call/left`
                and `call/right`; segments then are of the channel that RTTM, or a fourth value of a turn, says.
            calibrate: calibrate utterances of named speakers, and update the profiles of the enrolled.
            sample_rate: of waveforms, Hz.

        Returns:
            One row per utterance: speaker, start and end in seconds; of each attribute, in label points, `_calibrated`
            (the raw value where nothing calibrates it), `_low` and `_high` (an interval around it, within the label
            scale; NaN where the bundle has no table for it) and `_raw`; calibration_utterances, how many of the
            speaker's utterances the calibration is based on, 0 for none; with segments, overlap, seconds in which
            others speak, too, and short, 1 where it lasts under a second; last, file (the path, or `array N`). Of a
            model of categories, `predicted`, the likeliest, and of each `_probability` replace the attribute columns.
        """
        import pandas as pd

        recordings = recordings_of(audio, speaker_ids, segments, sample_rate=sample_rate, channel=channel)
        if calibrate:
            self.profiles.reload()
        profiles: dict[str, SpeakerProfile] = {}
        added: defaultdict[str, list[Added]] = defaultdict(list)
        rows: list[Row] = []
        for outcome in self.raw.each(recordings):
            rows += self.rows(outcome, profiles, calibrate=calibrate)
            for _, speaker_id, pooled, prediction, sample_hash in outcome.utterances:
                if speaker_id in profiles and speaker_id in self.profiles:
                    added[speaker_id].append((pooled, prediction, None, sample_hash))
        if added:
            self.profiles.extend(added)
        return pd.DataFrame(rows, columns=self.columns_of(recordings))

    def enroll(
        self,
        speaker_id: str,
        audio: Audio | Sequence[Audio],
        labels: Mapping[str, ArrayLike] | None = None,
        *,
        sample_rate: int = SAMPLE_RATE,
    ) -> SpeakerProfile:
        """Add recordings of a speaker to the speaker's profile, and save it where profiles are saved.

        An utterance counts once, with the first label of each attribute that it is given. Ask the speaker first: a
        profile holds a voice vector, which is biometric data.

        Args:
            speaker_id: any name; a new one starts a profile.
            audio: a path, a waveform (samples,), or several of either.
            labels: attribute -> label points, one per recording, NaN where missing: what the speaker's calibration is
                corrected by. Each recording is then one utterance.
            sample_rate: of waveforms, Hz.
        """
        recordings = recordings_of(audio, speaker_id, sample_rate=sample_rate)
        if not recordings:
            raise UserError("holds no recording", where="audio", remedy="Give one or more")
        return self.enroll_recordings(speaker_name(speaker_id, "speaker_id") or "", recordings, labels)

    def enroll_recordings(
        self, speaker_id: str, recordings: Sequence[Recording], labels: Mapping[str, ArrayLike] | None = None
    ) -> SpeakerProfile:
        """`enroll` of recordings as `ser enroll` finds them."""
        self._require_attributes()
        speaker_id = plain_name(speaker_id)
        if known(speaker_id) is None:
            raise UserError("names no speaker", where=f"speaker {speaker_id!r}", remedy="Give a name")
        of_rows = self._label_rows({} if labels is None else labels, recordings)
        added: list[Added] = []
        for outcome, values in zip(self.raw.each(recordings), of_rows, strict=True):
            if len(outcome.utterances) > 1 and not np.isnan(values).all():
                remedy = "Label each by a row of a table with start and end, or leave the label out"
                raise UserError("has one label for several utterances", where=outcome.recording.source, remedy=remedy)
            added += [(pooled, raw, values, sample_hash) for *_, pooled, raw, sample_hash in outcome.utterances]
        self.profiles.extend({speaker_id: added}, self._empty)
        return self.profiles[speaker_id]

    def _label_rows(self, labels: Mapping[str, ArrayLike], recordings: Sequence[Recording]) -> NDArray[np.float64]:
        rows = np.full((len(recordings), len(self.attributes)), np.nan)
        low, high = self.bundle.scale or (-sys.float_info.max, sys.float_info.max)
        for attribute, values in labels.items():
            if attribute not in self.attributes:
                remedy = f"Give labels of {', '.join(self.attributes)}"
                raise UserError(f"the model doesn't predict {attribute}", where="labels", remedy=remedy)
            try:
                column = np.asarray(values, dtype=np.float64).reshape(len(recordings))
            except (TypeError, ValueError) as error:
                what = f"aren't {counted(len(recordings), 'number')} ({error})"
                remedy = "Give one per recording, in their order, NaN where there is none"
                raise UserError(what, where=f"labels of {attribute}", remedy=remedy) from error
            for row in np.flatnonzero((column < low) | (column > high)).tolist():
                what = f"{attribute} is {column[row]:g}, outside the scale {low:g} to {high:g}"
                raise UserError(what, where=recordings[row].source, remedy="Correct the label, or leave it out")
            rows[:, self.attributes.index(attribute)] = column
        return rows

    def _require_attributes(self) -> None:
        if self.emotions:
            what = "predicts emotions, and speakers are enrolled to calibrate attributes"
            raise UserError(what, where="the bundle", remedy="Leave profiles out")

    def rows(self, found: Utterances, profiles: dict[str, SpeakerProfile], *, calibrate: bool = True) -> list[Row]:
        """Rows of `predict` for a recording, its utterances calibrated one after the other.

        `profiles` of the speakers so far are changed in place; other speakers start as enrolled, or empty.
        """
        turns, columns = found.recording.turns, self.columns_of([found.recording])
        rows: list[Row] = []
        for segment, speaker_id, pooled, raw, sample_hash in found.utterances:
            values, count = raw, 0
            if calibrate and speaker_id is not None:
                profile = profiles.get(speaker_id) or self.profiles.get(speaker_id, self._empty)
                if self.calibrator is not None or profile.labelled.count.any():
                    profile = profiles[speaker_id] = profile.add(pooled, raw, None, sample_hash)
                    values, count = self._with_labels(raw, profile), profile.utterances
            row: Row = {
                "file": found.recording.source,
                "start": segment.start / SAMPLE_RATE,
                "end": segment.end / SAMPLE_RATE,
                "speaker": speaker_id,
                "calibration_utterances": count,
            }
            if self.emotions:
                row[PREDICTED] = self.emotions[raw.argmax()]
                row |= {f"{emotion}_probability": float(raw[index]) for index, emotion in enumerate(self.emotions)}
            for column, attribute in enumerate(self.attributes):
                value = float(values[column])
                row[f"{attribute}_raw"] = float(raw[column])
                row[f"{attribute}_calibrated"] = value
                row[f"{attribute}_low"], row[f"{attribute}_high"] = self._interval(attribute, value, count)
            if turns is not None:
                row["overlap"] = overlap(segment.start, segment.end, speaker_id, turns)
                row["short"] = int(segment.samples < SAMPLE_RATE)
            rows.append({column: row[column] for column in columns})
        return rows

    def _interval(self, attribute: str, value: float, count: int) -> tuple[float, float]:
        """Around a value by `count` utterances, raw if 0; NaN where it wasn't measured."""
        table = self.bundle.conformal
        if table is None or (count and not self._has_intervals):
            return nan, nan
        width = table.half_width(attribute, count)
        low, high = self.bundle.scale or (-inf, inf)
        return min(max(value - width, low), high), max(min(value + width, high), low)

    @property
    def _empty(self) -> SpeakerProfile:
        return SpeakerProfile.empty(self.bundle.network.dim, len(self.attributes))
