r"""One speaker's arousal over a minute: raw, calibrated by PLDC's full equation, and as labelled, of a test run.

The speaker is the one whom the uncalibrated model follows worst, by CCC.

    ser fit --config finetune.yaml --config tiny/finetune.yaml --data.corpus ravdess/corpus.csv
    ser test --config finetune.yaml --config tiny/finetune.yaml --config pldc.yaml --data.corpus ravdess/corpus.csv \
      --ckpt_path finetune.ckpt
    python docs/figures/draw_minute.py lightning_logs/version_1
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
from ink import INKS, Ink, drawn

from ser_personal.evaluation.run_files import MU_SIGMA, RECORD, read_run

if TYPE_CHECKING:
    import pandas as pd

SECONDS = 60
ATTRIBUTE = "arousal"
SEED = 0


def minute(folder: str) -> tuple[str, pd.DataFrame]:
    """The speaker, and the first minute of their utterances in a random order."""
    run = read_run(folder)
    test = run.sets[0]
    ccc = test.row("raw").scores[ATTRIBUTE].per_speaker
    speaker = min(ccc, key=lambda name: ccc[name])
    of = json.loads((run.folder / RECORD).read_text(encoding="utf-8"))["splits"][test.name][speaker]
    mean, deviation, new_mean, new_deviation = (of[name][ATTRIBUTE] for name in MU_SIGMA)
    # acted corpora sort their files by emotion
    own = test.utterances[test.utterances["speaker"] == speaker].sample(frac=1, random_state=SEED)
    calibrated = (own[f"{ATTRIBUTE}_raw"] - mean) / deviation * new_deviation + new_mean
    end = own["seconds"].cumsum()
    columns = {"start": end - own["seconds"], "end": end, f"{ATTRIBUTE}_calibrated": calibrated}
    return speaker, own.assign(**columns)[end <= SECONDS]


def draw(ink: Ink, speaker: str, table: pd.DataFrame) -> None:
    """Draw it for one kind of page."""
    lines = {
        "label": ("labels", ink.faint, 5.0, "-"),
        "raw": ("raw", ink.speaker, 1.6, (0, (3, 1.5))),
        "calibrated": ("calibrated to the speaker", ink.network, 2.2, "-"),
    }
    with drawn("minute", ink, 8.0, 2.6) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        for kind, (name, colour, width, dashes) in lines.items():
            values = table[f"{ATTRIBUTE}_{kind}"].to_numpy(dtype=float)
            # a step from an utterance to the next would look like a change within one
            x = np.column_stack([table["start"] + 0.12, table["end"] - 0.12, table["end"]]).ravel()
            y = np.column_stack([values, values, np.full(len(values), np.nan)]).ravel()
            alpha = 0.45 if kind == "label" else 1
            axes.plot(
                x, y, color=colour, linewidth=width, linestyle=dashes, label=name, alpha=alpha, solid_capstyle="butt"
            )
        axes.set_xlim(0, SECONDS)
        axes.set_xlabel(f"seconds of speech of {speaker}, whom the model has never heard")
        axes.set_ylabel(f"{ATTRIBUTE}, 1 to 7")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2)


if __name__ == "__main__":
    found = minute(sys.argv[1])
    for each in INKS:
        draw(each, *found)
