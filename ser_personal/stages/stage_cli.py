"""`ser fit | validate | test | predict`: LightningCLI, with a checkpoint that can't change the model unnoticed."""

# ruff: noqa: F401 (what is imported here has a short name on the command line)

import os
import re
import shlex
import sys
import warnings
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from time import perf_counter
from traceback import walk_tb
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback, _InstantiatorFn
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

import ser_personal.comparison.cost
import ser_personal.data.pretrain
import ser_personal.data.speaker_features
import ser_personal.evaluation.pldc_callback
import ser_personal.finetune.module
import ser_personal.finetune.similar_speakers
import ser_personal.pretrain.papt
import ser_personal.report.baseline
import ser_personal.speakers.features
from ser_personal.arguments import VERBOSE, OneLineErrors, make, making
from ser_personal.calibration.table import decimal
from ser_personal.cli import find_user_error
from ser_personal.encoder.base import MISMATCHES
from ser_personal.encoder.module import PersonalizedModule, checkpoint_mismatch, read_checkpoint
from ser_personal.errors import UserError, counted, require_range
from ser_personal.evaluation.prediction_collector import PredictionCollector, PredictionWriter, run_folder
from ser_personal.files import atomic_write
from ser_personal.finetune.classification import EmotionClassification
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.stages.trained_model import REMEDY, TrainedModel, leaves, with_trained_model
from ser_personal.training.checkpoints import AtomicCheckpoints, ExactResumption, Interrupted, StageCheckpoint
from ser_personal.training.interruption import FiniteLoss, Interruption, KnownMonitors, refuse_other_tasks

RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector"
# callbacks of Lightning that change weights, rates or batches, unknown to the schedule and the checkpoints
UNSUPPORTED = (BatchSizeFinder, LearningRateFinder, ModelPruning, StochasticWeightAveraging, WeightAveraging)


class _Parser(OneLineErrors, LightningArgumentParser):
    pass


class RunConfig(SaveConfigCallback):
    """Writes config.yaml to the run's folder."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # called on every device
        run_folder(trainer)
        super().setup(trainer, pl_module, stage)

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        atomic_write(run_folder(trainer) / "config.yaml", self.parser.dump(self.config, skip_none=False).encode())


class EpochLines(Callback):
    """Prints a line per validation where there is no progress bar, as in a log file."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = perf_counter()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        monitor = getattr(trainer.checkpoint_callback, "monitor", None)
        score = trainer.callback_metrics.get(str(monitor))
        silent = trainer.progress_bar_callback is not None or trainer.sanity_checking or trainer.state.fn != "fit"
        if trainer.is_global_zero and score is not None and not silent:
            last = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
            seconds = f"{perf_counter() - self._started:.0f} s"
            print(f"epoch {trainer.current_epoch + 1}{last}: {monitor} {decimal(float(score))}, {seconds}", flush=True)


class _NamedInstantiator(_InstantiatorFn):
    """Lightning's own, which keeps a model's arguments, with the class in what it raises."""

    @override
    def __call__(self, class_type: type[Any], *args: Any, applied_instantiation_links: Any, **kwargs: Any) -> Any:
        # raises where an argument can't be saved, which isn't the model's fault
        self.cli._dump_config()  # noqa: SLF001
        with making(class_type):
            return super().__call__(
                class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs
            )


class StageCLI(LightningCLI):
    """LightningCLI over this project's modules and datamodules, which differs in what a checkpoint may change."""

    def __init__(self, *, args: list[str], **settings: Any) -> None:
        self._stage = args[0]
        super().__init__(args=args, **settings)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # else jsonargparse takes an existing corpus.csv for a config file and passes on its text
        for action in parser._actions:  # noqa: SLF001
            getattr(action, "sub_add_kwargs", {})["sub_configs"] = False

    @override
    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.add_argument(VERBOSE, action="store_true", help="show what Lightning says, too")
        parser.add_argument("--wandb", type=str | None, metavar="PROJECT", help="log to this project of W&B")
        if subcommand == "fit":
            parser.add_argument("--replace", action="store_true", help="replace the model of an earlier training run")
        return parser

    @override
    def before_instantiate_classes(self) -> None:
        # options of this call, which the saved config must not hold
        asked = self.config[self.config["subcommand"]]
        asked.pop("verbose")
        self._replace = asked.pop("replace", False)
        project = asked.pop("wandb")
        if project is not None:
            if find_spec("wandb") is None:
                remedy = "`pip install 'ser_personal[wandb]'`, or leave it out for TensorBoard"
                raise UserError("the package wandb isn't installed", where=f"--wandb {project}", remedy=remedy)
            kind = "lightning.pytorch.loggers.WandbLogger"
            asked.trainer.logger = Namespace(class_path=kind, init_args=Namespace(project=project))

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:  # type: ignore[override]
        # Lightning's own warns that a command line has arguments, too
        self.arguments = with_trained_model(args)
        self.config = parser.parse_args(self.arguments)

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        # nothing in a checkpoint is ever run, results are printed here, and other stages' parsers would take their time
        return {self._stage: LightningCLI.subcommands()[self._stage] | {"weights_only", "verbose"}}

    @override
    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        quiet = {"verbose": False} if subcommand in {"validate", "test"} else {}
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True, **quiet}

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except (*MISMATCHES, ImportError) as error:
            path = self.config[subcommand].get("ckpt_path")
            of_machine = isinstance(error, OSError | torch.OutOfMemoryError)
            if path is None or of_machine or not _while_restoring(error):
                raise
            raise checkpoint_mismatch(path, error) from error

    @override
    def _add_instantiators(self) -> None:
        super()._add_instantiators()
        # the first that matches is used
        self.parser.add_instantiator(_NamedInstantiator(self, "model"), PersonalizedModule)
        self.parser.add_instantiator(_NamedInstantiator(self, "data"), LightningDataModule)
        self.parser.add_instantiator(make, object)

    @override
    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        # checkpoints name the classes inside the model, too: modules can't be saved as arguments, these can
        saved = self.model.hparams
        arguments = self.config_dump["model"]["init_args"]
        saved.update({name: value for name, value in arguments.items() if name not in saved})
        for logger in self.trainer.loggers if self.trainer.is_global_zero else ():
            # Lightning deletes the log of an earlier run in its folder
            if isinstance(logger, CSVLogger) and (log := Path(logger.log_dir) / "metrics.csv").exists():
                names = (log.with_name(f"metrics.{number}.csv") for number in count(1))
                log.rename(next(name for name in names if not name.exists()))

    @override
    def _parse_ckpt_path(self) -> None:
        """Read the model's arguments from the checkpoint: they override the YAML, and the command line overrides them.

        If the YAML overrode it, a model trained with `--model.fusion first` would run as papt.yaml's `last`, unnoticed.
        """
        stage = self.config["subcommand"]
        path = self.config[stage].get("ckpt_path")
        self._may_overwrite = False
        if stage == "fit" and path == "last":
            trainer = self.config[stage].trainer.as_dict()
            path = next(map(str, _stage_checkpoints(trainer, "-last")), None)
            if path is None:
                rank_zero_info("No checkpoint to resume: a new training run")
                # only the model of a run that was killed in its first epoch may be overwritten
                earlier = map(read_checkpoint, _stage_checkpoints(trainer))
                self._may_overwrite = all(model.get("epoch") == 0 for model in earlier)
        self.config[stage]["ckpt_path"] = path
        if path is None:
            return
        if stage != "fit":
            # callbacks of training, which a test has no use for
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks")
        trained = TrainedModel.read(path, self.config[stage].model.class_path, resumes=stage == "fit")
        before = leaves(self.config[stage].model.as_dict())
        try:
            self.config = self.parser.parse_args(trained.arguments(self.arguments))
        except UserError as error:
            what = f"holds settings that aren't those of {trained.class_path.rpartition('.')[2]} ({error.what})"
            raise UserError(what, where=path, remedy=REMEDY) from error
        self.config[stage]["ckpt_path"] = path
        now = leaves(self.config[stage].model.as_dict())
        trained.refuse_other_architecture(now)
        for name, value in now.items():
            if before.get(name) != value:
                rank_zero_info(f"from {path}: model.{name} = {value} (the config had {before.get(name)})")

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        refuse_other_tasks(trainer)
        if trainer.precision in {"bf16-true", "16-true"}:
            what = "weights in half precision lose the steps of training, and some features can't be computed in it"
            remedy = f"Give --trainer.precision {trainer.precision.replace('true', 'mixed')}"
            raise UserError(what, where=f"--trainer.precision {trainer.precision}", remedy=remedy)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpoints()
        return trainer

    def before_predict(self) -> None:
        """Have predictions written."""
        self.trainer.callbacks.append(PredictionWriter())  # type: ignore[attr-defined]

    def before_test(self) -> None:
        """Have the test written, where no callback of the config does."""
        written = any(isinstance(each, PredictionCollector) for each in self.trainer.callbacks)  # type: ignore[attr-defined]
        if isinstance(self.model, EmotionClassification | EmotionFineTuning) and not written:
            self.before_predict()

    def after_validate(self) -> None:
        """Print what validation found."""
        if self.trainer.is_global_zero:
            found = {name: float(value) for name, value in sorted(self.trainer.callback_metrics.items())}
            for name, value in found.items():
                print(f"{name:<{max(map(len, found))}}  {f'{value:.0f}' if value.is_integer() else decimal(value)}")

    def after_test(self) -> None:
        """Print what the test found, where no table says it."""
        if not isinstance(self.model, EmotionFineTuning):
            self.after_validate()

    def before_fit(self) -> None:
        """Refuse what Lightning would accept; resumed training needn't load weights that its checkpoint replaces."""
        config, trainer = self.config["fit"], self.trainer
        if config.data.init_args.get("speaker_selection") and config.model.init_args.get("initial_checkpoint") is None:
            what = "adapts a fine-tuned model, and there is none"
            remedy = "Give --model.initial_checkpoint finetune.ckpt, or --data.speaker_selection null for everyone"
            raise UserError(what, where="--data.speaker_selection", remedy=remedy)
        if config.trainer.sync_batchnorm and trainer.strategy.root_device.type != "cuda":
            remedy = "Leave it out: MLPInterpreter's batch norm counts all devices' utterances without it"
            raise UserError("is torch's for GPUs alone", where="--trainer.sync_batchnorm true", remedy=remedy)
        # a job queued again resumes from what Lightning saved for it
        queued_again = next(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"), None)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, UNSUPPORTED):
                what = "changes weights, rates or batches in a way that the schedule and the checkpoints don't follow"
                remedy = "Leave it out; rates are --model.learning_rate, batches --data.max_batch"
                raise UserError(what, where=f"--trainer.callbacks {type(callback).__name__}", remedy=remedy)
            if isinstance(callback, StageCheckpoint):
                callback.replace = self._replace or self._may_overwrite
                # before a logger begins a run
                callback.refuse_earlier(trainer, config.get("ckpt_path") or queued_again)
        # Lightning adds a checkpoint callback without a monitor where there is none
        keeps = any(getattr(each, "monitor", None) is not None for each in trainer.checkpoint_callbacks)
        if not (keeps or config.trainer.enable_checkpointing is False or trainer.fast_dev_run):  # type: ignore[attr-defined]
            what = "StageCheckpoint isn't among the callbacks, so that no model would be saved"
            remedy = "Append yours by --trainer.callbacks+, or save none with --trainer.enable_checkpointing false"
            raise UserError(what, where="--trainer.callbacks", remedy=remedy)
        require_range("--trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, 1)
        if trainer.check_val_every_n_epoch is not None:
            require_range("--trainer.check_val_every_n_epoch", trainer.check_val_every_n_epoch, 1)
        self.model.is_resumed = config.get("ckpt_path") is not None

    def fit(self, **arguments: Any) -> None:
        """Train; where a signal ends that, print the command that resumes it, and exit by 128 and its number."""
        try:
            self.trainer.fit(**arguments)
        except Interrupted as stop:
            # Lightning kills the first process where another one ends with anything else
            if not self.trainer.is_global_zero:
                raise SystemExit(0) from stop
            newest = getattr(self.trainer.checkpoint_callback, "last_model_path", "")
            saved = "no callback of the config saves it"
            if newest:
                path = os.path.relpath(newest)
                command = shlex.join(["ser", *self.arguments, "--ckpt_path", path])
                saved = f"saved as {path}. Resume with: {command}"
            sys.stderr.write(f"ser: stopped by {stop.signal.name} after step {self.trainer.global_step}; {saved}\n")
            raise
        if self.trainer.is_global_zero:
            epochs = counted(self.trainer.current_epoch, "epoch")
            # no step has logged anything
            if not self.trainer.callback_metrics:
                print(f"nothing was left to train after {epochs}")
            for each in self.trainer.checkpoint_callbacks:
                if isinstance(each, StageCheckpoint) and each.best_model_score is not None:
                    score = f"{each.monitor} {decimal(float(each.best_model_score))}"
                    best = f"{os.path.relpath(each.best_model_path)}, {score}"
                    written = f"written: {best}, the best of {epochs}"
                    print(written if each.has_written_best else f"the best model is still {best}")
            # later training in this folder would resume from what Lightning saved for a job queued again
            for saved_for_slurm in Path(self.trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"):
                saved_for_slurm.unlink()


def _stage_checkpoints(trainer: dict[str, Any], ending: str = "") -> list[Path]:
    folder = Path(trainer.get("default_root_dir") or ".")
    callbacks = [callback for callback in trainer.get("callbacks") or [] if "StageCheckpoint" in callback["class_path"]]
    paths = [folder / f"{callback['init_args']['name']}{ending}.ckpt" for callback in callbacks]
    return [path for path in paths if path.is_file()]


def _while_restoring(error: BaseException) -> bool:
    return any(
        frame.f_globals["__name__"] == RESTORING and frame.f_code.co_name.lstrip("_").startswith(("restore", "resume"))
        for frame, _ in walk_tb(error.__traceback__)
    )


def _at_fault(error: BaseException) -> str | None:
    """The callback or logger of Lightning's own inside which an error was raised, unless in our code that it called."""
    flag = None
    for frame, _ in walk_tb(error.__traceback__):
        module, kind = str(frame.f_globals["__name__"]), type(frame.f_locals.get("self"))
        part = re.match(r"lightning\.pytorch\.(callbacks|loggers)\.", module)
        if part is not None and kind.__module__.startswith("lightning."):
            flag = f"--trainer.{part[1].replace('loggers', 'logger')} {kind.__name__}"
        elif module.startswith("ser_personal."):
            flag = None
    return flag


def run(arguments: list[str]) -> StageCLI:
    """Run a stage: its name and its flags (DDP starts the other processes by `sys.argv`)."""
    try:
        return StageCLI(
            args=arguments,
            model_class=PersonalizedModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={
                "use_distributed_sampler": False,
                "enable_model_summary": VERBOSE in arguments,
                "enable_progress_bar": sys.stdout.isatty(),
                "callbacks": [ExactResumption(), Interruption(), FiniteLoss(), KnownMonitors(), EpochLines()],
            },
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=_Parser,
            parser_kwargs={"prog": "ser"},
        )
    except Exception as error:
        # Lightning refuses some arguments by plain errors: an accelerator without its package, a callback given twice
        *_, (frame, _) = walk_tb(error.__traceback__)
        theirs = str(frame.f_globals["__name__"]).startswith(("lightning.", "jsonargparse."))
        refusal = isinstance(error, (MisconfigurationException, ValueError, RuntimeError, ModuleNotFoundError))
        at_fault = _at_fault(error)
        if find_user_error(error) is not None or not (at_fault or (theirs and refusal)):
            raise
        what = " ".join(str(error).split())[:400].rstrip(".")
        if at_fault:
            remedy = "Leave it out, or give what it asks for"
            raise UserError(f"doesn't work with this run ({what})", where=at_fault, remedy=remedy) from error
        stage = f"ser {arguments[0]}"
        raise UserError(what, where=stage, remedy=f"`{stage} --help` lists the arguments") from error
