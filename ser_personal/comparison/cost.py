"""What a stage costs: parameters, time, audio and accelerator memory."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from ser_personal.audio import SAMPLE_RATE
from ser_personal.evaluation.prediction_collector import run_folder
from ser_personal.files import write_json


class CostRecorder(Callback):
    """Writes fit_cost.json or test_cost.json to the run's folder; a resumed fit continues its checkpoint's record."""

    def __init__(self) -> None:
        self._stage = ""
        self._speech = 0.0  # seconds of audio of all batches
        self._begin()

    def _begin(self, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        self._wall, self._cpu = time.perf_counter() - seconds, time.process_time() - cpu_seconds

    @override
    def state_dict(self) -> dict[str, Any]:
        seconds, cpu_seconds = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "speech_seconds": self._speech}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # a test counts itself, not the fit of its checkpoint
        if self._stage == "fit":
            self._speech = state_dict["speech_seconds"]
            self._begin(state_dict["seconds"], state_dict["cpu_seconds"])

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stage, self._speech = stage, 0.0
        self._begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Count the batch's audio."""
        # each resumption repeats the sanity check
        if trainer.sanity_checking:
            return
        if "num_samples" in batch:
            self._speech += float(batch["num_samples"].sum()) / SAMPLE_RATE
        else:
            # cached features have no audio
            utterances = trainer.datamodule.utterances  # type: ignore[attr-defined]
            self._speech += sum(utterances[index].seconds for index in batch["indices"].tolist())

    on_validation_batch_end = on_test_batch_end = on_train_batch_end

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("fit", trainer, pl_module)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("test", trainer, pl_module)

    def _write(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        # every process has its share of the audio
        own = torch.tensor(self._speech, device=pl_module.device)
        speech = float(trainer.strategy.reduce(own, reduce_op="sum"))
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        weights = list(pl_module.parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        on_cuda = pl_module.device.type == "cuda"
        write_json(
            folder / f"{stage}_cost.json",
            {
                "command": stage,
                **self.state_dict(),
                "device_memory": torch.cuda.max_memory_allocated() if on_cuda else None,
                "speech_seconds": speech,
                "parameters": sum(weight.numel() for weight in weights),
                "trained_parameters": trained if stage == "fit" else None,
                "device": pl_module.device.type,
                "devices": trainer.world_size,
            },
        )
