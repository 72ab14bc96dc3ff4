"""A dataset that drops bad audio from its batches, and never gives an empty one."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from torch.utils.data import Dataset

from ser_personal.data.bad_audio import BadAudio, too_many
from ser_personal.data.dataset import Fault, UtteranceExample
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ser_personal.data.batching import ExampleKey
    from ser_personal.data.dataset import UtteranceDataset

Example = TypeVar("Example", bound=UtteranceExample)

# a smaller batch has neither a CCC nor batch statistics
LEAST_LEFT = 2


class Remainder(NamedTuple, Generic[Example]):
    """What is left of a planned batch.

    Attributes:
        examples: those with good audio, and what stands in for the others where too few are left.
        bad: what was left out.
    """

    examples: list[Example]
    bad: list[BadAudio]


class LenientDataset(Dataset[Example], Generic[Example]):
    """Batches without the utterances whose audio can't be decoded.

    A batch goes on with what is left of it. Where that is less than two utterances (none, of a batch of one), the
    utterances of the set that are nearest in length stand in, so that a batch is never empty, each process keeps its
    number of batches, and no process waits for another. What stands in is known by its index: scores count it once.

    Args:
        dataset: where examples come from.
        indices: the utterances of the set.
        num_samples: of each of them, in the same order.
        max_share: of bad audio; a batch doesn't look further for what could stand in.
        fills_up: false where processes needn't have equally many batches and nothing may count twice: nothing stands
            in, and of a batch of bad audio nothing is left.
    """

    def __init__(
        self,
        dataset: UtteranceDataset[Example],
        indices: Sequence[int],
        num_samples: Sequence[int],
        max_share: float,
        *,
        fills_up: bool = True,
    ) -> None:
        self.dataset, self.max_share, self.fills_up = dataset, max_share, fills_up
        ordered = sorted(zip(num_samples, indices, strict=True))
        self._lengths = [length for length, _ in ordered]
        self._indices = [index for _, index in ordered]
        self._length_of = dict(zip(indices, num_samples, strict=True))

    def __getitems__(self, keys: Sequence[ExampleKey]) -> Remainder[Example] | Fault:
        """Fetch what can be fetched of a batch."""
        remainder: Remainder[Example] = Remainder([], [])
        for key in keys:
            self._fetch(key, remainder, stands_in=False)
        if not self.fills_up:
            return remainder
        least = min(LEAST_LEFT, len(keys))
        planned = {key.index for key in keys}
        for index in self._nearest(keys[0].index) if len(remainder.examples) < least else ():
            if len(remainder.bad) > self.max_share * len(self._indices) or len(remainder.examples) >= least:
                break
            if index not in planned:
                self._fetch(replace(keys[0], index=index), remainder, stands_in=True)
        if not remainder.examples:
            share = len(remainder.bad) / len(self._indices)
            error = too_many(share, self.max_share, remainder.bad[0].path)
            return Fault(error.what, error.where, error.remedy)
        return remainder

    def _fetch(self, key: ExampleKey, remainder: Remainder[Example], *, stands_in: bool) -> None:
        try:
            remainder.examples.append(self.dataset.stand_in(key) if stands_in else self.dataset[key])
        except UserError as error:
            utterance = self.dataset.utterances[key.index]
            remainder.bad.append(BadAudio.of(key.index, utterance, error.what))

    def _nearest(self, index: int) -> Iterator[int]:
        """Go through the set, from the utterances of about this one's length to those of other lengths."""
        length = self._length_of[index]
        above = bisect_left(self._lengths, length)
        below = above - 1
        while below >= 0 or above < len(self._indices):
            down = length - self._lengths[below] if below >= 0 else float("inf")
            up = self._lengths[above] - length if above < len(self._indices) else float("inf")
            if up <= down:
                yield self._indices[above]
                above += 1
            else:
                yield self._indices[below]
                below -= 1
