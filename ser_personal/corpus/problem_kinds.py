"""The sorts of problem that a corpus can have, and which of them training fails at."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ser_personal.audio import SAMPLE_RATE, WINDOW

if TYPE_CHECKING:
    from collections.abc import Sequence

# what the datamodules crop to, and what a batch of `ser kmeans` holds, unless told otherwise
CROPPED_ABOVE = 250_000
KMEANS_SECONDS = 120


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
VALIDATION_SPEAKER = Kind("speaker in validation and in a test set: the checkpoint is chosen on it", fatal=False)
MISSING = Kind("audio file missing", fatal=True)
UNREADABLE = Kind("audio file unreadable", fatal=True)
TRUNCATED = Kind("audio file truncated", fatal=True)
EMPTY = Kind("audio file empty", fatal=True)
NO_SOUND = Kind("audio of NaN, infinity or numbers beyond any sound", fatal=True)
TOO_SHORT = Kind(f"audio shorter than {WINDOW} samples", fatal=True)
CROPPED = Kind(
    f"audio longer than {CROPPED_ABOVE / SAMPLE_RATE:g} s: training takes a part of it at a time", fatal=False
)
TOO_LONG = Kind(
    f"audio longer than {KMEANS_SECONDS} s: `ser kmeans` needs --data.batch_seconds of its length", fatal=False
)
SILENT = Kind("audio silent from beginning to end", fatal=False)
OTHER_FORMAT = Kind("audio not 16 kHz mono, converted on the fly", fatal=False)
SAME_AUDIO = Kind("the same file under several ids", fatal=False)
LEAKED_AUDIO = Kind("the same file in train and in another set: scores on it mean nothing", fatal=False)


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


def by_kind(problems: Sequence[Problem]) -> dict[Kind, list[Problem]]:
    """Gather problems by kind, fatal kinds first."""
    groups = defaultdict(list)
    for problem in sorted(problems, key=lambda problem: not problem.kind.fatal):
        groups[problem.kind].append(problem)
    return dict(groups)
