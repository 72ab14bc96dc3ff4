"""What a stage costs: parameters, time, audio, floating-point operations and accelerator memory."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ser_personal.audio import SAMPLE_RATE
from ser_personal.calibration.run_files import write_json
from ser_personal.errors import require_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001
# where an operation's weights stand among its arguments
_FUSED = {
    torch.ops.aten._transformer_encoder_layer_fwd: (3, 5, 14, 16),  # noqa: SLF001
    torch.ops.aten._native_multi_head_attention: (5, 7),  # noqa: SLF001
}


class FlopCounter(TorchDispatchMode):
    """Sums up matrix products, convolutions and attention by torch's own formulas.

    A whole Transformer layer, which `torch.nn` runs as one operation where nothing is learnt, counts as its parts.

    torch's `FlopCounterMode` also tells modules apart, for which it hooks into autograd, and so it fails in inference
    mode; and it knows no formula of the attention that CPUs run.

    Attributes:
        flops: counted so far; a multiplication and an addition are two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it; one that is made of others is counted as those."""
        given = dict(kwargs or {})
        packet = func.overloadpacket
        if packet not in flop_registry:
            with self:
                result = func.decompose(*args, **given)
            if result is not NotImplemented:
                return result
        out = func(*args, **given)
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **given, out_val=out)
        elif packet is _ATTENTION:
            query, key, value = (each.shape for each in args[:3])
            self.flops += sdpa_flop_count(query, key, value)
        elif packet is _ATTENTION_BACKWARD:
            self.flops += sdpa_backward_flop_count(*(each.shape for each in args[:4]))
        elif packet in _FUSED:
            self.flops += _fused_flops(args[0], [args[place] for place in _FUSED[packet]])
        return out


def _fused_flops(tokens: Tensor, weights: Sequence[Tensor]) -> int:
    """Count self-attention of tokens (batch, tokens, dim) and the products of each with these weights."""
    batch, length, dim = tokens.shape
    return 2 * batch * length * sum(weight.numel() for weight in weights) + 4 * batch * length**2 * dim


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
