"""Leave-speakers-out folds: every speaker is tested once, by a model that has never met them."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from hashlib import blake2b
from io import StringIO
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.corpus.base import Corpus  # jsonargparse resolves it at run time
from ser_personal.corpus.resolve import open_corpus
from ser_personal.corpus.splits import SpeakerSplits, known_speakers
from ser_personal.errors import UserError
from ser_personal.files import write_whole
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ser_personal.types import Utterance

_COLUMNS = ("id", "path", "speaker", "split", *ATTRIBUTES, "gender", "emotion")


def leave_speakers_out(
    utterances: Sequence[Utterance], folds: int, *, validation_folds: int = 1, seed: int = 0
) -> list[SpeakerSplits]:
    """Deal speakers to folds, and make as many assignments, each with another fold as its test set.

    The speakers of the next `validation_folds` folds validate, all others train. The numbers of speakers, and of each
    gender, differ by at most one between folds. Equal utterances, in any order, and an equal seed give equal folds.

    Args:
        utterances: of any splits, which don't count; those of unknown speakers are left out, for they could be anyone.
        folds: how many.
        validation_folds: folds that validate, of those that don't test.
        seed: of the shuffling.

    Returns:
        One assignment a fold: sets train, validation and test1, utterances in the order given under their new splits.

    Raises:
        UserError: fewer speakers than folds, or no fold left to train on.
    """
    if validation_folds < 1 or folds < validation_folds + 2:
        what = f"{folds} folds, {validation_folds} of which validate, leave none for one of the three sets"
        raise UserError(what, where="folds", remedy="Ask for at least one more fold than test and validation take")
    fold_of = _deal(utterances, folds, seed)
    assignments = []
    for tested in range(folds):
        names = {(tested + ahead) % folds: "validation" for ahead in range(1, validation_folds + 1)} | {tested: "test1"}
        assignments.append(
            SpeakerSplits.from_utterances(
                replace(utterance, split=names.get(fold_of[utterance.speaker_id], "train"))
                for utterance in utterances
                if utterance.speaker_id is not None
            )
        )
    return assignments


def folds(corpus: Corpus | str, count: int = 6, out: str = "folds", validation_folds: int = 1, seed: int = 0) -> None:
    """Write a corpus.csv a fold, fold_0.csv and so on, each with other speakers to test on.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus class with its arguments.
        count: of folds.
        out: folder of the tables.
        validation_folds: folds that validate, of those that don't test.
        seed: of the shuffling.

    Raises:
        UserError: fewer speakers than folds, or no fold left to train on.
    """
    utterances = open_corpus(corpus).utterances
    for fold, splits in enumerate(leave_speakers_out(utterances, count, validation_folds=validation_folds, seed=seed)):
        write_table((utterance for part in splits.sets.values() for utterance in part), Path(out) / f"fold_{fold}.csv")


def write_table(utterances: Iterable[Utterance], path: Path) -> None:
    """Write a corpus.csv that `CSVCorpus` reads; missing labels and names are blank.

    Beside it goes a link to the recordings, and the paths lead through that: a table may not leave its folder.
    """
    utterances = list(utterances)
    recordings = Path(os.path.commonpath([utterance.path.absolute().parent for utterance in utterances]))
    link = path.with_name(f"recordings-{blake2b(str(recordings).encode(), digest_size=4).hexdigest()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(recordings, target_is_directory=True)
    text = StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for utterance in utterances:
        labels = (utterance.labels.get(attribute, float("nan")) for attribute in ATTRIBUTES)
        table.writerow(
            [
                utterance.utterance_id,
                (link.name / utterance.path.absolute().relative_to(recordings)).as_posix(),
                utterance.speaker_id or "",
                utterance.split,
                *("" if isnan(label) else repr(label) for label in labels),
                utterance.gender or "",
                utterance.emotion or "",
            ]
        )
    write_whole(path, text.getvalue().encode())


def _deal(utterances: Sequence[Utterance], folds: int, seed: int) -> dict[str | None, int]:
    """Speaker -> fold: shuffled, then dealt out one gender after the other.

    Where utterances of a speaker name several genders, the first by id counts.
    """
    speakers = sorted(known_speakers(utterances))
    if len(speakers) < folds:
        what = f"{len(speakers)} known speakers don't fill {folds} folds"
        raise UserError(what, where="folds", remedy="Ask for at most as many folds as there are speakers")
    by_id = sorted(utterances, key=lambda utterance: utterance.utterance_id, reverse=True)
    gender = {utterance.speaker_id: utterance.gender for utterance in by_id if utterance.gender is not None}
    shuffled = np.random.default_rng(seed).permutation(len(speakers))
    order = sorted(shuffled.tolist(), key=lambda number: gender.get(speakers[number], ""))
    return {speakers[number]: place % folds for place, number in enumerate(order)}
