"""What can be wrong with a corpus, found without training on it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import isnan
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING

import soundfile

from ser_personal.audio import SAMPLE_RATE, WINDOW, is_truncated
from ser_personal.corpus.base import HEADER_THREADS, duplicates, labels_outside
from ser_personal.corpus.splits import by_split, known_speakers, shared_speakers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ser_personal.types import Utterance


@dataclass(frozen=True)
class Kind:
    """A sort of problem.

    Attributes:
        title: what it is called.
        fatal: whether training would fail for it.
    """

    title: str
    fatal: bool


EMPTY_SET = Kind("set without utterances", fatal=True)
DUPLICATE_ID = Kind("utterance id listed more than once", fatal=True)
LABEL_OUTSIDE = Kind("label outside the scale", fatal=True)
LABEL_MISSING = Kind("label missing", fatal=False)
NO_LABEL = Kind("set without any label: pre-training goes without, fine-tuning doesn't", fatal=False)
NO_SPEAKER = Kind(
    "set without a known speaker: PAPT learns no speaker from it, and training leaves it out unless "
    "data.known_speakers_only is false",
    fatal=False,
)
SHARED_SPEAKER = Kind("speaker in train and in another set", fatal=True)
ALLOWED_SPEAKER = Kind("speaker in train and in another set, as allowed", fatal=False)
MISSING = Kind("audio file missing", fatal=True)
UNREADABLE = Kind("audio file unreadable", fatal=True)
TRUNCATED = Kind("audio file truncated", fatal=True)
EMPTY = Kind("audio file empty", fatal=True)
TOO_SHORT = Kind(f"audio shorter than {WINDOW} samples", fatal=True)
OTHER_FORMAT = Kind("audio not 16 kHz mono, converted on the fly", fatal=False)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: what sort of problem.
        where: the utterance, file, speaker or set.
        detail: what was found there, empty where the kind says it all.
    """

    kind: Kind
    where: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.where} ({self.detail})" if self.detail else self.where


def find_problems(
    utterances: Sequence[Utterance], scale: tuple[float, float], allow_overlap: Sequence[str] = ()
) -> list[Problem]:
    """Find everything wrong with a corpus's labels, splits and audio headers.

    Args:
        utterances: measured, ordered by id, not yet validated.
        scale: lowest and highest value of a label.
        allow_overlap: sets that may share speakers with train.

    Returns:
        Problems of sets, ids, labels, then audio, each in the order of the utterances.
    """
    return [
        *_set_problems(utterances, allow_overlap),
        *(Problem(DUPLICATE_ID, utterance_id) for utterance_id in duplicates(utterances)),
        *_label_problems(utterances, scale),
        *_audio_problems(utterances),
    ]


def by_kind(problems: Sequence[Problem]) -> dict[Kind, list[Problem]]:
    """Gather problems by kind, fatal kinds first."""
    groups = defaultdict(list)
    for problem in sorted(problems, key=lambda problem: not problem.kind.fatal):
        groups[problem.kind].append(problem)
    return dict(groups)


def _set_problems(utterances: Sequence[Utterance], allow_overlap: Sequence[str]) -> Iterator[Problem]:
    sets = by_split(utterances)
    for name in ("train", "validation"):
        if name not in sets:
            yield Problem(EMPTY_SET, name)
            continue
        if not known_speakers(sets[name]):
            yield Problem(NO_SPEAKER, name)
        if all(isnan(label) for utterance in sets[name] for label in utterance.labels.values()):
            yield Problem(NO_LABEL, name)
    for name, speakers in shared_speakers(sets).items():
        kind = ALLOWED_SPEAKER if name in allow_overlap else SHARED_SPEAKER
        for speaker in speakers:
            yield Problem(kind, speaker, name)


def _label_problems(utterances: Sequence[Utterance], scale: tuple[float, float]) -> Iterator[Problem]:
    used = {name for utterance in utterances for name, label in utterance.labels.items() if not isnan(label)}
    for utterance in utterances:
        for name, label in labels_outside(utterance, scale).items():
            yield Problem(LABEL_OUTSIDE, utterance.utterance_id, f"{name} {label:g}")
    for utterance in utterances:
        missing = [name for name, label in utterance.labels.items() if name in used and isnan(label)]
        if missing:
            yield Problem(LABEL_MISSING, utterance.utterance_id, ", ".join(missing))


def _audio_problems(utterances: Sequence[Utterance]) -> list[Problem]:
    with ThreadPool(HEADER_THREADS) as threads:
        found = threads.map(_audio_problem, utterances)
    return [problem for problem in found if problem is not None]


def _audio_problem(utterance: Utterance) -> Problem | None:
    path = utterance.path
    if not path.is_file():
        return Problem(MISSING, str(path))
    if path.stat().st_size == 0:
        return Problem(EMPTY, str(path))
    try:
        if is_truncated(path):
            return Problem(TRUNCATED, str(path))
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        return Problem(UNREADABLE, str(path), str(error))
    return _format_problem(utterance, info.samplerate, info.channels)


def _format_problem(utterance: Utterance, rate: int, channels: int) -> Problem | None:
    samples = round(utterance.seconds * SAMPLE_RATE)
    if samples == 0:
        return Problem(EMPTY, str(utterance.path))
    if samples < WINDOW:
        return Problem(TOO_SHORT, str(utterance.path), f"{samples} samples")
    if (rate, channels) != (SAMPLE_RATE, 1):
        return Problem(OTHER_FORMAT, str(utterance.path), f"{rate} Hz, {channels} channels")
    return None
