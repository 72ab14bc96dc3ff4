"""What calibration gains for a new speaker after 10, 20 and 40 utterances, by leave-speakers-out folds.

    python benchmarks/causal_calibration.py CORPUS.csv --out DIR

Each fold's model is that of configs/tiny/finetune.yaml, trained on some speakers and chosen on others, who also fit
affine and posterior; the fold's test speakers are new to all of them. Each speaker's last 20 utterances
are calibrated by the first 0, 10, 20 or 40, in random orders of time. A fold that is done isn't trained again.

Written to DIR: tables.md, with the gains over the raw predictions, their 95 % intervals over speakers and the coverage
of 90 % intervals; causal_calibration.png; and each fold's corpus.csv, checkpoint and predictions.npz.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from causal_figure import draw
from causal_tables import coverage_table, gain_tables, headline
from enrolment import calibrators_of, enrol, joined
from enrolment_scores import gains
from fold_predictions import predict_fold, read_fold
from record import record

from ser_personal.corpus.csv_corpus import open_corpus
from ser_personal.corpus.folds import leave_speakers_out


def main() -> None:
    """Train what isn't trained, calibrate, write tables and figure, and record the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="a labelled corpus whose speakers have 60 utterances or more each")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--folds", type=int, default=6, help="how many")
    parser.add_argument("--validation_folds", type=int, default=2, help="folds whose speakers validate")
    parser.add_argument("--epochs", type=int, default=10, help="of each fold's training")
    parser.add_argument("--orders", type=int, default=10, help="random orders of time")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    arguments = parser.parse_args()
    corpus = open_corpus(arguments.corpus)
    assignments = leave_speakers_out(
        corpus.utterances, arguments.folds, validation_folds=arguments.validation_folds, seed=arguments.seed
    )
    tested, validated = [], []
    for number, splits in enumerate(assignments):
        folder = arguments.out / f"fold-{number}"
        predict_fold(splits, folder, arguments.epochs)
        fold = read_fold(folder)
        pldc, calibrators = calibrators_of(fold, arguments.orders)
        tested.append(enrol(fold["test1"], pldc, calibrators, arguments.orders))
        validated.append(enrol(fold["validation"], pldc, calibrators, arguments.orders))
    everyone = joined(tested)
    measured = gains(everyone)
    tables = [*gain_tables(everyone, measured), coverage_table(tested, validated, corpus.scale)]
    (arguments.out / "tables.md").write_text("\n".join(tables), encoding="utf-8")
    draw(measured, arguments.out / "causal_calibration.png")
    print("\n".join(tables))
    speakers = len(everyone.speaker_ids)
    record(f"{headline(measured)}; {speakers} speakers, {arguments.folds} folds", ("torch", "numpy"))


if __name__ == "__main__":
    main()
