"""A synthetic corpus in MSP-Podcast's layout: `ser synth`.

The generative model, none of whose assumptions is a finding about people:

1. *Voice.* Seven cues say how a speaker sounds without emotion. A voice is of one of four kinds (low or high, tense or
   lax), which take turns, and differs from its kind.
2. *Labels.* Arousal, valence and dominance of a speaker's utterances are normal, correlated across attributes, and cut
   to 1..7. Their means and log standard deviations differ by speaker. The voice determines a part of both linearly,
   with a correlation of 0.7, and the rest is the speaker's own. PLDC relies on this.
3. *Expression.* A label point moves each cue by a fixed amount, linearly from the middle of the scale, so the voice
   answers the label itself, not its difference from the speaker's mean. The amount is shared by all speakers, times a
   factor of the kind's and a small one of the speaker's own. This is what a speaker embedding can learn.
4. *Unexplained variation.* Cues and background noise also vary for no reason that is annotated, which bounds what any
   model can reach. Annotators make no errors.
5. *Content.* Utterances are random words of one invented language, independent of the labels. Which words are frequent
   differs by speaker. Two seconds of context don't tell it, so a speaker embedding adds it to masked prediction.

Each speaker and each utterance has a random stream of its own, numbered from the seed: corpora of one seed but other
sizes share their utterances, though a speaker may be in another split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import soundfile
from jsonargparse.typing import NonNegativeInt
from numpy.random import Generator
from numpy.typing import NDArray
from rich.progress import track

from ser_personal.audio import SAMPLE_RATE
from ser_personal.corpus.synthetic_speech import Delivery, idiolect, speak
from ser_personal.corpus.table import write_rows
from ser_personal.errors import require_range
from ser_personal.files import check_empty
from ser_personal.types import ATTRIBUTES, AtLeastTwo

# cue -> its neutral value, standard deviation between speakers and, unexplained, within one; how far a label point of
# arousal, valence and dominance moves it; its lowest and highest value. All in the cue's own unit.
CUES = {
    "pitch": (7.5, 5.0, 1.2, 1.2, 0.6, -0.8, -4, 24),  # semitones above 100 Hz
    "pitch_range": (0.7, 0.20, 0.15, 0.16, 0.24, 0.00, -0.5, 1.8),  # log semitones
    "level": (-33, 1.5, 1.5, 2.2, 0.0, 0.8, -48, -23),  # dB relative to full scale
    "tilt": (-4, 1.6, 0.4, 0.7, 0.5, 0.5, -10, 2),  # dB an octave
    "rate": (0.0, 0.12, 0.07, 0.08, 0.03, -0.04, -0.5, 0.5),  # log factor
    "formants": (0.07, 0.10, 0.010, 0.0, 0.040, -0.015, -0.25, 0.40),  # log factor
    "breathiness": (-18, 4.5, 1.5, -0.5, 1.5, -2.5, -40, -6),  # dB relative to voice
}
_TABLE = np.array(list(CUES.values()))
NEUTRAL, BETWEEN, WITHIN = _TABLE[:, :3].T
SHARED_EXPRESSION = _TABLE[:, 3:6]
LOWEST, HIGHEST = _TABLE[:, 6:].T

# in standard deviations between speakers, in the order of the cues
GROUPS = {
    "low tense": (-1, 0, 0, 1, 1, -1, -1),
    "low lax": (-1, 0, 0, -1, -1, -1, 1),
    "high tense": (1, 0, 0, 1, -1, 1, -1),
    "high lax": (1, 0, 0, -1, 1, 1, 1),
}
_GROUP_VOICES = np.array(list(GROUPS.values()))
GROUP_SHARE = 0.8  # of a voice's difference from neutral that its group accounts for
GROUP_EXPRESSION = 0.6  # standard deviation of groups' expression, relative to the shared one
OWN_EXPRESSION = 0.2  # standard deviation of speakers' expression within a group, likewise

VOICE_LABEL_LINK = 0.7  # how far similar voices have similar label distributions, 0 to 1
LABEL_MEAN = 4.0
LABEL_MEAN_STD = 0.45
LABEL_STD = 0.85
LABEL_LOG_STD_STD = 0.25
LABEL_CORRELATION = np.array([[1, 0.1, 0.5], [0.1, 1, 0.2], [0.5, 0.2, 1]])


@dataclass(frozen=True)
class Speaker:
    """What was drawn for one speaker."""

    gender: str  # by the pitch of the speaker's group
    voice: NDArray[np.float64]  # (cues,), what each cue is at the middle of the label scale
    expression: NDArray[np.float64]  # (cues, attributes), how far one label point moves each cue
    words: NDArray[np.float64]  # (words,), how often the speaker says each word of the lexicon
    label_mean: NDArray[np.float64]  # (attributes,), label points
    label_std: NDArray[np.float64]  # likewise, before labels are cut to the scale

    def draw_labels(self, rng: Generator) -> NDArray[np.float64]:
        """Draw the labels of an utterance, (attributes,), 1 to 7 with two decimals."""
        deviation = np.linalg.cholesky(LABEL_CORRELATION) @ rng.standard_normal(len(ATTRIBUTES))
        return np.clip(self.label_mean + self.label_std * deviation, 1, 7).round(2)

    def deliver(self, labels: NDArray[np.float64], rng: Generator) -> Delivery:
        """Turn an utterance's labels, (attributes,), into the way it is spoken."""
        unexplained = WITHIN * rng.standard_normal(len(CUES))
        spoken = (self.voice + self.expression @ (labels - LABEL_MEAN) + unexplained).clip(LOWEST, HIGHEST)
        cue = dict(zip(CUES, spoken.tolist(), strict=True))
        cue["pitch"] = 100 * 2 ** (cue["pitch"] / 12)
        for name in ("pitch_range", "rate", "formants"):
            cue[name] = float(np.exp(cue[name]))
        return Delivery(**cue, background=rng.uniform(-75, -65), words=self.words)


def draw_speakers(seed: int, numbers: Iterable[int]) -> Iterator[Speaker]:
    """Draw the speakers of a corpus that have these numbers; groups take turns by number."""
    # what all speakers have in common: how groups express emotion, and which voices have which labels
    shared = _rng(seed)
    deviation = shared.standard_normal((len(GROUPS), *SHARED_EXPRESSION.shape))
    # how far one label point moves each cue, (groups, cues, attributes)
    group_expression = SHARED_EXPRESSION * (1 + GROUP_EXPRESSION * (deviation - deviation.mean(0)))
    # from a voice to label means and standard deviations, (2, attributes, cues): along each, voices have unit variance
    directions = shared.standard_normal((2, len(ATTRIBUTES), len(CUES)))
    covariance = GROUP_SHARE**2 * np.cov(_GROUP_VOICES.T, ddof=0) + (1 - GROUP_SHARE**2) * np.eye(len(CUES))
    directions /= np.sqrt(np.einsum("kac,cd,kad->ka", directions, covariance, directions))[..., None]
    for number in numbers:
        rng, group = _rng(seed, number), number % len(GROUPS)
        own = rng.standard_normal(len(CUES))
        voice = GROUP_SHARE * _GROUP_VOICES[group] + np.sqrt(1 - GROUP_SHARE**2) * own
        own_labels = np.sqrt(1 - VOICE_LABEL_LINK**2) * rng.standard_normal((2, len(ATTRIBUTES)))
        mean, std = VOICE_LABEL_LINK * (directions @ voice) + own_labels
        own_expression = OWN_EXPRESSION * SHARED_EXPRESSION * rng.standard_normal(SHARED_EXPRESSION.shape)
        yield Speaker(
            gender="Female" if list(GROUPS)[group].startswith("high") else "Male",
            voice=NEUTRAL + BETWEEN * voice,
            expression=group_expression[group] + own_expression,
            words=idiolect(rng),
            label_mean=LABEL_MEAN + LABEL_MEAN_STD * mean,
            label_std=LABEL_STD * np.exp(LABEL_LOG_STD_STD * std),
        )


LABEL_COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
EMOTIONS = {"A": (5, 2.5), "H": (5, 5.5), "S": (2.5, 2.5), "N": (3.5, 4)}  # arousal and valence, label points


def synth(
    out: str,
    speakers: AtLeastTwo = 80,
    utterances: AtLeastTwo = 24,
    seed: NonNegativeInt = 0,
    *,
    min_seconds: float = 2.0,
    max_seconds: float = 4.0,
) -> None:
    """Write a synthetic corpus in MSP-Podcast's layout.

    Args:
        out: folder to write; missing or empty.
        speakers: how many, 4 or more: a quarter of them for test, a tenth for validation and the rest for training.
        utterances: how many of each speaker.
        seed: the same seed gives the same bytes.
        min_seconds: the shortest utterance, half a second or more.
        max_seconds: the longest utterance.
    """
    folder = Path(out)
    check_empty(folder)
    # every group needs a speaker, and a word half a second
    require_range("--speakers", speakers, len(GROUPS))
    require_range("--min-seconds", min_seconds, 0.5)
    require_range("--max-seconds", max_seconds, min_seconds, 3600)
    (folder / "Audios").mkdir(parents=True)
    people = enumerate(draw_speakers(seed, range(1, speakers + 1)), 1)
    test, validation = max(1, round(0.25 * speakers)), max(1, round(0.1 * speakers))
    splits = ["Train"] * (speakers - test - validation) + ["Development"] * validation + ["Test1"] * test
    rows = []
    for (number, speaker), utterance in track([*product(people, range(1, utterances + 1))], "Synthesising"):
        rng = _rng(seed, number, utterance)
        drawn = speaker.draw_labels(rng)
        num_samples = round(rng.uniform(min_seconds, max_seconds) * SAMPLE_RATE)
        name = f"MSP-PODCAST_{number:04}_{utterance:04}.wav"
        _write(folder / "Audios" / name, speak(speaker.deliver(drawn, rng), num_samples, rng))
        rows.append((name, _emotion(drawn), *drawn.tolist(), number, speaker.gender, splits[number - 1]))
    write_rows(folder / "Labels" / "labels_consensus.csv", LABEL_COLUMNS, rows)


def converse(stem: Path, speakers: Mapping[str, int], seed: int = 0, turns: int = 24) -> None:
    """Write STEM.wav, in which people talk in turn, and who speaks when to STEM.rttm.

    `speakers` maps names to numbers in the corpus of this seed; a number beyond it is a new voice. Turns are of 2 to
    4 s, a third of a second apart; arousal and dominance rise to the middle and fall again.
    """
    people = dict(zip(speakers, draw_speakers(seed, speakers.values()), strict=True))
    pause = np.zeros(SAMPLE_RATE // 3, dtype=np.float32)
    parts, lines, start = [], [], 0
    for turn in range(turns):
        name = list(people)[turn % len(people)]
        rng = _rng(seed, speakers[name], turn)
        rise = 2.4 * np.sin(np.pi * turn / (turns - 1)) - 1.2
        labels = people[name].draw_labels(rng) + people[name].label_std * rise * np.array([1, 0, 0.5])
        samples = round(rng.uniform(2, 4) * SAMPLE_RATE)
        parts += [speak(people[name].deliver(labels.clip(1, 7), rng), samples, rng), pause]
        times = f"{start / SAMPLE_RATE:.3f} {samples / SAMPLE_RATE:.3f}"
        lines.append(f"SPEAKER {stem.name} 1 {times} <NA> <NA> {name} <NA> <NA>\n")
        start += samples + len(pause)
    _write(stem.with_suffix(".wav"), np.concatenate(parts))
    stem.with_suffix(".rttm").write_text("".join(lines), encoding="utf-8")


def _rng(seed: int, *of: int) -> Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=of))


def _emotion(labels: NDArray[np.float64]) -> str:
    return min(EMOTIONS, key=lambda name: np.hypot(*(labels[:2] - EMOTIONS[name])))


def _write(path: Path, waveform: NDArray[np.float32]) -> None:
    soundfile.write(path, np.round(waveform.clip(-1, 1) * 32767).astype(np.int16), SAMPLE_RATE, subtype="PCM_16")
