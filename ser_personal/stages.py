"""`ser fit | validate | test | predict`: LightningCLI, with a checkpoint that can't change the model unnoticed."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

# Imported so that their short class names work in configs.
import ser_personal.calibration.callback
import ser_personal.corpus.csv_corpus
import ser_personal.corpus.msp_podcast
import ser_personal.data.emotion_datamodule
import ser_personal.data.pretrain_datamodule
import ser_personal.encoder.stage_checkpoint
import ser_personal.encoder.tiny
import ser_personal.finetune.module
import ser_personal.pretrain.papt
import ser_personal.report.floor_callback  # noqa: F401
from ser_personal.arguments import keep_tables_whole, one_line, values_of
from ser_personal.encoder.checkpoint import read_checkpoint
from ser_personal.encoder.module import PersonalizedModule
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Parser(LightningArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(one_line(message), remedy=f"`{self.prog} --help` lists the arguments") from ex


class StageCLI(LightningCLI):
    """LightningCLI over this project's modules and datamodules, which differs in what a checkpoint may change."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Leave tables alone that are given where a class could stand."""
        keep_tables_whole(parser)

    def _parse_ckpt_path(self) -> None:
        """Read the model's arguments from the checkpoint: they win over the YAML, the command line over them.

        If the YAML won, a model trained with `--model.fusion last` would run as the shipped YAML's `first`, unnoticed.
        """
        stage = self.config["subcommand"]
        path = self.config[stage].get("ckpt_path")
        if path is None or path in {"last", "best", "hpc"}:
            return
        saved = dict(read_checkpoint(path)["hyper_parameters"])
        saved.pop("_instantiator", None)
        kind = saved.pop("_class_path", None)
        if kind is None:
            return
        asked = self.config[stage].model.class_path
        if kind != asked:
            raise UserError(
                f"holds a {kind.rpartition('.')[2]}, the config asks for a {asked.rpartition('.')[2]}",
                where=path,
                remedy="Give the config that the checkpoint was trained with",
            )
        before = dict(_leaves(self.config[stage].model.as_dict()))
        self.config = self.parser.parse_args(
            _with_config(sys.argv[1:], {"model": {"class_path": kind, "init_args": saved}})
        )
        for name, value in _leaves(self.config[stage].model.as_dict()):
            if before.get(name) != value:
                rank_zero_info(f"from {path}: model.{name} = {value} (the config had {before.get(name)})")

    def before_fit(self) -> None:
        """Spare a resumed fit the reading of weights that its checkpoint replaces."""
        self.model.starts_from_checkpoint = self.config["fit"].get("ckpt_path") is not None


def _with_config(arguments: list[str], config: dict[str, Any]) -> list[str]:
    """Put a config behind those given and before every other flag, so that it wins over the former alone."""
    stage, *rest = arguments
    paths = values_of("--config", rest) + values_of("-c", rest)
    others: list[str] = []
    skip = False
    for argument in rest:
        if skip or argument.startswith(("--config=", "-c=")):
            skip = False
        elif argument in {"--config", "-c"}:
            skip = True
        else:
            others.append(argument)
    given = [piece for path in paths for piece in ("--config", path)]
    return [stage, *given, "--config", json.dumps(config), *others]


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = prefix if key in {"init_args", "class_path"} else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from _leaves(value, name)
        else:
            yield name, value


def quieten() -> None:
    """Leave out what Lightning says on every run that no user of this project can act on."""
    warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.msg)


def run() -> StageCLI:
    """Run the stage that `sys.argv` names (not an argument: DDP starts the other processes with the same one)."""
    quieten()
    return StageCLI(
        model_class=PersonalizedModule,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults={"use_distributed_sampler": False},
        save_config_kwargs={"overwrite": True},
        parser_class=_Parser,
        parser_kwargs={"prog": "ser"},
    )
