"""A synthetic corpus in MSP-Podcast's layout: `ser synth`.

The generative model, top down; each assumption has a name, and none of them is a finding about people.

1. *Groups.* A speaker's voice is of one of four kinds (low or high, tense or lax) and deviates from it. Groups take
   turns, so every split holds all of them.
2. *Voice.* Seven cues say how a speaker sounds without emotion: pitch, pitch range, level, tilt, rate, formants (vocal
   tract length) and breathiness. Kind and own deviation add up.
3. *Label distribution.* Arousal, valence and dominance of a speaker's utterances are normal, correlated across
   attributes, and cut to 1..7. Their means and log deviations differ by speaker. The voice determines a part of both
   linearly, with correlation `voice_label_link`, and the rest is the speaker's own. This is what PLDC relies on.
4. *Expression.* A label point moves each cue by a fixed amount, linearly from the middle of the scale. The amount is
   shared by all speakers, times a factor of the group's, times a small deviation of the speaker's own. This is what a
   speaker embedding can learn; `shared_expression` turns it off.
5. *Absolute labels.* The voice answers the label itself, not its difference from the speaker's mean.
6. *Unexplained variation.* Cues also vary from utterance to utterance for no reason that is annotated, and so does the
   recording's background noise. This bounds what any model can reach. Annotators make no errors.
7. *Content.* Utterances are random words of one invented language, by Zipf's law, independent of the labels.
8. *Idiolect.* Which words are frequent differs by speaker. Two seconds of context don't tell it, so it is what a
   speaker embedding adds to masked prediction.
9. *Sound.* Glottal pulses and noise pass formants, tilt and friction bands (`synthetic_speech`). Levels leave headroom,
   for level carries arousal, and clipping would hide it.

Each speaker and each utterance has a random stream of its own, numbered from the seed: corpora of one seed but other
sizes share their utterances, though a speaker may stand in another split. The numbers of the model stand in
`synthetic_speakers`; `Truth/speakers.csv` keeps what was drawn, and nothing that trains reads it.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from rich.progress import track

from ser_personal.audio import SAMPLE_RATE
from ser_personal.corpus.synthetic_speakers import CUES, Population, Speaker
from ser_personal.corpus.synthetic_speech import speak
from ser_personal.errors import UserError
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

FEWEST_SPEAKERS = 4
FEWEST_UTTERANCES = 2
SHORTEST = 0.5  # seconds
LABEL_COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
EMOTIONS = {"A": (5, 2.5), "H": (5, 5.5), "S": (2.5, 2.5), "N": (3.5, 4)}  # arousal and valence, label points


def synth(
    out: str,
    speakers: int = 80,
    utterances: int = 24,
    seed: int = 0,
    *,
    voice_label_link: float = 0.7,
    shared_expression: bool = False,
    min_seconds: float = 2.0,
    max_seconds: float = 4.0,
) -> None:
    """Write a synthetic corpus in MSP-Podcast's layout.

    Args:
        out: folder to write; missing or empty.
        speakers: how many, a quarter of them for test, a tenth for validation and the rest for training.
        utterances: how many of each speaker.
        seed: the same seed gives the same bytes.
        voice_label_link: 0 to 1, how far similar voices have similar label distributions; 0 is PLDC's null.
        shared_expression: whether everyone expresses emotion alike; the null of what speaker embeddings give emotion.
        min_seconds: the shortest utterance.
        max_seconds: the longest utterance.

    Raises:
        UserError: the folder isn't empty, or an argument is out of its range.
    """
    folder = Path(out)
    _check_empty(folder)
    _check_at_least("--speakers", speakers, FEWEST_SPEAKERS, "every group needs one")
    _check_at_least("--utterances", utterances, FEWEST_UTTERANCES, "labels of a speaker need a deviation")
    _check_at_least("--seed", seed, 0, "seeds count up from there")
    _check_at_least("--min-seconds", min_seconds, SHORTEST, "a word takes as long")
    _check_at_least("--max-seconds", max_seconds, min_seconds, "that is --min-seconds")
    if not 0 <= voice_label_link <= 1:
        raise UserError(
            f"{voice_label_link} is no share", where="--voice-label-link", remedy="Give a number from 0 to 1"
        )
    audio, labels, truth = (folder / name for name in ("Audios", "Labels", "Truth"))
    for part in (audio, labels, truth):
        part.mkdir(parents=True)

    population = Population.draw(_rng(seed), voice_label_link, shared_expression=shared_expression)
    people = {number: population.speaker(number, _rng(seed, number)) for number in range(1, speakers + 1)}
    _write(truth / "speakers.csv", [_truth(number, speaker) for number, speaker in people.items()])

    rows = []
    pairs = [(number, utterance) for number in people for utterance in range(1, utterances + 1)]
    for number, utterance in track(pairs, description="Synthesising"):
        rng, speaker = _rng(seed, number, utterance), people[number]
        felt = speaker.feel(rng)
        num_samples = round(rng.uniform(min_seconds, max_seconds) * SAMPLE_RATE)
        waveform = speak(speaker.deliver(felt, rng), num_samples, rng)
        name = f"MSP-PODCAST_{number:04}_{utterance:04}.wav"
        soundfile.write(audio / name, _pcm16(waveform), SAMPLE_RATE, subtype="PCM_16")
        values = (name, _emotion(felt), *felt.tolist(), number, speaker.gender, _split(number, speakers))
        rows.append(dict(zip(LABEL_COLUMNS, values, strict=True)))
    _write(labels / "labels_consensus.csv", rows)


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("is not an empty folder", where=folder, remedy="Give --out a folder that doesn't exist yet")


def _check_at_least(argument: str, value: float, least: float, reason: str) -> None:
    # NaN compares as neither
    if not value >= least:
        raise UserError(f"{value} is below {least}, and {reason}", where=argument, remedy=f"Give {least} or more")


def _rng(seed: int, *of: int) -> Generator:
    # A stream for each speaker and each utterance: what one of them is doesn't depend on how many others there are.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=of))


def _split(number: int, speakers: int) -> str:
    test = max(1, round(0.25 * speakers))
    validation = max(1, round(0.1 * speakers))
    train = speakers - test - validation
    if number <= train:
        return "Train"
    return "Development" if number <= train + validation else "Test1"


def _emotion(labels: NDArray[np.float64]) -> str:
    """Name the emotion whose typical arousal and valence lie nearest."""
    distance = {name: float(np.hypot(*(labels[:2] - typical))) for name, typical in EMOTIONS.items()}
    return min(distance, key=lambda name: distance[name])


def _pcm16(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    # Levels leave headroom; the clip guards against wrapping round, should a peak ever pass full scale.
    return np.round(waveform.clip(-1, 1) * 32767).astype(np.int16)


def _truth(number: int, speaker: Speaker) -> dict[str, object]:
    row: dict[str, object] = {"SpkrID": number, "Gender": speaker.gender, "group": speaker.group}
    row |= {cue: round(value, 4) for cue, value in zip(CUES, speaker.voice.tolist(), strict=True)}
    for column, attribute in enumerate(ATTRIBUTES):
        row[f"{attribute}_mean"] = round(float(speaker.label_mean[column]), 4)
        row[f"{attribute}_std"] = round(float(speaker.label_std[column]), 4)
        for cue, effects in zip(CUES, speaker.expression, strict=True):
            row[f"{cue}_by_{attribute}"] = round(float(effects[column]), 4)
    return row


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
