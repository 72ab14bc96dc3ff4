"""`ser floor`: what a ridge regression reaches on a corpus, as a run that `ser compare` reads."""

from __future__ import annotations

from pathlib import Path

from ser_personal.corpus.base import Corpus  # jsonargparse resolves it at run time
from ser_personal.errors import UserError
from ser_personal.ranges import require_range
from ser_personal.types import Attribute


def floor(
    corpus: Corpus | str,
    out: str = "floor",
    attributes: tuple[Attribute, ...] = ("arousal", "valence", "dominance"),
    test_splits: list[str] | None = None,
    min_utterances: int = 10,
    *,
    known_speakers_only: bool = True,
) -> None:
    """Fit a ridge regression on MFCC functionals of the training split, and score it on the test sets.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        out: folder for floor.json and speaker_moments.csv.
        attributes: what to predict; those without training labels are left out.
        test_splits: sets to test on; all but train and validation if None.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
        known_speakers_only: leave out utterances whose speaker is unknown, as the paper does.

    Raises:
        UserError: the corpus can't be read, or no training utterance has a label.
    """
    require_range("min_utterances", min_utterances, 2)
    from ser_personal.calibration.results import rows_as_json, show, write_json
    from ser_personal.calibration.speaker_moments import speaker_moments, write_moments
    from ser_personal.data.emotion_datamodule import EmotionDataModule
    from ser_personal.report.floor_scores import TITLE, score_floor

    data = EmotionDataModule(corpus, test_splits=test_splits, known_speakers_only=known_speakers_only, num_workers=0)
    reached = score_floor(data, attributes, min_utterances)
    if not reached:
        raise UserError(
            f"no training utterance has a label of {' or '.join(attributes)}",
            where="ser floor",
            remedy="Give a corpus with labels, or other --attributes",
        )
    for split, of_split in reached.items():
        show(f"{split}: {TITLE}", [of_split.row])
    folder = Path(out)
    rows = {split: {"rows": rows_as_json([of_split.row])} for split, of_split in reached.items()}
    write_json(folder / "floor.json", {"splits": rows})
    moments = [speaker_moments(split, [each.row], each.labels, each.speaker_ids) for split, each in reached.items()]
    write_moments(folder, moments)
