"""predictions.csv of a recipe's folds together: every speaker once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.files import write_whole
from ser_personal.report.run_folder import PREDICTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ser_personal.study.run_folder import RunFolder


def join_predictions(folders: Sequence[RunFolder]) -> None:
    """Write a table a recipe and seed, `joined/RECIPE-seed_0.csv`, with the fold of each utterance.

    Models of single attributes have tables of their own. Studies without folds have nothing to join.
    """
    import pandas as pd

    tables: dict[str, list[pd.DataFrame]] = {}
    for folder in folders:
        run = folder.run
        for path in sorted(folder.path.glob(f"test/**/{PREDICTIONS}")) if run.fold is not None else ():
            table = pd.read_csv(path, dtype={"utterance": str, "speaker": str}, float_precision="round_trip")
            name = "-".join([run.name, f"seed_{run.seed}", *([run.attribute] if run.attribute else [])])
            tables.setdefault(name, []).append(table.assign(fold=run.fold))
    for name, of_folds in tables.items():
        path = folders[0].root / "joined" / f"{name}.csv"
        write_whole(path, pd.concat(of_folds).to_csv(index=False).encode())
