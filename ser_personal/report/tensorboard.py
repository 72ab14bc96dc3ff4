"""The report's figures as TensorBoard images, and speaker vectors for its projector, in the run's folder."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.report.figures.canvas import style

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.report.figures.all_figures import Figures
    from ser_personal.report.figures.canvas import Drawing
    from ser_personal.report.run_folder import RunFolder

_SUFFIX = ".report"
_PROJECTOR = ("projector_config.pbtxt", "00000")
_DPI = 130


def write_tensorboard(run: RunFolder, figures: Figures) -> None:
    """Write images and embeddings, in place of those of an earlier report."""
    import torch
    from torch.utils.tensorboard import SummaryWriter

    for events in run.folder.glob(f"events.*{_SUFFIX}"):
        events.unlink()
    (run.folder / _PROJECTOR[0]).unlink(missing_ok=True)
    shutil.rmtree(run.folder / _PROJECTOR[1], ignore_errors=True)
    with SummaryWriter(str(run.folder), filename_suffix=_SUFFIX) as writer, style():
        for drawing in figures.all:
            writer.add_image(f"report/{drawing.name}", _pixels(drawing), dataformats="HWC")
        vectors, rows = _projected(run)
        writer.add_embedding(
            torch.from_numpy(vectors), rows, tag="speaker_vectors", metadata_header=["speaker", "set", "gender"]
        )


def _pixels(drawing: Drawing) -> NDArray[np.uint8]:
    """(height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawing.figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(drawing.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _projected(run: RunFolder) -> tuple[NDArray[np.float32], list[list[str]]]:
    """Vectors of all speakers, and each one's id, set and gender."""
    vectors = [run.training.vectors, *(test.vectors.vectors for test in run.sets)]
    rows = [[id_, "training", run.training_gender.get(id_) or "unknown"] for id_ in run.training.speaker_ids]
    for test in run.sets:
        rows += [[id_, test.name, test.speakers[id_].gender or "unknown"] for id_ in test.vectors.speaker_ids]
    return np.concatenate(vectors).astype(np.float32), rows
