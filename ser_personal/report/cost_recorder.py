"""What a stage costs: parameters, time, audio, floating-point operations and accelerator memory."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback

from ser_personal.audio import SAMPLE_RATE
from ser_personal.calibration.results import write_json
from ser_personal.ranges import require_range
from ser_personal.report.flops import FlopCounter

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class CostRecorder(Callback):
    """Writes fit_cost.json or test_cost.json to `--trainer.default_root_dir` when the stage ends.

    A resumed fit goes on counting from its checkpoint, so the record is that of one whole fit, whatever broke it off.
    Operations are counted on the first batches of training, validation and test, and scaled by the audio of all. What
    PLDC predicts besides in a test, to build its bank, counts as time alone.

    Args:
        counted_batches: of each kind, whose operations are counted.

    Raises:
        UserError: no batch is to be counted.
    """

    def __init__(self, counted_batches: int = 3) -> None:
        require_range("counted_batches", counted_batches, 1)
        super().__init__()
        self.counted_batches = counted_batches
        self._counts: dict[str, _Counts] = {}
        self._stage = ""
        self._clock = _Clock()
        self._counter: FlopCounter | None = None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit goes on from."""
        counts = {kind: asdict(counted) for kind, counted in self._counts.items()}
        return {"counts": counts, "seconds": self._clock.seconds, "cpu_seconds": self._clock.cpu_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; a test of it begins anew."""
        if self._stage != "fit":
            return
        self._counts = {kind: _Counts(**counted) for kind, counted in state_dict["counts"].items()}
        self._clock = _Clock(state_dict["seconds"], state_dict["cpu_seconds"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock, before weights are loaded."""
        self._stage, self._clock = stage, _Clock()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to count."""
        self._begin("train")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a training batch."""
        self._end("train", batch, trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin to count, but in the sanity check, which each resumption repeats."""
        if not trainer.sanity_checking:
            self._begin("validation")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a validation batch."""
        if not trainer.sanity_checking:
            self._end("validation", batch, trainer)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin to count."""
        self._begin("test")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a test batch."""
        self._end("test", batch, trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write fit_cost.json."""
        self._write("fit", trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write test_cost.json."""
        self._write("test", trainer, pl_module)

    def _begin(self, kind: str) -> None:
        if self._counts.setdefault(kind, _Counts()).counted_batches < self.counted_batches:
            self._counter = FlopCounter()
            self._counter.__enter__()

    def _end(self, kind: str, batch: Any, trainer: Trainer) -> None:
        speech, counts = _speech_seconds(batch, trainer), self._counts[kind]
        counts.speech += speech
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            counts.counted_batches += 1
            counts.counted_speech += speech
            counts.counted_flops += self._counter.flops
            self._counter = None

    def _write(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        counts = self._counts.values()
        own = torch.tensor([sum(each.speech for each in counts), sum(each.flops for each in counts)])
        # every process has its share of the audio
        speech, flops = trainer.strategy.reduce(own.to(pl_module.device), reduce_op="sum").tolist()
        if not trainer.is_global_zero:
            return
        weights = list(pl_module.parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        on_cuda = pl_module.device.type == "cuda"
        write_json(
            Path(trainer.default_root_dir) / f"{stage}_cost.json",
            {
                "command": stage,
                "seconds": self._clock.seconds,
                "cpu_seconds": self._clock.cpu_seconds,
                "device_memory": torch.cuda.max_memory_allocated() if on_cuda else None,
                "speech_seconds": speech,
                "flops": flops,
                "parameters": sum(weight.numel() for weight in weights),
                "trained_parameters": trained if stage == "fit" else None,
                "device": pl_module.device.type,
                "devices": trainer.world_size,
            },
        )


@dataclass
class _Counts:
    """Of the batches of one kind: seconds of audio in all, and in those whose operations were counted."""

    speech: float = 0.0
    counted_speech: float = 0.0
    counted_flops: float = 0.0
    counted_batches: int = 0

    @property
    def flops(self) -> float:
        """Of all batches, by their audio."""
        return self.counted_flops / self.counted_speech * self.speech if self.counted_speech else 0.0


class _Clock:
    """Wall and CPU time since it was made, and what had passed before."""

    def __init__(self, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        self._wall, self._cpu = time.perf_counter() - seconds, time.process_time() - cpu_seconds

    @property
    def seconds(self) -> float:
        """Wall time."""
        return time.perf_counter() - self._wall

    @property
    def cpu_seconds(self) -> float:
        """Of all threads of this process."""
        return time.process_time() - self._cpu


def _speech_seconds(batch: Any, trainer: Trainer) -> float:
    """Of the audio in a batch; of cached features, the audio that they are of."""
    if "num_samples" in batch:
        return float(batch["num_samples"].sum()) / SAMPLE_RATE
    utterances = trainer.datamodule.utterances  # type: ignore[attr-defined]
    return float(sum(utterances[index].seconds for index in batch["indices"].tolist()))
