"""Leave-speakers-out folds: every speaker is tested once, by a model that wasn't trained on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse.typing import PositiveInt

from ser_personal.corpus.base import Corpus  # jsonargparse resolves it at run time
from ser_personal.corpus.csv_corpus import CSVCorpus, open_corpus, write_corpus
from ser_personal.corpus.splits import (
    SpeakerSplits,
    by_speaker,
    by_split,
    canonical_split,
    first_few,
    known_speakers,
    require_split,
)
from ser_personal.errors import UserError
from ser_personal.files import refuse_existing
from ser_personal.types import Seed, Share, Utterance

logger = logging.getLogger(__name__)


def leave_speakers_out(
    utterances: Sequence[Utterance], folds: int, *, validation_folds: int = 1, seed: int = 0
) -> list[SpeakerSplits]:
    """Deal speakers to folds, and make as many assignments, each with another fold as its test set.

    The speakers of the next `validation_folds` folds validate, all others train. The numbers of speakers, and of each
    gender, differ by at most one between folds. Equal utterances, in any order, and an equal seed give equal folds.
    Utterances, their own splits ignored, come under train, validation and test1; unknown speakers are left out.
    """
    if validation_folds < 1 or folds < validation_folds + 2:
        what = f"{folds} folds with {validation_folds} for validation leave one of the three sets empty"
        raise UserError(what, where="folds", remedy="Ask for a validation fold, and for two folds more than those")
    fold_of = _deal(utterances, folds, seed)
    known = [each for each in utterances if each.speaker_id in fold_of]
    # of the fold that is tested, the next one, ...
    names = ["test1", *["validation"] * validation_folds, *["train"] * (folds - validation_folds - 1)]
    assignments = []
    for tested in range(folds):
        renamed = (replace(each, split=names[(fold_of[each.speaker_id] - tested) % folds]) for each in known)
        assignments.append(SpeakerSplits.from_utterances(renamed))
    return assignments


def folds(
    corpus: Corpus | str,
    count: PositiveInt = 6,
    out: str = "folds",
    validation_folds: PositiveInt = 1,
    seed: Seed = 0,
    *,
    replace: bool = False,
) -> None:
    """Write a corpus.csv per fold, fold_0.csv and so on, each with other speakers to test on.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus class with its arguments.
        count: of folds.
        out: folder of the tables.
        validation_folds: folds that validate, of those that don't test.
        seed: of the shuffling.
        replace: replace tables that exist already.
    """
    tables = [Path(out) / f"fold_{fold}.csv" for fold in range(count)]
    refuse_existing(*tables, replace=replace)
    opened = open_corpus(corpus)
    folds_of = leave_speakers_out(opened.utterances, count, validation_folds=validation_folds, seed=seed)
    _write(dict(zip(tables, folds_of, strict=True)), opened.scale)


def _write(tables: Mapping[Path, SpeakerSplits], scale: tuple[float, float]) -> None:
    for path, splits in tables.items():
        write_corpus(chain(*splits.sets.values()), path)
    print(f"written: {first_few([*map(str, tables)])}")
    if scale != CSVCorpus("").scale:
        logger.warning("a table doesn't hold the scale of its labels, so give %g to %g with each", *scale)


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
    shuffled = np.random.default_rng(seed).permutation(speakers).tolist()
    return {name: turn % folds for turn, name in enumerate(sorted(shuffled, key=lambda name: gender.get(name, "")))}


# whether the test speakers are among the training speakers, with other utterances
SIDES = ("dependent", "independent")


def personalization_gap(
    utterances: Sequence[Utterance],
    speakers: Sequence[int],
    *,
    test_split: str = "test1",
    evaluation_speakers: PositiveInt | None = None,
    share: Share = 0.5,
    seed: Seed = 0,
) -> dict[tuple[int, str], SpeakerSplits]:
    """Make speaker-dependent and speaker-independent corpora over numbers of training speakers (paper, section 2.1).

    The paper says that both sides have the same test speakers, disjoint utterances and equal training size. The rest is
    our reading of it. The first part of each evaluation speaker's utterances, in the order of their ids so that
    neighbours of one recording stay together, may be trained on; the rest is the test set of every corpus. For n
    training speakers, the independent side takes the first n of the shuffled training speakers; the dependent side
    takes the evaluation speakers and the first of those others, n in all. The larger side is then thinned by chance to
    the smaller one's number of utterances, each speaker keeping one at least. Unknown speakers and utterances without
    any label are left out.

    Args:
        utterances: of the whole corpus.
        speakers: numbers of training speakers, each at least the number of evaluation speakers.
        test_split: whose speakers are evaluated.
        evaluation_speakers: how many of them, those with most utterances; all who have two if None.
        share: of an evaluation speaker's utterances, that may be trained on.
        seed: of the draws.

    Returns:
        Number of training speakers and side -> sets train, validation and the test set.
    """
    test_split = canonical_split(test_split)
    usable = [each for each in utterances if each.speaker_id is not None and not all(map(isnan, each.labels.values()))]
    sets = by_split(usable)
    for name in ("train", "validation", test_split):
        require_split(name, sets)
    able = sorted((said for said in by_speaker(sets[test_split]).values() if len(said) > 1), key=len, reverse=True)
    if not able or len(able) < (evaluation_speakers or 1):
        what = f"has {len(able)} speakers with two utterances, {evaluation_speakers or 1} are to be evaluated"
        remedy = "Ask for fewer evaluation speakers, or take another test set"
        raise UserError(what, where=f"split {test_split}", remedy=remedy)
    own, evaluation = [], []
    for said in able[:evaluation_speakers]:
        first = min(max(1, round(share * len(said))), len(said) - 1)
        own.append([replace(utterance, split="train") for utterance in said[:first]])
        evaluation += said[first:]
    evaluated = known_speakers(evaluation)
    others = by_speaker(each for each in sets["train"] if each.speaker_id not in evaluated)
    if not speakers or not all(len(own) <= number <= len(others) for number in speakers):
        what = f"{speakers} training speakers, where {len(own)} are evaluated and the training set has {len(others)}"
        remedy = f"Give numbers from {len(own)} to {len(others)}; fewer evaluation speakers allow smaller ones"
        raise UserError(what, where="speakers", remedy=remedy)
    shuffled = [others[name] for name in np.random.default_rng(seed).permutation([*others]).tolist()]
    corpora = {}
    for number in speakers:
        sides = [*chain(*own, *shuffled[: number - len(own)])], [*chain(*shuffled[:number])]
        size = min(map(len, sides))
        for index, side in enumerate(SIDES):
            thinned = _thin(sides[index], size, np.random.default_rng([seed, number, index]))
            corpora[number, side] = SpeakerSplits.from_utterances(
                [*thinned, *sets["validation"], *evaluation], [test_split] if side == "dependent" else []
            )
    return corpora


def gap(
    corpus: Corpus | str, speakers: list[PositiveInt], out: str = "gap", *, replace: bool = False, **options: Any
) -> None:
    """Write a corpus.csv for each number of training speakers and side, speakers_50_dependent.csv and so on.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus class with its arguments.
        speakers: numbers of training speakers, each at least the number of evaluation speakers.
        out: folder of the tables.
        replace: replace tables that exist already.
        **options: of `personalization_gap`.
    """
    tables = {(number, side): Path(out) / f"speakers_{number}_{side}.csv" for number in speakers for side in SIDES}
    refuse_existing(*tables.values(), replace=replace)
    opened = open_corpus(corpus)
    corpora = personalization_gap(opened.utterances, speakers, **options)
    _write({path: corpora[side] for side, path in tables.items()}, opened.scale)


def _thin(everyone: Sequence[Utterance], size: int, rng: np.random.Generator) -> list[Utterance]:
    # by chance, one of each speaker at least; in the order of their ids
    shuffled = [everyone[index] for index in rng.permutation(len(everyone))]
    first = {utterance.speaker_id: utterance for utterance in reversed(shuffled)}
    chosen = sorted(shuffled, key=lambda utterance: first[utterance.speaker_id] is not utterance)[:size]
    return sorted(chosen, key=lambda utterance: utterance.utterance_id)
