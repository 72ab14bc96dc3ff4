"""The networks of a fine-tuning, and where their weights come from: nowhere, PAPT, or another fine-tuning."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from ser_personal.encoder.checkpoint import DESCRIPTION, using
from ser_personal.encoder.module import PREFIX, PersonalizedModule, known_speakers
from ser_personal.errors import UserError
from ser_personal.finetune.starting_checkpoint import ADVERSARY, read_finetuned, read_pretrained, without_adversary

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ser_personal.encoder.personalized import PersonalizedEncoder
    from ser_personal.finetune.adversary import SpeakerAdversary
    from ser_personal.finetune.interpreters import Interpreter
    from ser_personal.types import TrainingSet


class FineTuningNetworks(PersonalizedModule):
    """A personalised encoder, an interpreter on top, and perhaps an adversary.

    The hyperparameters `papt_checkpoint`, `initial_checkpoint` and `fusion` say where weights come from, and
    `train_speaker_embedding` whether e_s goes on learning.

    Args:
        personalized: encoder and speakers.
        interpreter: the head.
        adversary: what the encoder unlearns to tell speakers by; none if None.

    Attributes:
        targets: the hyperparameter that says what is predicted.
    """

    targets: str

    def __init__(
        self, personalized: PersonalizedEncoder, interpreter: Interpreter, adversary: SpeakerAdversary | None
    ) -> None:
        super().__init__(personalized)
        self.interpreter = interpreter
        self.adversary = adversary

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many values the interpreter gives."""

    @abstractmethod
    def first_outputs(self, training_set: TrainingSet) -> list[float]:
        """What a fresh interpreter gives for any utterance, (outputs,)."""

    def build(self, training_set: TrainingSet) -> None:
        """Make all networks: afresh, with encoder and speakers from PAPT, or as a fine-tuned checkpoint has them."""
        if self.hparams["initial_checkpoint"] is not None:
            self._go_on_from(self.hparams["initial_checkpoint"], training_set)
        else:
            self._build_afresh(training_set)
        if self.adversary is not None:
            # its speakers are these, whatever another fit's were
            self.adversary.build(self.personalized.dim, training_set.train_speaker_ids)

    def _build_afresh(self, training_set: TrainingSet) -> None:
        if self.hparams["papt_checkpoint"] is not None:
            self._take_from_papt(self.hparams["papt_checkpoint"], training_set)
        else:
            self._check_embedding_is_learnt()
            self.personalized.encoder.prepare(training_set)
            self.personalized.build(known_speakers(training_set, training_set.train_speaker_ids))
            self.personalized.encoder.fit_front_end(training_set.training_audio)
        self._build_interpreter()
        self.interpreter.start_at(self.first_outputs(training_set))

    def rebuild(self, checkpoint: dict[str, Any]) -> None:
        """Make interpreter and adversary for the encoder that the checkpoint described."""
        self._build_interpreter()
        if self.adversary is not None and ADVERSARY in checkpoint:
            self.adversary.build(self.personalized.dim, checkpoint[ADVERSARY])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the architecture, the speakers of the table and those of the adversary."""
        super().on_save_checkpoint(checkpoint)
        if self.adversary is not None:
            checkpoint[ADVERSARY] = self.adversary.speaker_ids

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the networks that the checkpoint describes, without its adversary where this model has none."""
        super().on_load_checkpoint(checkpoint)
        if self.adversary is None:
            checkpoint["state_dict"] = without_adversary(checkpoint["state_dict"])

    def _build_interpreter(self) -> None:
        self.interpreter.build(self.personalized.dim, self.outputs)
        self.personalized.encoder.freeze_mask_embedding()
        self.personalized.speakers.requires_grad_(requires_grad=self.hparams["train_speaker_embedding"])

    def _take_from_papt(self, path: str, training_set: TrainingSet) -> None:
        checkpoint = read_pretrained(path, self.hparams["fusion"])
        weights = checkpoint["state_dict"]
        with using(path):
            self.personalized.rebuild(checkpoint[DESCRIPTION])
            self.complete_speakers(weights, training_set)
            self.personalized.load_state_dict(
                {name.removeprefix(PREFIX): weights[name] for name in weights if name.startswith(PREFIX)}
            )

    def _go_on_from(self, path: str, training_set: TrainingSet) -> None:
        if self.hparams["papt_checkpoint"] is not None:
            raise UserError(
                "two checkpoints to start from",
                where="--model.initial_checkpoint, --model.papt_checkpoint",
                remedy="Give one of them: what came from PAPT is in the fine-tuned one",
            )
        checkpoint = read_finetuned(path, self.hparams["fusion"], self.targets, self.hparams[self.targets])
        weights = without_adversary(checkpoint["state_dict"])
        self.personalized.rebuild(checkpoint[DESCRIPTION])
        self.rebuild(checkpoint)
        self.complete_speakers(weights, training_set)
        own = without_adversary(self.state_dict())
        if _shapes(own) != _shapes(weights):
            raise UserError(
                "was trained with another interpreter, or other sizes of it",
                where=path,
                remedy="Give the --model.interpreter that it was trained with",
            )
        self.load_state_dict(weights, strict=False)

    def _check_embedding_is_learnt(self) -> None:
        is_learnt = self.personalized.fusion_name != "none" and self.personalized.speakers.is_learnt
        if is_learnt and not self.hparams["train_speaker_embedding"]:
            raise UserError(
                "speaker embeddings are neither pre-trained nor learnt here",
                where=f"--model.fusion {self.personalized.fusion_name}",
                remedy="Give --model.papt_checkpoint, or set --model.train_speaker_embedding true",
            )

    @property
    def keeps_foreign_speakers(self) -> bool:
        """The table may come from a checkpoint, which other speakers may have taken part in."""
        return self.hparams["papt_checkpoint"] is not None or self.hparams["initial_checkpoint"] is not None


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}
