"""What can be wrong with a corpus, found without training on it."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from ser_personal.corpus.base import duplicates, labels_outside
from ser_personal.corpus.problem_kinds import (
    ALLOWED_SPEAKER,
    DUPLICATE_ID,
    EMPTY_SET,
    LABEL_MISSING,
    LABEL_OUTSIDE,
    LEAKED_AUDIO,
    NO_LABEL,
    NO_SPEAKER,
    SAME_AUDIO,
    SHARED_SPEAKER,
    VALIDATION_SPEAKER,
    Problem,
)
from ser_personal.corpus.splits import by_split, first_few, known_speakers, shared_speakers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ser_personal.corpus.audio_facts import AudioFacts
    from ser_personal.types import Utterance


def find_problems(
    utterances: Sequence[Utterance],
    facts: Sequence[AudioFacts],
    same_files: Sequence[Sequence[Utterance]],
    scale: tuple[float, float],
    allow_overlap: Sequence[str] = (),
) -> list[Problem]:
    """Find everything wrong with a corpus's labels, splits and audio.

    Args:
        utterances: measured, ordered by id, not yet validated.
        facts: of their files, in the same order.
        same_files: utterances whose files hold the same bytes, group by group.
        scale: lowest and highest value of a label.
        allow_overlap: sets that may share speakers with train.

    Returns:
        Problems of sets, ids, labels, then audio, each in the order of the utterances.
    """
    return [
        *_set_problems(utterances, allow_overlap),
        *(Problem(DUPLICATE_ID, utterance_id) for utterance_id in duplicates(utterances)),
        *_label_problems(utterances, scale),
        *(problem for fact in facts for problem in fact.problems),
        *_same_file_problems(same_files),
    ]


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
    validation = known_speakers(sets.get("validation", ()))
    for name in set(sets) - {"train", "validation"}:
        for speaker in sorted(validation & known_speakers(sets[name])):
            yield Problem(VALIDATION_SPEAKER, speaker, name)


def _label_problems(utterances: Sequence[Utterance], scale: tuple[float, float]) -> Iterator[Problem]:
    used = {name for utterance in utterances for name, label in utterance.labels.items() if not isnan(label)}
    for utterance in utterances:
        for name, label in labels_outside(utterance, scale).items():
            yield Problem(LABEL_OUTSIDE, utterance.utterance_id, f"{name} {label:g}")
    for utterance in utterances:
        missing = [name for name, label in utterance.labels.items() if name in used and isnan(label)]
        if missing:
            yield Problem(LABEL_MISSING, utterance.utterance_id, ", ".join(missing))


def _same_file_problems(groups: Sequence[Sequence[Utterance]]) -> Iterator[Problem]:
    for first, *others in groups:
        splits = {utterance.split for utterance in (first, *others)}
        kind = LEAKED_AUDIO if "train" in splits and len(splits) > 1 else SAME_AUDIO
        names = [f"{utterance.utterance_id} in {utterance.split}" for utterance in (first, *others)]
        yield Problem(kind, str(first.path), first_few(names))
