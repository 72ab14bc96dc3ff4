"""Who the synthetic speakers are: voices, ways to express emotion, and label distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ser_personal.corpus.synthetic_language import idiolect
from ser_personal.corpus.synthetic_speech import Delivery
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray


class Cue(NamedTuple):
    """One audible property of an utterance and how it varies; all deviations are in the cue's unit.

    Attributes:
        neutral: the average speaker's value without emotion.
        between: deviation between speakers.
        within: deviation from one utterance of a speaker to the next that no label explains.
        arousal: how far one label point of arousal moves it, in the average speaker.
        valence: the same of valence.
        dominance: the same of dominance.
        lowest: smallest value that is ever spoken.
        highest: greatest value that is ever spoken.
    """

    neutral: float
    between: float
    within: float
    arousal: float
    valence: float
    dominance: float
    lowest: float
    highest: float


CUES = {
    "pitch": Cue(7.5, 5.0, 1.2, 1.2, 0.6, -0.8, -4, 24),  # semitones above 100 Hz
    "pitch_range": Cue(0.7, 0.20, 0.15, 0.16, 0.24, 0.00, -0.5, 1.8),  # log semitones
    "level": Cue(-33, 1.5, 1.5, 2.2, 0.0, 0.8, -48, -23),  # dB relative to full scale
    "tilt": Cue(-4, 1.6, 0.4, 0.7, 0.5, 0.5, -10, 2),  # dB an octave
    "rate": Cue(0.0, 0.12, 0.07, 0.08, 0.03, -0.04, -0.5, 0.5),  # log factor
    "formants": Cue(0.07, 0.10, 0.010, 0.0, 0.040, -0.015, -0.25, 0.40),  # log factor
    "breathiness": Cue(-18, 4.5, 1.5, -0.5, 1.5, -2.5, -40, -6),  # dB relative to voice
}
_TABLE = np.array(list(CUES.values()))
NEUTRAL, BETWEEN, WITHIN = _TABLE[:, :3].T
SHARED_EXPRESSION = _TABLE[:, 3:6]
LOWEST, HIGHEST = _TABLE[:, 6:].T

# Four kinds of voice, in deviations between speakers: pitch, pitch range, level, tilt, rate, formants, breathiness.
GROUPS = {
    "low tense": (-1, 0, 0, 1, 1, -1, -1),
    "low lax": (-1, 0, 0, -1, -1, -1, 1),
    "high tense": (1, 0, 0, 1, -1, 1, -1),
    "high lax": (1, 0, 0, -1, 1, 1, 1),
}
_GROUP_VOICES = np.array(list(GROUPS.values()))
GROUP_SHARE = 0.8  # of a voice's deviation that its group accounts for
GROUP_EXPRESSION = 0.6  # deviation of a group's expression from the shared one, relative to it
OWN_EXPRESSION = 0.2  # deviation of a speaker's expression from the group's

LABEL_MEAN = 4.0
LABEL_MEAN_DEVIATION = 0.45
LABEL_STD = 0.85
LABEL_STD_LOG_DEVIATION = 0.25
LABEL_CORRELATION = np.array([[1, 0.1, 0.5], [0.1, 1, 0.2], [0.5, 0.2, 1]])


@dataclass(frozen=True)
class Speaker:
    """The truth about one speaker.

    Attributes:
        group: name in `GROUPS`.
        voice: (cues,), what each cue is at the middle of the label scale.
        expression: (cues, attributes), how far one label point moves each cue.
        words: (words,), how often the speaker says each word of the lexicon.
        label_mean: (attributes,), label points.
        label_std: (attributes,), label points, before labels are cut to the scale.
    """

    group: str
    voice: NDArray[np.float64]
    expression: NDArray[np.float64]
    words: NDArray[np.float64]
    label_mean: NDArray[np.float64]
    label_std: NDArray[np.float64]

    @property
    def gender(self) -> str:
        """Female for the high groups, Male for the low ones."""
        return "Female" if self.group.startswith("high") else "Male"

    def feel(self, rng: Generator) -> NDArray[np.float64]:
        """Draw the labels of an utterance, (attributes,), 1 to 7 with two decimals."""
        deviation = np.linalg.cholesky(LABEL_CORRELATION) @ rng.standard_normal(len(ATTRIBUTES))
        labels: NDArray[np.float64] = (self.label_mean + self.label_std * deviation).clip(1, 7).round(2)
        return labels

    def deliver(self, labels: NDArray[np.float64], rng: Generator) -> Delivery:
        """Turn an utterance's labels, (attributes,), into the way it is spoken."""
        unexplained = WITHIN * rng.standard_normal(len(CUES))
        spoken = (self.voice + self.expression @ (labels - LABEL_MEAN) + unexplained).clip(LOWEST, HIGHEST)
        cue = dict(zip(CUES, spoken.tolist(), strict=True))
        return Delivery(
            pitch=100 * 2 ** (cue["pitch"] / 12),
            pitch_range=float(np.exp(cue["pitch_range"])),
            level=cue["level"],
            tilt=cue["tilt"],
            rate=float(np.exp(cue["rate"])),
            formants=float(np.exp(cue["formants"])),
            breathiness=cue["breathiness"],
            background=rng.uniform(-75, -65),
            words=self.words,
        )


@dataclass(frozen=True)
class Population:
    """What all speakers of one corpus have in common.

    Attributes:
        voice_label_link: 0 to 1, the part of a label distribution's deviation that the voice determines.
        group_expression: (groups, cues, attributes), how far one label point moves each cue.
        own_expression: deviation of a speaker's expression from the group's, relative to the shared one.
        mean_directions: (attributes, cues), maps a voice's deviation to that of the label means.
        std_directions: (attributes, cues), maps a voice's deviation to that of the label deviations.
    """

    voice_label_link: float
    group_expression: NDArray[np.float64]
    own_expression: float
    mean_directions: NDArray[np.float64]
    std_directions: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: Generator, voice_label_link: float, *, shared_expression: bool) -> Population:
        """Draw how groups express emotion and which voices have which labels.

        Args:
            rng: the source of chance.
            voice_label_link: 0 to 1; with 0 similar voices share nothing of their label distributions.
            shared_expression: whether every speaker expresses emotion alike.
        """
        deviation = rng.standard_normal((len(GROUPS), *SHARED_EXPRESSION.shape))
        deviation -= deviation.mean(0)
        differs = 0.0 if shared_expression else 1.0
        return cls(
            voice_label_link=voice_label_link,
            group_expression=SHARED_EXPRESSION * (1 + differs * GROUP_EXPRESSION * deviation),
            own_expression=differs * OWN_EXPRESSION,
            mean_directions=_unit_directions(rng),
            std_directions=_unit_directions(rng),
        )

    def speaker(self, number: int, rng: Generator) -> Speaker:
        """Draw a speaker.

        Args:
            number: groups take turns by it.
            rng: the source of chance.
        """
        group = number % len(GROUPS)
        own = rng.standard_normal(len(CUES))
        voice = GROUP_SHARE * _GROUP_VOICES[group] + np.sqrt(1 - GROUP_SHARE**2) * own
        mean = self._linked(self.mean_directions @ voice, rng)
        std = self._linked(self.std_directions @ voice, rng)
        own_expression = self.own_expression * SHARED_EXPRESSION * rng.standard_normal(SHARED_EXPRESSION.shape)
        return Speaker(
            group=list(GROUPS)[group],
            voice=NEUTRAL + BETWEEN * voice,
            expression=self.group_expression[group] + own_expression,
            words=idiolect(rng),
            label_mean=LABEL_MEAN + LABEL_MEAN_DEVIATION * mean,
            label_std=LABEL_STD * np.exp(LABEL_STD_LOG_DEVIATION * std),
        )

    def _linked(self, from_voice: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
        own: NDArray[np.float64] = rng.standard_normal(len(ATTRIBUTES))
        deviation: NDArray[np.float64] = (
            self.voice_label_link * from_voice + np.sqrt(1 - self.voice_label_link**2) * own
        )
        return deviation


def _unit_directions(rng: Generator) -> NDArray[np.float64]:
    """Draw directions in the space of voices along which speakers have unit variance, (attributes, cues)."""
    covariance = GROUP_SHARE**2 * np.cov(_GROUP_VOICES.T, ddof=0) + (1 - GROUP_SHARE**2) * np.eye(len(CUES))
    directions = rng.standard_normal((len(ATTRIBUTES), len(CUES)))
    unit: NDArray[np.float64] = (
        directions / np.sqrt(np.einsum("ac,cd,ad->a", directions, covariance, directions))[:, None]
    )
    return unit
