"""A checkpoint's model: what it was trained with wins over the YAML, and the command line over that where it may."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ser_personal.cli import CONFIG_FLAGS, values_of
from ser_personal.encoder.module import DESCRIPTION, read_checkpoint, require_training_state
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ser_personal.encoder.personalized import EncoderDescription

ARCHITECTURE = {
    "adversary.hidden_dim",
    "attributes",
    "emotions",
    "encoder",
    "encoder.dim",
    "encoder.layers",
    "encoder.heads",
    "encoder.feed_forward_dim",
    "encoder.num_mels",
    "final_dim",
    "fusion",
    "speakers.embedding_dim",
    "speakers.hidden_dims",
}
_REMEDY = "Give the config that the checkpoint was trained with"


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint's model, as it was configured and as it was built.

    Attributes:
        path: of the checkpoint.
        class_path: names the LightningModule.
        init_args: its arguments.
        description: of encoder and speakers.
    """

    path: str
    class_path: str
    init_args: dict[str, Any]
    description: EncoderDescription

    @classmethod
    def read(cls, path: str, asked: str, *, resumes: bool) -> Self:
        """Read a checkpoint.

        Args:
            path: of the checkpoint.
            asked: the class that the config names.
            resumes: whether a fit is to go on from it.

        Raises:
            UserError: it can't be read, is of another class, or holds too little for a fit to go on from.
        """
        checkpoint = read_checkpoint(path)
        if resumes:
            require_training_state(checkpoint, path)
        saved = dict(checkpoint["hyper_parameters"])
        saved.pop("_instantiator", None)
        # one that was trained without the command line doesn't name its class
        kind = saved.pop("_class_path", asked)
        if kind != asked:
            raise UserError(
                f"holds {_short(kind)}, the config asks for {_short(asked)}",
                where=path,
                remedy=_REMEDY,
            )
        return cls(path, kind, saved, checkpoint[DESCRIPTION])

    def arguments(self, given: list[str]) -> list[str]:
        """Put the settings behind the configs of a command line and before every other flag: they win over the former.

        Args:
            given: the stage and its arguments.
        """
        stage, *rest = given
        others: list[str] = []
        skip = False
        for argument in rest:
            if skip or argument.partition("=")[0] in CONFIG_FLAGS:
                skip = argument in CONFIG_FLAGS
            else:
                others.append(argument)
        configs = [piece for path in values_of(CONFIG_FLAGS, rest) for piece in ("--config", path)]
        trained = {"model": {"class_path": self.class_path, "init_args": self.init_args}}
        return [stage, *configs, "--config", json.dumps(trained), *others]

    def misfit(self, error: UserError) -> UserError:
        """Say of settings that the parser refused that they are the checkpoint's."""
        return UserError(
            f"holds settings that aren't those of {_short(self.class_path)} ({error.what})",
            where=self.path,
            remedy=_REMEDY,
        )

    def refuse_other_architecture(self, now: dict[str, Any]) -> None:
        """Refuse what the command line can't change of a trained model: its weights would be read as something else.

        Args:
            now: name -> value that the model is going to get, as `leaves` gives them.

        Raises:
            UserError: a value differs from what was trained.
        """
        saved = leaves(self.init_args)
        # what training found out stands in the description alone: PAPT's fusion, say, when fine-tuning from it
        speakers = self.description["speakers"]
        sizes = {} if speakers is None else {f"speakers.{name}": size for name, size in speakers["sizes"].items()}
        found = {"fusion": self.description["fusion"], **sizes}
        trained = {**saved, **found}
        for name, value in now.items():
            fixed = name.startswith("interpreter") or name in ARCHITECTURE
            if fixed and name in trained and value not in (trained[name], saved.get(name)):
                raise UserError(
                    f"was trained with {name} {trained[name]}, not {value}",
                    where=self.path,
                    remedy=f"Leave --model.{name} out, or train a model with it",
                )


def leaves(arguments: dict[str, Any]) -> dict[str, Any]:
    """Flatten a model's arguments, those of classes inside it included: `encoder.dim` -> 64."""
    return dict(_leaves(arguments, ""))


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = prefix if key in {"init_args", "class_path"} else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from _leaves(value, name)
        else:
            # a checkpoint keeps lists where the parser makes tuples
            yield name, list(value) if isinstance(value, tuple) else value


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]
