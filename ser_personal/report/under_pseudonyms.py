"""A test run whose speakers and utterances go under pseudonyms, so that no page or figure made of it names anyone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ser_personal.calibration.run_files import SpeakerVectors
from ser_personal.pseudonyms import pseudonym

if TYPE_CHECKING:
    import pandas as pd

    from ser_personal.report.run_folder import RunFolder, ScoredSet, TableRow

Value = TypeVar("Value")


def under_pseudonyms(run: RunFolder, key: bytes) -> RunFolder:
    """Put pseudonyms in the place of all ids, in their own order, so that not even the order of the ids is left.

    Speakers are drawn in that order too, so that intervals differ from those under the ids as by another seed.
    """
    return replace(
        run,
        sets=tuple(_renamed_set(test, key) for test in run.sets),
        training=_renamed_vectors(run.training, key),
        embeddings=None if run.embeddings is None else _renamed_vectors(run.embeddings, key),
        training_gender=_renamed_keys(run.training_gender, key),
        key=key,
    )


def _renamed_set(test: ScoredSet, key: bytes) -> ScoredSet:
    speakers = {
        speaker_id: replace(speaker, neighbours=tuple(pseudonym(key, neighbour) for neighbour in speaker.neighbours))
        for speaker_id, speaker in test.speakers.items()
    }
    return replace(
        test,
        rows=tuple(_renamed_row(row, key) for row in test.rows),
        utterances=_renamed_utterances(test.utterances, key),
        speakers=_renamed_keys(speakers, key),
        vectors=_renamed_vectors(test.vectors, key),
    )


def _renamed_row(row: TableRow, key: bytes) -> TableRow:
    scores = {
        attribute: replace(scores_of, per_speaker=_renamed_keys(scores_of.per_speaker, key))
        for attribute, scores_of in row.scores.items()
    }
    return replace(row, scores=scores)


def _renamed_utterances(utterances: pd.DataFrame, key: bytes) -> pd.DataFrame:
    renamed = utterances.copy()
    renamed["utterance"] = [pseudonym(key, id_, "utterance") for id_ in utterances["utterance"]]
    known = utterances["speaker"].notna()
    renamed.loc[known, "speaker"] = [pseudonym(key, id_) for id_ in utterances.loc[known, "speaker"]]
    return renamed.sort_values("utterance", ignore_index=True)


def _renamed_vectors(vectors: SpeakerVectors, key: bytes) -> SpeakerVectors:
    names = [pseudonym(key, id_) for id_ in vectors.speaker_ids]
    order = np.argsort(names)
    return SpeakerVectors(tuple(names[row] for row in order), vectors.vectors[order])


def _renamed_keys(of_speaker: dict[str, Value], key: bytes) -> dict[str, Value]:
    return dict(sorted(((pseudonym(key, id_), value) for id_, value in of_speaker.items()), key=lambda pair: pair[0]))
