"""What the LightningModules of PAPT and fine-tuning share: a personalised encoder that a checkpoint can rebuild."""

from __future__ import annotations

import json
import sys
from abc import abstractmethod
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from math import isinf
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast
from zipfile import is_zipfile

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from ser_personal.encoder.base import MISMATCHES
from ser_personal.errors import UserError, counted
from ser_personal.speakers.unseen import UnseenPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch.optim import Optimizer

    from ser_personal.encoder.personalized import EncoderDescription, PersonalizedEncoder
    from ser_personal.types import TrainingSet

DESCRIPTION = "personalized_encoder"
# in the checkpoint of a fine-tuned model: the utterances whose labels it was trained on, as `pack_hashes` has them
TRAINED_ON = "trained_on"
# with which the names of the personalised encoder's weights begin in a module's
ENCODER_KEYS = "personalized."
SAME_NAMES = "--model.speakers SpeakerEmbedding --model.speakers.same_names true"
_PARTS = (UnseenPolicy, torch.nn.Module)
Part = TypeVar("Part")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this project; anything else is a UserError."""
    remedy = "Give a checkpoint written by `ser fit`, such as papt.ckpt"
    if not Path(path).is_file():
        raise UserError("no such checkpoint", where=path, remedy=remedy)
    # What isn't a zip file would go to torch's old unpickler, which fails on junk in a dozen ways.
    if not is_zipfile(path):
        raise UserError("is truncated or no checkpoint", where=path, remedy=remedy)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, UnpicklingError) as error:
        raise UserError("is damaged, or holds more than weights and settings", where=path, remedy=remedy) from error
    for part in (DESCRIPTION, "state_dict", "hyper_parameters"):
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(part), dict):
            raise UserError(f"isn't a checkpoint of ser_personal, without {part}", where=path, remedy=remedy)
    return cast("dict[str, Any]", checkpoint)


def require_training_state(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Refuse to resume a fit from weights alone: it would start again, unnoticed."""
    if not {"optimizer_states", "lr_schedulers", "loops"} <= {*checkpoint} or not checkpoint["optimizer_states"]:
        remedy = "Give the newest checkpoint of the fit, such as papt-last.ckpt, or start a new training run"
        raise UserError("holds weights alone, so no fit can be resumed from it", where=path, remedy=remedy)


@contextmanager
def naming_checkpoint(path: object) -> Iterator[None]:
    """Name the checkpoint in the error where its description or weights don't fit the networks."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except MISMATCHES as error:
        raise checkpoint_mismatch(path, error) from error


def checkpoint_mismatch(path: object, error: Exception) -> UserError:
    """Say in one line what doesn't fit in a checkpoint."""
    what = f"is damaged, or was written by another version ({type(error).__name__}: {str(error)[:300]})"
    return UserError(what, where=path, remedy="Give a complete checkpoint that this version's `ser fit` wrote")


def linear_warmup_and_decay(optimizer: Optimizer, total_steps: float, warmup_share: float) -> LambdaLR:
    """Raise each group's rate linearly to its peak over a share of all steps, then lower it to 0 over the rest."""
    if isinf(total_steps):
        what, remedy = "the learning rate falls until the end of the fit", "Give max_epochs or max_steps"
        raise UserError(what, where="--trainer.max_epochs", remedy=remedy)
    warmup = max(1, round(total_steps * warmup_share))

    def scale(step: int) -> float:
        return min((step + 1) / warmup, max(0.0, (total_steps - step) / max(1, total_steps - warmup)))

    return LambdaLR(optimizer, scale)


class PersonalizedModule(LightningModule):
    """Builds its networks when a fit begins, or as its checkpoint describes them, without hub or other files."""

    # arguments that a checkpoint names by class and arguments, beside the speakers
    parts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, personalized: PersonalizedEncoder) -> None:
        super().__init__()
        self.personalized = personalized
        # set where a fit is resumed: pre-trained weights aren't read only to be replaced
        self.is_resumed = False

    @abstractmethod
    def build(self, training_set: TrainingSet) -> None:
        """Make all networks for a new training run."""

    @abstractmethod
    def rebuild(self, checkpoint: dict[str, Any]) -> None:
        """Make the networks other than the encoder in the shape of the checkpoint's."""

    @override
    def configure_model(self) -> None:
        if self._trainer is None or self.personalized.is_built or self.is_resumed:
            return
        if self.trainer.state.fn == TrainerFn.FITTING:
            if self.training_set is None:
                what, remedy = "needs the datamodule", "Pass it: trainer.fit(model, datamodule=...), no loaders"
                raise UserError(what, where=type(self).__name__, remedy=remedy)
            # Lightning calls this under the training device, which transformers would load the weights to by way of
            # a package of its own; all devices get the finished networks instead.
            try:
                with torch.device("cpu"):
                    self.build(self.training_set)
            except UserError:
                # else the next fit of this object would take random weights for built ones
                self.personalized.fusion = None
                raise

    def adamw(self, groups: Iterable[Any], warmup_share: float | None, **settings: Any) -> OptimizerLRScheduler:
        """Make AdamW of what learns, at a constant rate or with linear warm-up and decay over the fit's steps."""
        learning = [group | {"params": [each for each in group["params"] if each.requires_grad]} for group in groups]
        optimizer = AdamW([group for group in learning if group["params"]], **settings)
        if warmup_share is None:
            return optimizer
        schedule = linear_warmup_and_decay(optimizer, self.trainer.estimated_stepping_batches, warmup_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def training_set(self) -> TrainingSet:
        """The trainer's datamodule, for what a fit needs to know of its training speakers."""
        return cast("TrainingSet", self.trainer.datamodule)  # type: ignore[attr-defined]

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[DESCRIPTION] = dict(self.personalized.describe())
        for name in self.personalized.encoder.weights_found_again():
            checkpoint["state_dict"].pop(f"{ENCODER_KEYS}encoder.{name}", None)
        # paths as text and other libraries' numbers as Python's, as `weights_only` can load them
        for key in ("hyper_parameters", "datamodule_hyper_parameters"):
            if key in checkpoint:
                checkpoint[key] = json.loads(json.dumps(checkpoint[key], default=_plain))
        if "_instantiator" not in checkpoint["hyper_parameters"]:
            checkpoint["hyper_parameters"] |= self._arguments_in_python()

    def _arguments_in_python(self) -> dict[str, Any]:
        kept: dict[str, Any] = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
        # other programs can't import a class of a script or notebook: it has to be passed
        if type(self).__module__ != "__main__":
            kept["_class_path"] = f"{type(self).__module__}.{type(self).__qualname__}"
        parts = {"speakers": self.personalized.speakers} | {name: getattr(self, name) for name in self.parts}
        for name, part in parts.items():
            try:
                if type(part).__module__ != "__main__":
                    kept[name] = describe_part(part)
            except UserError as error:
                rank_zero_warn(f"The checkpoint lacks {name} ({error.where} {error.what}): pass it to what loads it")
        return kept

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        description: EncoderDescription | None = checkpoint.get(DESCRIPTION)
        if description is None:
            raise UserError("isn't one of ser_personal", where="the checkpoint", remedy="Give one written by `ser fit`")
        if not self.personalized.is_built or self.personalized.describe() != description:
            self.personalized.rebuild(description)
            self.rebuild(checkpoint)
        if self._trainer is not None:
            self._leave_out_namesakes()

    @override
    def setup(self, stage: str) -> None:
        # of a test without a checkpoint, or another fit, as in a notebook
        if self.personalized.is_built:
            self._leave_out_namesakes()
            if stage == "fit" and self.training_set is not None:
                self.check_training_set(self.training_set)

    def check_training_set(self, training_set: TrainingSet) -> None:
        """Refuse data with speakers whose ids are in the table, but none of whose audio e_s was learnt on."""
        if namesakes := self._namesakes(training_set):
            remedy = f"Rename them if they are other people; if they are the same, give {SAME_NAMES}"
            raise UserError(f"has {_named_alike(namesakes)}", where="the corpus", remedy=remedy)

    def _leave_out_namesakes(self) -> None:
        # an earlier test of this object may have left some out
        is_evaluated = self.trainer.state.fn != TrainerFn.FITTING and self.training_set is not None
        namesakes = self._namesakes(self.training_set) if is_evaluated else []
        self.personalized.speakers.namesakes = frozenset(namesakes)
        if namesakes:
            rank_zero_info(
                f"{_named_alike(namesakes)}: taken for other people, so unseen ({SAME_NAMES} takes them for the same)"
            )

    def _namesakes(self, training_set: TrainingSet) -> list[str]:
        """Ids of the embedding table that this data has too, with none of the audio that e_s was learnt on: others."""
        speakers = self.personalized.speakers
        if speakers.same_names or not speakers.ids:
            return []
        hashes = training_set.hashes_of_speakers
        return [id_ for id_ in speakers.ids if id_ in hashes and not hashes[id_] & self.personalized.pretrained_on]


def _named_alike(namesakes: list[str]) -> str:
    who = counted(len(namesakes), "speaker")
    return f"{who} (first {namesakes[0]}) named like speakers of the model, but with other audio"


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)


def describe_part(part: object) -> dict[str, Any]:
    """Class path and arguments of a part of the network, which keeps its arguments under their own names."""
    kind = type(part)
    # a module without an __init__ has torch's, of any arguments
    names = [] if kind.__init__ is torch.nn.Module.__init__ else list(signature(kind).parameters)
    arguments = {}
    for name in names:
        value = getattr(part, name, ...)
        # a layer of torch's is made of an argument, and no argument itself
        if isinstance(value, _PARTS) and not type(value).__module__.startswith("torch."):
            value = describe_part(value)
        elif not isinstance(value, (bool, int, float, str, list, tuple, dict, type(None))):
            remedy = f"Set self.{name} to the argument itself, and what is made of it under another name"
            raise UserError(f"doesn't keep its argument {name}", where=kind.__name__, remedy=remedy)
        arguments[name] = value
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def make_part(described: dict[str, Any], family: type[Part], where: Path) -> Part:
    """Make a part of `describe_part`; a config from elsewhere must not choose which modules are imported."""
    class_path = described["class_path"]
    module, _, name = class_path.rpartition(".")
    if not module.startswith("ser_personal.") and module not in sys.modules:
        remedy = f"If you trust it, give `--import {module}`, or `import {module}` first in Python"
        raise UserError(f"has a part of {module}, which isn't part of ser_personal", where=where, remedy=remedy)
    kind = getattr(import_module(module), name, None)
    if not isinstance(kind, type) or not issubclass(kind, family) or not issubclass(kind, _PARTS):
        remedy = "Give a folder that `ser export` wrote"
        raise UserError(f"{class_path} isn't a part of a network that belongs here", where=where, remedy=remedy)
    arguments = {
        name: make_part(value, object, where) if isinstance(value, dict) and "class_path" in value else value
        for name, value in described["init_args"].items()
    }
    return cast("Part", kind(**arguments))
