"""What a stage leaves for the next one, papt.ckpt or finetune.ckpt, and what makes resuming training exact."""

import json
import os
import signal
from itertools import chain
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from ser_personal.errors import UserError
from ser_personal.files import atomic_file, write_json

SCORES = ".scores.json"
# key in a checkpoint of the settings that define a training step
STEPS = "steps"


class Interrupted(SystemExit):
    """A fit was stopped by a signal, between two steps."""

    def __init__(self, signum: int) -> None:
        self.signal = signal.Signals(signum)
        super().__init__(128 + signum)


def resumable(trainer: Trainer) -> bool:
    """Whether training can be resumed exactly from a checkpoint at the end of this batch.

    Not while gradients accumulate, which checkpoints don't hold, and not before a validation, which Lightning leaves
    out on resuming. Unknown where validation is scheduled by time.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    batches = progress.total.ready if trainer.check_val_every_n_epoch is None else progress.current.ready
    every = trainer.val_check_batch
    if every is None or trainer.is_last_batch or progress.current.ready % trainer.accumulate_grad_batches:
        return False
    return every == inf or batches % every != 0


class StageCheckpoint(ModelCheckpoint):
    """Saves the best model as NAME.ckpt and the newest as NAME-last.ckpt, in `--trainer.default_root_dir`.

    NAME.scores.json holds what the best model's validation logged: val_loss, val_ccc, ...; null where it isn't finite.

    Args:
        name: of the stage.
        monitor: the logged value that chooses the best model.
        mode: whether less or more of it is better.
        every_n_steps: also save NAME-last.ckpt after so many steps; None saves it only at the end of epochs.
    """

    # `ser fit --replace`
    replace = False
    has_written_best = False

    def __init__(
        self, name: str, monitor: str, mode: Literal["min", "max"], every_n_steps: PositiveInt | None = 1000
    ) -> None:
        super().__init__(filename=name, monitor=monitor, mode=mode, save_last=True, enable_version_counter=False)
        self.every_n_steps = every_n_steps
        self.CHECKPOINT_NAME_LAST = f"{name}-last"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir).absolute())
        self._fits = stage == "fit"
        super().setup(trainer, pl_module, stage)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.refuse_earlier(trainer, trainer.ckpt_path)

    def refuse_earlier(self, trainer: Trainer, resumed: str | Path | None) -> None:
        """Refuse to replace the model of an earlier training run that isn't the resumed checkpoint's."""
        folder = Path(trainer.default_root_dir).absolute()
        resumes = resumed is not None and Path(resumed).resolve().parent == folder.resolve()
        paths = [folder / f"{name}.ckpt" for name in (self.filename, self.CHECKPOINT_NAME_LAST)]
        earlier = [path for path in paths if path.exists()]
        if earlier and not (resumes or self.replace or trainer.fast_dev_run):  # type: ignore[attr-defined]
            resume = f"Resume that with --ckpt_path {'last' if paths[1].exists() else paths[0]}"
            remedy = f"{resume}, replace it with --replace, or give another --trainer.default_root_dir"
            raise UserError("is of an earlier training run", where=earlier[0], remedy=remedy)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning saves the last one of a trial run, too
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_end(trainer, pl_module)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        score = state_dict["best_model_score"]
        if not self._fits or score is None:
            return
        path = Path(str(self.dirpath)) / f"{self.filename}.ckpt"
        scores, moved = path.with_suffix(SCORES), state_dict["dirpath"] != self.dirpath
        known = (json.loads(scores.read_text()) if scores.is_file() else {}).get(self.monitor, float(score))
        # in another folder, another score tells that it is another training run's
        if not path.is_file() or (moved and known != score):
            rank_zero_info(f"{path} isn't the best model so far: the best one is chosen from here on")
            return
        # of a later epoch than the resumed one; a kill may have come between it and NAME-last.ckpt
        if not self.replace and known not in {None, float(score)} and (known > score) == (self.mode == "max"):
            better = f"{path} ({self.monitor} {known:.3f}) is better than the resumed checkpoint's best ({score:.3f})"
            rank_zero_info(f"{better}: it stays until a better one comes, unless you add --replace")
            score = torch.tensor(known)
        self.best_model_path = self.kth_best_model_path = str(path)
        self.best_model_score = self.kth_value = self.current_score = score
        self.best_k_models = {str(path): score}

    def is_current(self, trainer: Trainer) -> bool:
        """Whether the newest checkpoint is of the current step."""
        return self._last_global_step_saved == trainer.global_step

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if due and resumable(trainer):
            self._save_newest(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Interrupted):
            self._save_newest(trainer)

    def _save_newest(self, trainer: Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        is_best = Path(filepath).stem == self.filename
        self.has_written_best |= is_best
        if trainer.is_global_zero and is_best:
            logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
            scores = {name: value if isfinite(value) else None for name, value in logged.items()}
            write_json(Path(filepath).with_suffix(SCORES), scores)

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        # Lightning saves the last checkpoint only where it has just saved a best one
        self._last_global_step_saved = trainer.global_step


def _accumulation_schedules(trainer: Trainer) -> list[GradientAccumulationScheduler]:
    return [each for each in trainer.callbacks if isinstance(each, GradientAccumulationScheduler)]  # type: ignore[attr-defined]


def _steps(trainer: Trainer) -> dict[str, Any]:
    """Settings that make a training step what it is, which a resumed fit must share."""
    schedules = [schedule.scheduling for schedule in _accumulation_schedules(trainer)]
    return {
        "batches per epoch": trainer.num_training_batches,
        "devices": trainer.world_size,
        "accumulate_grad_batches": schedules or trainer.accumulate_grad_batches,
    }


def _settings(trainer: Trainer) -> list[dict[str, Any]]:
    settings = []
    for group in chain.from_iterable(optimizer.param_groups for optimizer in trainer.optimizers):
        rates = {"learning_rate": group.get("initial_lr", group["lr"])}
        known = rates if "initial_lr" in group or not trainer.lr_scheduler_configs else {}
        settings.append(known | {name: group[name] for name in ("weight_decay", "betas", "eps") if name in group})
    return settings


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint to a temporary file next to it, flushes that to the disk, and renames it.

    Lightning moves it from the system's temporary folder: a kill on the way may leave half of one.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        for left_by_a_kill in path.parent.glob(f".{path.name}.*.tmp"):
            left_by_a_kill.unlink(missing_ok=True)
        with atomic_file(path) as file:
            torch.save(checkpoint, file)


class ExactResumption(Callback):
    """Restores the loader's position, refuses other settings, and makes a step's randomness a function of it (ours).

    Every step is seeded by `--seed_everything`, the epoch, the batch and the rank: Lightning's checkpoints hold no
    state of random generators. Without that flag nothing is seeded.
    """

    def __init__(self) -> None:
        self._began: dict[str, Any] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # that of the command line, which Lightning replaces by the checkpoint's after this
        self._patience = {one: one.patience for one in trainer.early_stopping_callbacks}

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[STEPS] = _steps(trainer)

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._began = checkpoint.get(STEPS, {})

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # those of the command line, which Lightning replaces by the checkpoint's after this
        self._settings = _settings(trainer)
        # Where max_steps is given, Lightning enters an epoch that was over again when training is resumed, and leaves
        # the next one out. It stops after these steps all the same.
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]  # noqa: SLF001

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is not None:
            self._refuse_other_steps(trainer)
            for callback, patience in self._patience.items():
                callback.patience = patience
                # the checkpoint's fit had stopped early, which only its count of validations tells
                if callback.wait_count >= max(patience, 1):
                    what = f"{trainer.ckpt_path} stopped early: no better {callback.monitor} in {patience} validations"
                    rank_zero_info(f"{what}. A greater patience trains on")
                    trainer.should_stop = True
        # Lightning restores the loader's position when it sets the data up. A schedule that asks for the number of
        # steps has it do that before the checkpoint's loops are read, and the epoch would start again, unnoticed.
        trainer.fit_loop._load_combined_loader_states()  # noqa: SLF001

    def _refuse_other_steps(self, trainer: Trainer) -> None:
        for began, asked in [(self._began, _steps(trainer)), *zip(_settings(trainer), self._settings, strict=True)]:
            for name in sorted(asked.keys() & began):
                if began[name] != asked[name]:
                    what = f"began with {name} {began[name]}, this run has {asked[name]}"
                    remedy = "Resume with its own settings, or start a new training run"
                    raise UserError(what, where=trainer.ckpt_path, remedy=remedy)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        for schedule in _accumulation_schedules(trainer):
            # Lightning calls it at the start of an epoch only, and training may resume in the middle of one
            trainer.accumulate_grad_batches = schedule.get_accumulate_grad_batches(trainer.current_epoch)
        seed = os.environ.get("PL_GLOBAL_SEED")
        if seed is not None:
            step = [int(seed), trainer.current_epoch, batch_idx, trainer.global_rank]
            torch.manual_seed(int(np.random.SeedSequence(step).generate_state(1)[0]))
