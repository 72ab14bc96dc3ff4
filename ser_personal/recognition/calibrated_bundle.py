"""A bundle with what calibrates its speakers: fitted, chosen and measured on validation speakers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ser_personal.calibration.results import points
from ser_personal.calibration.selection import MIN_SPEAKERS
from ser_personal.errors import UserError
from ser_personal.recognition.calibrators import make_calibrator
from ser_personal.recognition.choice import best, candidates, fit_posterior, mean_scores
from ser_personal.recognition.grouping import grouped_bank
from ser_personal.recognition.intervals import describe_intervals, measure_intervals

if TYPE_CHECKING:
    from rich.console import Console

    from ser_personal.calibration.table import PredictedSet
    from ser_personal.recognition.bundle import Bundle
    from ser_personal.recognition.choice import Candidates
    from ser_personal.speakers.bank import SpeakerBank

Asked = Literal["auto", "pldc", "posterior", "none"]


def with_groups(bundle: Bundle, least: int) -> Bundle:
    """The bundle with groups of at least so many speakers in its bank, and so many fewer neighbours in PLDC.

    Raises:
        UserError: there are no two speakers to a group, or fewer speakers than a group takes.
    """
    if bundle.bank is None:
        return bundle
    if least < 2:
        raise UserError(f"{least} speakers are no group", where="--group_speakers", remedy="Give 2 or more")
    pldc = replace(bundle.pldc, k=max(1, round(bundle.pldc.k / least)))
    return replace(bundle, bank=grouped_bank(bundle.bank, least, pldc.statistics), pldc=pldc)


def unvalidated(bundle: Bundle, asked: Asked) -> Bundle:
    """The bundle with a calibration that nothing was measured for.

    Raises:
        UserError: it holds nothing for the calibration asked for.
    """
    if asked == "auto":
        return bundle
    make_calibrator(bundle, asked)
    return replace(bundle, calibration=asked)


def validated(
    bundle: Bundle, bank: SpeakerBank | None, heard: PredictedSet, asked: Asked, coverage: float, console: Console
) -> Bundle:
    """The bundle with a posterior, where one can be fitted, the calibration asked for, or the best, and its intervals.

    Args:
        bundle: without these.
        bank: of single training speakers, which the posterior learns from.
        heard: the validation set, raw, all of its speakers known.
        asked: which calibration.
        coverage: of the intervals.
        console: told what was found.

    Raises:
        UserError: what the calibration asked for needs isn't there.
    """
    found = candidates(bundle, bank, heard)
    speakers = len(set(heard.speaker_ids))
    if bank is not None and "posterior" in found:
        bundle = replace(bundle, posterior=fit_posterior(bank, bundle.attributes, heard))
    elif asked == "posterior" and bank is not None:
        raise UserError(
            f"can't be fitted on {speakers} validation speakers",
            where="the posterior",
            remedy=f"It takes {MIN_SPEAKERS + 1} with labels of every attribute; ask for pldc",
        )
    if asked != "auto":
        bundle = unvalidated(bundle, asked)
    elif bundle.bank is not None and speakers >= MIN_SPEAKERS:
        bundle = replace(bundle, calibration=best(found, heard, bundle.attributes))
    console.print(_described(bundle, found, heard, speakers), soft_wrap=True, highlight=False)
    calibrated = None if bundle.calibration == "none" else found.get(bundle.calibration)
    table = measure_intervals(heard, calibrated, bundle.attributes, coverage)
    console.print(describe_intervals(table, speakers), soft_wrap=True, highlight=False)
    return replace(bundle, conformal=table)


def _described(bundle: Bundle, found: Candidates, heard: PredictedSet, speakers: int) -> str:
    scores = {name: mean_scores(predictions, heard, bundle.attributes) for name, predictions in found.items()}
    listed = "; ".join(f"{name} {points(overall)} and {points(average)}" for name, (overall, average) in scores.items())
    return (
        f"calibration {bundle.calibration}; O-CCC and A-CCC of {speakers} validation speakers heard one by one, means "
        f"of the attributes: {listed}"
    )
