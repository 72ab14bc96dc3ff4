"""`ser fit | validate | test | predict`: LightningCLI, with a checkpoint that can't change the model unnoticed."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

import ser_personal.calibration.callback
import ser_personal.corpus.csv_corpus
import ser_personal.corpus.msp_podcast
import ser_personal.data.emotion
import ser_personal.data.pretrain
import ser_personal.data.speaker_features
import ser_personal.encoder.cached
import ser_personal.encoder.hubert
import ser_personal.encoder.raw
import ser_personal.finetune.adversary
import ser_personal.finetune.classification
import ser_personal.finetune.interpreters
import ser_personal.finetune.losses
import ser_personal.finetune.module
import ser_personal.finetune.similar_speakers
import ser_personal.pretrain.adapt
import ser_personal.pretrain.papt
import ser_personal.report.baseline
import ser_personal.report.cost
import ser_personal.speakers.features
import ser_personal.training.checkpoints
from ser_personal.calibration.callback import EmotionPredictionWriter, EmotionTestWriter, PredictionWriter
from ser_personal.cli import OneLineErrors
from ser_personal.encoder.module import UNFIT, PersonalizedModule, unfit
from ser_personal.errors import UserError, require_range
from ser_personal.finetune.classification import EmotionClassification
from ser_personal.stages.trained_model import TrainedModel, leaves
from ser_personal.training.checkpoints import ExactResumption, Interrupted, WholeCheckpoints
from ser_personal.training.interruption import (
    LAST,
    BadLoss,
    Interruption,
    command_to_go_on,
    newest_checkpoint,
    requeue,
    trainer_for_tasks,
    was_requeued,
)

LIGHTNINGS_LARGEST_SEED = 2**32 - 1
RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector"


class _Parser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's parser, whose errors are one line."""


class StageCLI(LightningCLI):
    """LightningCLI over this project's modules and datamodules, which differs in what a checkpoint may change."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let `--bad_loss` say what a bad loss does; leave tables alone that are given where a class could stand."""
        parser.add_lightning_class_args(BadLoss, "bad_loss")
        _keep_tables_whole(parser)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave `--weights_only` out: nothing in a checkpoint is ever run."""
        return {name: {*skipped, "weights_only"} for name, skipped in LightningCLI.subcommands().items()}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def _set_seed(self) -> None:
        seed = self.config[self.config["subcommand"]]["seed_everything"]
        if not isinstance(seed, bool):
            require_range("--seed_everything", seed, 0, LIGHTNINGS_LARGEST_SEED)
        super()._set_seed()

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except UNFIT as error:
            path = self.config[subcommand].get("ckpt_path")
            if path is not None and _while_restoring(error):
                raise unfit(path, error) from error
            raise

    def instantiate_classes(self) -> None:
        """Have checkpoints hold the classes inside the model, too: modules can't be saved as arguments, these can."""
        super().instantiate_classes()
        arguments = self.config[self.config["subcommand"]].model.init_args.as_dict()
        saved = self.model.hparams
        saved.update({name: value for name, value in arguments.items() if name not in saved})

    def _parse_ckpt_path(self) -> None:
        """Read the model's arguments from the checkpoint: they win over the YAML, the command line over them.

        If the YAML won, a model trained with `--model.fusion last` would run as the shipped YAML's `first`, unnoticed.
        """
        stage = self.config["subcommand"]
        path = self._checkpoint_to_read()
        self.config[stage]["ckpt_path"] = path
        if path is None:
            return
        trained = TrainedModel.read(path, self.config[stage].model.class_path, resumes=stage == "fit")
        before = leaves(self.config[stage].model.as_dict())
        try:
            self.config = self.parser.parse_args(trained.arguments(sys.argv[1:]))
        except UserError as error:
            raise trained.misfit(error) from error
        self.config[stage]["ckpt_path"] = path
        now = leaves(self.config[stage].model.as_dict())
        trained.refuse_other_architecture(now)
        for name, value in now.items():
            if before.get(name) != value:
                rank_zero_info(f"from {path}: model.{name} = {value} (the config had {before.get(name)})")

    def _checkpoint_to_read(self) -> str | None:
        """Find the checkpoint that is asked for; `last`, or a job that SLURM runs again, means the newest of a fit."""
        stage = self.config["subcommand"]
        path: str | None = self.config[stage].get("ckpt_path")
        if stage != "fit" or (path != LAST and not (path is None and was_requeued())):
            return path
        newest = newest_checkpoint(self.config[stage].trainer.as_dict())
        rank_zero_info("No checkpoint to go on from: starting afresh" if newest is None else f"Going on from {newest}")
        return None if newest is None else str(newest)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, which writes checkpoints whole.

        Raises:
            UserError: Lightning knows no such accelerator, strategy or number of devices, or lacks a package for it, or
                SLURM has other tasks.
        """
        try:
            trainer = trainer_for_tasks(partial(super().instantiate_trainer, **kwargs))
        except (ValueError, ModuleNotFoundError) as error:
            stage = f"ser {self.config['subcommand']}"
            remedy = f"`{stage} --help` lists the arguments under --trainer"
            raise UserError(str(error).rstrip("."), where=stage, remedy=remedy) from error
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        return trainer

    def before_predict(self) -> None:
        """Have predictions written down."""
        writes_emotions = isinstance(self.model, EmotionClassification)
        writer = EmotionPredictionWriter() if writes_emotions else PredictionWriter()
        self.trainer.callbacks.append(writer)  # type: ignore[attr-defined]

    def before_test(self) -> None:
        """Have a test of categorical emotion written down; that of attributes is by configs/pldc.yaml."""
        if isinstance(self.model, EmotionClassification):
            self.trainer.callbacks.append(EmotionTestWriter())  # type: ignore[attr-defined]

    def before_fit(self) -> None:
        """Spare a resumed fit the reading of weights that its checkpoint replaces.

        Raises:
            UserError: an argument is out of its range, or random weights would be adapted to speakers.
        """
        _refuse_adapting_nothing(self.config["fit"])
        require_range("--trainer.accumulate_grad_batches", self.trainer.accumulate_grad_batches, 1)
        if self.trainer.check_val_every_n_epoch is not None:
            require_range("--trainer.check_val_every_n_epoch", self.trainer.check_val_every_n_epoch, 1)
        self.model.starts_from_checkpoint = self.config["fit"].get("ckpt_path") is not None

    def fit(self, **arguments: Any) -> None:
        """Train; where a signal ends that, say how to go on.

        Raises:
            SystemExit: with 128 and the signal's number, on a device's own process with 0.
        """
        try:
            self.trainer.fit(**arguments)
        except Interrupted as stop:
            # Lightning kills the first process where another one ends with anything else
            if not self.trainer.is_global_zero:
                raise SystemExit(0) from stop
            _say_how_to_go_on(stop, self.trainer)
            if stop.signal == signal.SIGUSR1:
                requeue()
            raise


def _refuse_adapting_nothing(config: Any) -> None:
    if config.data.init_args.get("adaptation") and config.model.init_args.get("initial_checkpoint") is None:
        raise UserError(
            "adapts a fine-tuned model, and none is given",
            where="--data.adaptation",
            remedy="Give --model.initial_checkpoint, such as finetune.ckpt, or --data.adaptation null for everyone",
        )


def _say_how_to_go_on(stop: Interrupted, trainer: Trainer) -> None:
    newest = getattr(trainer.checkpoint_callback, "last_model_path", "")
    if newest:
        here = Path(os.path.relpath(newest))
        saved = f"{here} holds it. Go on with: {command_to_go_on(sys.argv[1:], here)}"
    else:
        saved = "no callback of the config saves it"
    sys.stderr.write(f"ser: stopped by {stop.signal.name} after step {trainer.global_step}; {saved}\n")


def _while_restoring(error: BaseException) -> bool:
    """Whether Lightning was putting a checkpoint's content to use when it failed."""
    return any(
        frame.f_globals["__name__"] == RESTORING and frame.f_code.co_name.lstrip("_").startswith(("restore", "resume"))
        for frame, _ in walk_tb(error.__traceback__)
    )


def _by_lightning(error: BaseException) -> bool:
    """Whether the line that raised an error is Lightning's own."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals["__name__"]).startswith("lightning.")


def _keep_tables_whole(parser: LightningArgumentParser) -> None:
    """Stop jsonargparse from taking an existing corpus.csv for a config file and passing on its text."""
    for action in parser._actions:  # noqa: SLF001
        kwargs = getattr(action, "sub_add_kwargs", None)
        if kwargs is not None:
            kwargs["sub_configs"] = False


def run() -> StageCLI:
    """Run the stage that `sys.argv` names (not an argument: DDP starts the other processes with the same one).

    Raises:
        UserError: Lightning refuses the combination of arguments.
    """
    try:
        return _run()
    except (MisconfigurationException, ValueError) as error:
        # it refuses some arguments by plain errors
        if not _by_lightning(error):
            raise
        stage = f"ser {sys.argv[1]}"
        raise UserError(
            str(error).strip().rstrip("."), where=stage, remedy=f"`{stage} --help` lists the arguments"
        ) from error


def _run() -> StageCLI:
    return StageCLI(
        model_class=PersonalizedModule,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults={"use_distributed_sampler": False, "callbacks": [ExactResumption(), Interruption()]},
        save_config_kwargs={"overwrite": True},
        parser_class=_Parser,
        parser_kwargs={"prog": "ser"},
    )


# ruff: noqa: F401
