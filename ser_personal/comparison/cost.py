"""What a stage costs: parameters, time, audio, floating-point operations and accelerator memory."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from torch.backends import mha
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from typing_extensions import override

from ser_personal.audio import SAMPLE_RATE
from ser_personal.evaluation.prediction_collector import run_folder
from ser_personal.files import write_json

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Size

_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001


def _attention_flops(query: Size, key: Size, value: Size, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(gradient: Size, query: Size, key: Size, value: Size, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


class FlopCounter:
    """Counts floating-point operations by torch's `FlopCounterMode`, a multiplication and an addition as two.

    That counts neither attention on CPUs nor the fused Transformer layer of evaluation: formulas for the first are
    added to it, the second is switched off while it counts.
    """

    def __init__(self) -> None:
        formulas = {_ATTENTION: _attention_flops, _ATTENTION_BACKWARD: _attention_backward_flops}
        self._mode = FlopCounterMode(display=False, custom_mapping=formulas)
        self._fast, self._modes = True, ExitStack()

    @property
    def flops(self) -> int:
        """Counted so far."""
        return int(self._mode.get_total_flops())

    def __enter__(self) -> FlopCounter:
        if torch.is_inference_mode_enabled():
            self._modes.enter_context(torch.inference_mode(mode=False))
            self._modes.enter_context(torch.no_grad())
        self._fast = mha.get_fastpath_enabled()
        mha.set_fastpath_enabled(False)
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)
        self._modes.close()
        mha.set_fastpath_enabled(self._fast)


class CostRecorder(Callback):
    """Writes fit_cost.json or test_cost.json to the run's folder when the stage ends.

    A resumed fit continues the record of its checkpoint. Operations are counted on the first batch of training, of
    validation and of test, which therefore runs outside inference mode, and scaled by the audio of all batches. What
    PLDC predicts in a test to build its bank counts only as time.
    """

    def __init__(self) -> None:
        self._counts: dict[str, _Counts] = {}
        self._stage = ""
        self._clock = _Clock()
        self._counter: FlopCounter | None = None

    @override
    def state_dict(self) -> dict[str, Any]:
        counts = {kind: asdict(counted) for kind, counted in self._counts.items()}
        return {"counts": counts, "seconds": self._clock.seconds, "cpu_seconds": self._clock.cpu_seconds}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # a test counts itself, not the fit of its checkpoint
        if self._stage == "fit":
            self._counts = {kind: _Counts(**counted) for kind, counted in state_dict["counts"].items()}
            self._clock = _Clock(state_dict["seconds"], state_dict["cpu_seconds"])

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stage, self._clock = stage, _Clock()

    def on_train_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Begin to count operations where this is the stage's first batch."""
        # each resumption repeats the sanity check
        if trainer.sanity_checking:
            return
        if self._counts.setdefault(str(trainer.state.stage), _Counts()).counted_flops is None:
            self._counter = FlopCounter()
            self._counter.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Count the batch's audio, and the operations that were counted on it."""
        if trainer.sanity_checking:
            return
        speech, counts = _speech_seconds(batch, trainer), self._counts[str(trainer.state.stage)]
        counts.speech += speech
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            counts.counted_speech, counts.counted_flops = speech, self._counter.flops
            self._counter = None

    on_validation_batch_start = on_test_batch_start = on_train_batch_start
    on_validation_batch_end = on_test_batch_end = on_train_batch_end

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("fit", trainer, pl_module)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("test", trainer, pl_module)

    def _write(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        counts = self._counts.values()
        own = torch.tensor([sum(each.speech for each in counts), sum(each.flops for each in counts)])
        # every process has its share of the audio
        speech, flops = trainer.strategy.reduce(own.to(pl_module.device), reduce_op="sum").tolist()
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
    speech: float = 0.0  # seconds of audio of all batches
    counted_speech: float = 0.0  # of the batch whose operations were counted
    counted_flops: int | None = None

    @property
    def flops(self) -> float:
        return (self.counted_flops or 0) / self.counted_speech * self.speech if self.counted_speech else 0.0


class _Clock:
    def __init__(self, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        self._wall, self._cpu = time.perf_counter() - seconds, time.process_time() - cpu_seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu_seconds(self) -> float:
        return time.process_time() - self._cpu


def _speech_seconds(batch: Any, trainer: Trainer) -> float:
    if "num_samples" in batch:
        return float(batch["num_samples"].sum()) / SAMPLE_RATE
    # cached features have no audio
    utterances = trainer.datamodule.utterances  # type: ignore[attr-defined]
    return float(sum(utterances[index].seconds for index in batch["indices"].tolist()))
