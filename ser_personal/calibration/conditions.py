"""What training knew of a test speaker."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from ser_personal.types import Utterance

Condition = Literal["labelled", "adaptation", "transductive", "unseen"]


def condition(
    utterance: Utterance, training_speakers: Set[str], embedded_speakers: Set[str], pretraining_splits: Sequence[str]
) -> Condition:
    """Name a test speaker's condition.

    Args:
        utterance: of the speaker.
        training_speakers: whose labels were trained on.
        embedded_speakers: who stand in the embedding table.
        pretraining_splits: sets whose audio was pre-trained on.

    Returns:
        `transductive` where this set's audio was pre-trained on, `labelled` where the speaker's labels were trained
        on, `adaptation` where other audio of theirs was in PAPT, else `unseen`.
    """
    if utterance.split in pretraining_splits:
        return "transductive"
    if utterance.speaker_id in training_speakers:
        return "labelled"
    return "adaptation" if utterance.speaker_id in embedded_speakers else "unseen"


def count_conditions(utterances: Sequence[Utterance], conditions: Sequence[Condition]) -> dict[Condition, int]:
    """Count the speakers in each condition, given that of each utterance; unknown speakers aren't counted."""
    of_speaker = {
        utterance.speaker_id: its_condition
        for utterance, its_condition in zip(utterances, conditions, strict=True)
        if utterance.speaker_id is not None
    }
    return dict(Counter(of_speaker.values()))
