"""The first pass: frames are sampled while they stream past, and the codebook is fitted on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.data.bad_audio import list_in
from ser_personal.gathering import gather_files, on_first_process
from ser_personal.pretrain.teacher_pass import by_utterance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from lightning.pytorch import Trainer
    from numpy.typing import NDArray

    from ser_personal.data.loader import SpeechLoader
    from ser_personal.pretrain.codebook import Codebook
    from ser_personal.pretrain.frame_sample import FrameSample
    from ser_personal.pretrain.pseudo_label_data import PseudoLabelData
    from ser_personal.types import EncoderOutput, SpeechBatch


class CodebookTask:
    """Samples frames on every process, and fits the codebook on the first.

    Args:
        data: what the codebook is fitted on.
        sample: takes the frames.
        fit: (frames, dim) -> the codebook.
        folder: seen by every process; takes the list of skipped audio, and the samples on their way to the first
            process where there are several.
    """

    title = "Sampling frames"

    def __init__(
        self,
        data: PseudoLabelData,
        sample: FrameSample,
        fit: Callable[[NDArray[np.float32]], Codebook],
        folder: Path,
    ) -> None:
        self.data, self.sample, self.fit, self.folder = data, sample, fit, folder

    def loader(self, trainer: Trainer) -> SpeechLoader[SpeechBatch]:
        """See `PassTask`."""
        if trainer.is_global_zero:
            list_in(self.folder, self.data.skipped_audio)
        return self.data.loader(self.data.fit_batches()[trainer.global_rank :: trainer.world_size])

    def take(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        """See `PassTask`."""
        for index, frames in by_utterance(batch, output, output.frames):
            wanted = self.sample.wanted(index)
            if len(wanted):
                self.sample.add(index, frames[wanted].float().cpu().numpy())

    def finish(self, trainer: Trainer) -> Codebook:
        """See `PassTask`."""
        if trainer.world_size > 1:
            gather_files(trainer, self.folder, self.sample.save, lambda paths: self.sample.take_up(paths[1:]))
        return on_first_process(trainer, lambda: self.fit(self.sample.held()))
