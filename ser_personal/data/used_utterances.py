"""Which utterances of a corpus's splits are used, and what is left out of them."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from ser_personal.audio import WINDOW
from ser_personal.corpus.splits import canonical_split, canonical_splits, require_split
from ser_personal.data.bad_audio import BadAudio, SkippedAudio
from ser_personal.data.dataset import samples_of
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ser_personal.corpus.base import Corpus
    from ser_personal.types import Utterance


class UsedUtterances:
    """Chooses the utterances of a split when it is first asked for, and says once how many were left out.

    Args:
        corpus: whose utterances.
        known_speakers_only: leave out utterances whose speaker is unknown.
        skipped_audio: lists unusable audio, which is then left out; None refuses it.
        refuse_unusable: raises an error where something of a split, named beside it, can't be read.
        wrong_with: says what is wrong with an utterance that is to be skipped; None where nothing is.
        reason_to_drop: says why an utterance with readable audio isn't used; None where it is.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        known_speakers_only: bool,
        skipped_audio: SkippedAudio | None,
        refuse_unusable: Callable[[Sequence[Utterance], str], None],
        wrong_with: Callable[[Utterance], str | None],
        reason_to_drop: Callable[[Utterance], str | None],
    ) -> None:
        self._corpus = corpus
        self._known_speakers_only, self._skipped_audio = known_speakers_only, skipped_audio
        self._refuse_unusable, self._wrong_with = refuse_unusable, wrong_with
        self._reason_to_drop = reason_to_drop
        self._indices_of: dict[str, list[int]] = {}
        # split -> utterances that were left out for what their headers show
        self._left_out: Counter[str] = Counter()

    def of_split(self, split: str) -> list[int]:
        """Find the utterances of a split that are used, as positions in the corpus.

        Raises:
            UserError: there is no such split, or audio of it is missing, unreadable or shorter than one frame.
        """
        name = canonical_split(split)
        if name not in self._indices_of:
            self._indices_of[name] = self._select(name)
        return self._indices_of[name]

    def of_splits(self, splits: Sequence[str]) -> list[int]:
        """Find the utterances of several splits that are used, each once however often its split is named.

        Raises:
            UserError: there are none.
        """
        indices = [index for split in canonical_splits(splits) for index in self.of_split(split)]
        if not indices:
            raise UserError(
                "no utterance is left to use",
                where=f"split {', '.join(splits)}" if splits else "splits",
                remedy="See what `ser check CORPUS` lists; data.known_speakers_only=false keeps unknown speakers",
            )
        return indices

    def left_out(self, split: str, predicted: int) -> int:
        """Count the utterances of a set that should have been predicted and weren't, their audio being bad."""
        return self._left_out[split] + len(self.of_split(split)) - predicted

    def lacking(self, size_of: Counter[str]) -> float:
        """Count what parts of splits lack for bad headers: of what a split lacks, each takes its share.

        Args:
            size_of: split -> utterances of it that are taken, such as those held out.
        """
        return sum(self._left_out[split] * size / len(self.of_split(split)) for split, size in size_of.items())

    def _select(self, split: str) -> list[int]:
        sets = self._corpus.splits.sets
        require_split(split, sets)
        known = [u for u in sets[split] if u.speaker_id is not None or not self._known_speakers_only]
        if self._skipped_audio is None:
            self._refuse_unusable(known, split)
            usable = known
        else:
            usable = self._with_usable_audio(known, split, self._skipped_audio)
        reasons = {utterance.utterance_id: self._reason_to_drop(utterance) for utterance in usable}
        dropped = Counter(reason for reason in reasons.values() if reason is not None)
        if unknown := len(sets[split]) - len(known):
            dropped["unknown speaker"] = unknown
        if bad := len(known) - len(usable):
            dropped["with bad audio"] = bad
        kept = [self._position[id_] for id_, reason in reasons.items() if reason is None]
        if dropped:
            listed = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
            rank_zero_info(f"{split}: {len(kept)} utterances used; left out: {listed}")
        return kept

    def _with_usable_audio(
        self, utterances: Sequence[Utterance], split: str, skipped_audio: SkippedAudio
    ) -> list[Utterance]:
        """Leave out what is known to be unusable before it is read."""
        wrong = {u.utterance_id: what for u in utterances if (what := self._wrong_with(u)) is not None}
        unusable = [u for u in utterances if u.utterance_id in wrong]
        skipped_audio.add([BadAudio.of(self._position[u.utterance_id], u, wrong[u.utterance_id]) for u in unusable])
        if unusable:
            skipped_audio.refuse_too_many(len(unusable), len(utterances), f"split {split}")
        self._left_out[split] = len(unusable)
        return [u for u in utterances if u.utterance_id not in wrong]

    @cached_property
    def _position(self) -> dict[str, int]:
        return {utterance.utterance_id: i for i, utterance in enumerate(self._corpus.utterances)}


def refuse_unusable_audio(utterances: Sequence[Utterance], split: str) -> None:
    """Refuse a split of which something can't be read.

    Raises:
        UserError: audio is missing, unreadable or shorter than one frame.
    """
    unusable = [utterance for utterance in utterances if wrong_with_audio(utterance) is not None]
    if unusable:
        first = unusable[0]
        raise UserError(
            f"audio is {wrong_with_audio(first)}, the first of {len(unusable)} such utterances in split {split}",
            where=first.path,
            remedy="`ser check CORPUS` lists them all; restore or remove them, or set data.on_bad_audio=skip",
        )


def wrong_with_audio(utterance: Utterance) -> str | None:
    """Say what an audio file's header shows to be wrong; None where nothing is."""
    if samples_of(utterance) >= WINDOW:
        return None
    return "missing or unreadable" if isnan(utterance.seconds) else f"shorter than {WINDOW} samples"
