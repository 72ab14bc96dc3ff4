"""What the LightningModules of PAPT and fine-tuning share: a personalised encoder that a checkpoint can rebuild."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn

from ser_personal.encoder.checkpoint import DESCRIPTION
from ser_personal.encoder.schedule import is_fused
from ser_personal.errors import UserError
from ser_personal.speakers.representation import KnownSpeakers

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from ser_personal.encoder.personalized import EncoderDescription, PersonalizedEncoder
    from ser_personal.types import TrainingSet

PREFIX = "personalized."


def known_speakers(training_set: TrainingSet, speaker_ids: list[str]) -> KnownSpeakers:
    """Speakers with what features the training set has of them."""
    return KnownSpeakers(speaker_ids, training_set.speaker_features_of(speaker_ids))


class PersonalizedModule(LightningModule):
    """Builds its networks when a fit begins, or as its checkpoint describes them.

    Nothing is built in `__init__`: a configuration can be checked without weights, and a checkpoint needs neither hub
    nor the files it was started from.

    Attributes:
        starts_from_checkpoint: set where a fit is resumed, so that no pre-trained weights are read only to be replaced.
    """

    def __init__(self, personalized: PersonalizedEncoder) -> None:
        super().__init__()
        self.personalized = personalized
        self.starts_from_checkpoint = False

    @abstractmethod
    def build(self, training_set: TrainingSet) -> None:
        """Make all networks afresh for a fit."""

    @abstractmethod
    def rebuild(self, checkpoint: dict[str, Any]) -> None:
        """Make the networks beside the encoder in the shape of the checkpoint's."""

    def configure_model(self) -> None:
        """Build the networks where a fresh fit begins; else the checkpoint does."""
        if self._trainer is None or self.personalized.is_built or self.starts_from_checkpoint:
            return
        if self.trainer.state.fn == TrainerFn.FITTING:
            # Lightning calls this under the training device, which transformers would load the weights to by way of
            # a package of its own; all devices get the finished networks instead.
            with torch.device("cpu"):
                self.build(self.training_set)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does; it refuses a fused optimizer even where nothing scales gradients."""
        if gradient_clip_val and is_fused(optimizer) and gradient_clip_algorithm in {None, "norm"}:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            torch.nn.utils.clip_grad_norm_(weights, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    @property
    def training_set(self) -> TrainingSet:
        """The trainer's datamodule, for what a fit needs to know of its training speakers."""
        return cast("TrainingSet", self.trainer.datamodule)  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the architecture and the speakers of the table."""
        checkpoint[DESCRIPTION] = dict(self.personalized.describe())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the networks that the checkpoint describes.

        Raises:
            UserError: the checkpoint isn't one of this project, or a fit is resumed on other speakers.
        """
        description: EncoderDescription | None = checkpoint.get(DESCRIPTION)
        if description is None:
            raise UserError("isn't one of ser_personal", where="the checkpoint", remedy="Give one written by `ser fit`")
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._check_same_speakers(description)
        if not self.personalized.is_built or self.personalized.describe() != description:
            self.personalized.rebuild(description)
            self.rebuild(checkpoint)
        if self._trainer is not None:
            self.complete_speakers(checkpoint["state_dict"], self.training_set)

    def complete_speakers(self, weights: dict[str, Tensor], training_set: TrainingSet) -> None:
        """Add to a checkpoint's weights the features of its speakers, for a policy that goes by them and came later."""
        speakers = self.personalized.speakers
        if speakers.lacks_features:
            speakers.know_features(known_speakers(training_set, speakers.ids))
            prefix = f"{PREFIX}speakers."
            weights.update({f"{prefix}{name}": buffer for name, buffer in speakers.named_buffers()})

    def _check_same_speakers(self, description: EncoderDescription) -> None:
        if description["speakers"] is None or self.keeps_foreign_speakers:
            return
        differing = sorted({*description["speakers"]["speaker_ids"]} ^ {*self.training_set.train_speaker_ids})
        if differing:
            raise UserError(
                f"was trained on other speakers than this corpus has ({len(differing)} differ, first {differing[0]})",
                where="the checkpoint to resume",
                remedy="Resume on the same corpus, or start a fresh fit",
            )

    @property
    def keeps_foreign_speakers(self) -> bool:
        """Whether the table may hold other speakers than the training set, as one that came from PAPT may."""
        return False
