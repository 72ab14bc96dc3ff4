"""What is in each set of a corpus, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.corpus.splits import by_split, known_speakers
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.corpus.audio_facts import AudioFacts
    from ser_personal.types import Utterance

QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


@dataclass(frozen=True)
class LabelSummary:
    """The labels of one attribute.

    Attributes:
        utterances: how many have one.
        mean: of them, label points.
        lowest: of them.
        highest: of them.
    """

    utterances: int
    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class SetContents:
    """One set of a corpus.

    Attributes:
        utterances: how many.
        hours: of audio whose header can be read.
        speakers: known ones.
        of_unknown_speakers: utterances.
        sample_rates: Hz -> files of it.
        seconds: name of a quantile -> seconds of an utterance; empty where no header can be read.
        labels: attribute -> its labels; an attribute without any is left out.
    """

    utterances: int
    hours: float
    speakers: int
    of_unknown_speakers: int
    sample_rates: dict[int, int]
    seconds: dict[str, float]
    labels: dict[str, LabelSummary]


def contents_of(utterances: Sequence[Utterance], facts: Sequence[AudioFacts]) -> dict[str, SetContents]:
    """Sum up the sets of a corpus, by name: train, validation, then the others.

    Args:
        utterances: of any sets, with durations.
        facts: of their files, in the same order.
    """
    rates = {utterance.path: fact.sample_rate for utterance, fact in zip(utterances, facts, strict=True)}
    return {
        name: _contents_of_set(members, Counter(rates[utterance.path] for utterance in members))
        for name, members in by_split(utterances).items()
    }


def _contents_of_set(utterances: Sequence[Utterance], rates: Counter[int]) -> SetContents:
    seconds = _present([utterance.seconds for utterance in utterances])
    quantiles = np.quantile(seconds, list(QUANTILES.values())).tolist() if seconds.size else []
    labels = {
        attribute: _present([utterance.labels.get(attribute, np.nan) for utterance in utterances])
        for attribute in ATTRIBUTES
    }
    return SetContents(
        utterances=len(utterances),
        hours=float(seconds.sum()) / 3600,
        speakers=len(known_speakers(utterances)),
        of_unknown_speakers=sum(utterance.speaker_id is None for utterance in utterances),
        sample_rates={rate: rates[rate] for rate in sorted(rates) if rate},
        seconds=dict(zip(QUANTILES, quantiles, strict=False)),
        labels={
            name: LabelSummary(x.size, float(x.mean()), float(x.min()), float(x.max()))
            for name, x in labels.items()
            if x.size
        },
    )


def _present(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    return array[~np.isnan(array)]
