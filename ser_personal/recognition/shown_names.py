"""What recordings and their speakers are called in a table: by their own names, or by pseudonyms."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ser_personal.pseudonyms import pseudonym

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.recognition.recordings import Recording


class ShownNames(NamedTuple):
    """Names of one recording.

    Attributes:
        source: of the recording.
        speaker: None where unknown.
    """

    source: str
    speaker: str | None


def shown_names(recording: Recording, key: bytes | None) -> ShownNames:
    """Name a recording and its speaker: as they are called, or where there is a key by pseudonyms.

    All of a path is hashed: a speaker's name may stand in any folder of it, and in the file's own name.
    """
    if key is None:
        return ShownNames(recording.source, recording.speaker_id)
    speaker = None if recording.speaker_id is None else pseudonym(key, recording.speaker_id)
    return ShownNames(pseudonym(key, recording.source, "recording"), speaker)


def in_order_of_names(recordings: Sequence[Recording], key: bytes) -> list[Recording]:
    """Sort recordings by pseudonym, for the order of paths gives speakers away; a speaker's own stay in theirs."""

    def place(recording: Recording) -> str:
        shown = shown_names(recording, key)
        return shown.speaker or shown.source

    return sorted(recordings, key=place)
