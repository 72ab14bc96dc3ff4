"""The language that synthetic speakers speak: a small inventory of segments, and a lexicon of words made of them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

SILENCE = 0.0  # linear amplitude, for a source that is off


class Segment(NamedTuple):
    """The articulatory target of one stretch of speech.

    Attributes:
        f1: first formant of the neutral vocal tract, Hz.
        f2: second formant, Hz.
        f3: third formant, Hz.
        voicing: amplitude of the glottal source, 1 in a vowel.
        friction: amplitude of the friction noise, beside the vowel's 1.
        friction_hz: centre of the friction noise's band, Hz.
        seconds: mean duration.
    """

    f1: float
    f2: float
    f3: float
    voicing: float
    friction: float = SILENCE
    friction_hz: float = 4000
    seconds: float = 0.07


class Word(NamedTuple):
    """A word as it is pronounced.

    Attributes:
        segments: names in `SEGMENTS`, in order.
        syllables: for each segment, the number of the syllable it stands in, from 0.
    """

    segments: tuple[str, ...]
    syllables: tuple[int, ...]


VOWELS = {
    "i": Segment(280, 2250, 2900, 1.0, seconds=0.09),
    "e": Segment(400, 2050, 2600, 1.0, seconds=0.10),
    "E": Segment(560, 1780, 2500, 1.0, seconds=0.10),
    "a": Segment(760, 1300, 2500, 1.0, seconds=0.12),
    "o": Segment(450, 850, 2450, 1.0, seconds=0.11),
    "u": Segment(310, 800, 2250, 1.0, seconds=0.09),
    "y": Segment(280, 1750, 2150, 1.0, seconds=0.09),
    "@": Segment(500, 1450, 2500, 0.8, seconds=0.06),
}
CONSONANTS = {
    "m": Segment(260, 1050, 2200, 0.35),
    "n": Segment(270, 1500, 2450, 0.35),
    "l": Segment(360, 1150, 2700, 0.55),
    "r": Segment(420, 1250, 1650, 0.50),
    "j": Segment(270, 2200, 2950, 0.55, seconds=0.05),
    "w": Segment(300, 700, 2200, 0.55, seconds=0.05),
    "v": Segment(300, 1300, 2400, 0.30, 0.05, 5500),
    "z": Segment(300, 1600, 2500, 0.25, 0.12, 6000),
    "s": Segment(300, 1600, 2500, SILENCE, 0.25, 6000, 0.10),
    "S": Segment(300, 1800, 2500, SILENCE, 0.30, 3300, 0.10),
    "f": Segment(300, 1200, 2400, SILENCE, 0.08, 5500, 0.09),
    "x": Segment(400, 1400, 2400, SILENCE, 0.18, 1500, 0.08),
}
# A stop is a closure and a burst; the voiced ones keep a voice bar while they are closed.
STOPS = {
    "p": Segment(300, 900, 2300, SILENCE, 0.15, 1000, 0.025),
    "t": Segment(300, 1700, 2600, SILENCE, 0.25, 4500, 0.025),
    "k": Segment(300, 1900, 2300, SILENCE, 0.22, 2200, 0.03),
    "b": Segment(300, 900, 2300, 0.30, 0.08, 1000, 0.02),
    "d": Segment(300, 1700, 2600, 0.30, 0.12, 4500, 0.02),
    "g": Segment(300, 1900, 2300, 0.30, 0.12, 2200, 0.02),
}
PAUSE = "pause"
CLOSURES = {"closed": Segment(300, 1500, 2500, SILENCE, seconds=0.05), "voice bar": Segment(220, 1200, 2400, 0.12)}
SEGMENTS = {**VOWELS, **CONSONANTS, **STOPS, **CLOSURES, PAUSE: Segment(450, 1500, 2500, SILENCE, seconds=0.2)}

WORDS = 150
OWN_ORDER = 2.5  # deviation of a word's log rank between speakers
_ZIPF = (np.arange(WORDS) + 1.0) ** -1.2 / np.sum((np.arange(WORDS) + 1.0) ** -1.2)


def _pronounce(onset: str) -> tuple[str, ...]:
    if onset not in STOPS:
        return (onset,)
    return ("voice bar" if STOPS[onset].voicing else "closed", onset)


@cache
def lexicon() -> tuple[Word, ...]:
    """Make the words of the language, commonest first: one to three syllables of consonant, vowel and perhaps a coda.

    They are the same in every corpus, whatever its seed.
    """
    rng = np.random.default_rng(0)
    onsets, nuclei, codas = [*CONSONANTS, *STOPS], list(VOWELS), ["n", "s", "l", "r", "t", "k"]
    words = []
    for _ in range(WORDS):
        segments: list[str] = []
        syllables: list[int] = []
        for syllable in range(rng.integers(1, 4)):
            sounds = [*_pronounce(str(rng.choice(onsets))), str(rng.choice(nuclei))]
            if rng.random() < 0.3:
                sounds += _pronounce(str(rng.choice(codas)))
            segments += sounds
            syllables += [syllable] * len(sounds)
        words.append(Word(tuple(segments), tuple(syllables)))
    return tuple(words)


def idiolect(rng: Generator) -> NDArray[np.float64]:
    """Draw how often a speaker says each word of the lexicon, `(words,)`.

    Zipf's law over an order of the words that mixes the language's with the speaker's own.
    """
    order = np.argsort(np.log(np.arange(1, WORDS + 1)) + OWN_ORDER * rng.standard_normal(WORDS))
    share = np.empty(WORDS)
    share[order] = _ZIPF
    return share
