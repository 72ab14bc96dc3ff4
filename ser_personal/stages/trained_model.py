"""A checkpoint's model: its training settings override the YAML, and the command line overrides both where it may."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ser_personal.arguments import CONFIG_FLAGS, read_configs, values_of, without
from ser_personal.encoder.module import DESCRIPTION, read_checkpoint, require_training_state
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from ser_personal.encoder.personalized import EncoderDescription

ARCHITECTURE = {"attributes", "emotions", "encoder", "final_dim", "fusion"}
ARCHITECTURE |= {f"encoder.{name}" for name in ("dim", "layers", "heads", "feed_forward_dim", "weighted_layers")}
ARCHITECTURE |= {"speakers.embedding_dim", "speakers.hidden_dims"}
REMEDY = "Give the config that the checkpoint was trained with"


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint's model, as it was configured (`class_path`, `init_args`) and as it was built (`description`)."""

    path: str
    class_path: str
    init_args: dict[str, Any]
    description: EncoderDescription

    @classmethod
    def read(cls, path: str, expected: str | None, *, resumes: bool) -> Self:
        """Read a checkpoint of the `expected` class, any if None, with what resuming needs where it `resumes`."""
        checkpoint = read_checkpoint(path)
        if resumes:
            require_training_state(checkpoint, path)
        saved = dict(checkpoint["hyper_parameters"])
        saved.pop("_instantiator", None)
        # one that was trained without the command line doesn't name its class
        guessed = "ser_personal.finetune.module.EmotionFineTuning" if "attributes" in saved else None
        kind = saved.pop("_class_path", expected or guessed)
        if kind is None:
            raise UserError("doesn't name the class of its model", where=path, remedy=REMEDY)
        if expected is not None and not _is_same(expected, kind):
            raise UserError(f"holds {_short(kind)}, the config names {_short(expected)}", where=path, remedy=REMEDY)
        return cls(path, kind, saved, checkpoint[DESCRIPTION])

    def arguments(self, command: list[str], **more: Any) -> list[str]:
        """Insert these settings, and `more` sections, between the configs and the flags of a command line."""
        stage, *rest = command
        trained = {"model": {"class_path": self.class_path, "init_args": self.init_args}, **more}
        configs = [*values_of(CONFIG_FLAGS, rest), json.dumps(trained)]
        return [stage, *(f"--config={config}" for config in configs), *without(CONFIG_FLAGS, rest)]

    def refuse_other_architecture(self, now: dict[str, Any]) -> None:
        """Refuse to change what the weights depend on; `now` is what the model is going to get, as from `leaves`."""
        saved = leaves(self.init_args)
        # what was only known in training is in the description alone, such as PAPT's fusion when fine-tuning from it
        speakers = self.description["speakers"]
        sizes = {} if speakers is None else {f"speakers.{name}": size for name, size in speakers["sizes"].items()}
        trained = {**saved, "fusion": self.description["fusion"], **sizes}
        if saved.get("lora", ...) is None:
            trained |= {name: None for name in now if name.startswith("lora.")}
        for name, value in now.items():
            fixed = name.startswith(("interpreter", "lora.")) or name in ARCHITECTURE
            if fixed and name in trained and value not in (trained[name], saved.get(name)):
                what = f"was trained with {name} {trained[name]}, not {value}"
                raise UserError(what, where=self.path, remedy=f"Leave --model.{name} out, or train a model with it")


def with_trained_model(command: list[str]) -> list[str]:
    """Add a checkpoint's model, and the data that it takes, to a command line whose configs and flags name no model."""
    stage, *rest = command
    paths = values_of(("--ckpt_path",), rest)
    named = {section for content in read_configs(rest).values() for section in content}
    named |= {argument.partition("=")[0].lstrip("-") for argument in rest} & {"model", "data"}
    if stage == "fit" or not paths or "model" in named:
        return command
    trained = TrainedModel.read(paths[-1], None, resumes=False)
    kind = _short(trained.class_path)
    data: dict[str, Any] = {"class_path": "PretrainDataModule" if kind == "PAPT" else "EmotionDataModule"}
    if kind == "EmotionClassification":
        data["init_args"] = {"target": "emotion"}
    more = {} if "data" in named else {"data": data}
    return trained.arguments(command, **more)


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a model's arguments, those of classes inside it included: `encoder.dim` -> 64."""
    named: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix if key in {"init_args", "class_path"} else f"{prefix}.{key}".lstrip(".")
        # a checkpoint keeps lists where the parser makes tuples
        plain = list(value) if isinstance(value, tuple) else value
        named |= leaves(value, name) if isinstance(value, dict) else {name: plain}
    return named


def _is_same(one: str, other: str) -> bool:
    ours = all(path.startswith("ser_personal.") for path in (one, other))
    return one == other or (ours and _short(one) == _short(other))


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]
