"""What every fine-tuning shares: an encoder, perhaps from PAPT, an interpreter on top, and how both learn."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from ser_personal.encoder.base import Encoder
from ser_personal.encoder.checkpoint import DESCRIPTION, read_checkpoint
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.module import PREFIX, PersonalizedModule, known_speakers
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.encoder.schedule import linear_warmup_and_decay
from ser_personal.errors import UserError
from ser_personal.finetune.interpreters import Interpreter, MLPInterpreter
from ser_personal.ranges import require_range
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerRepresentation
from ser_personal.types import FusionName, SpeechBatch

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from ser_personal.encoder.personalized import EncoderDescription
    from ser_personal.types import TrainingSet


class FineTuning(PersonalizedModule):
    """An encoder with its speakers, an interpreter on top, and AdamW.

    Without `papt_checkpoint` this is Vanilla-FT; from a PAPT run with `fusion` none it is TAPT-FT, else PAPT-FT.

    Args:
        encoder: what to fine-tune; HuBERT-large with its convolutions frozen if None. With `papt_checkpoint` only what
            it says of freezing, dropout and normalisation counts: architecture and weights come from there.
        speakers: what e_s is; a table with its defaults if None.
        interpreter: the head; the paper's MLP if None.
        fusion: where e_s enters; None means as in PAPT, or none without it.
        papt_checkpoint: brings encoder and speakers from PAPT or TAPT; needed on disk at fit only.
        train_speaker_embedding: go on learning e_s; frozen otherwise (ours, the paper doesn't say).
        unseen_share: chance that a training utterance counts as an unseen speaker's, so that the policy for those is
            in distribution at test time (ours; the paper's is 0).
        learning_rate: of everything but the interpreter.
        interpreter_learning_rate: of the interpreter; None means the same.
        weight_decay: of AdamW.
        warmup_share: share of all steps in which both rates climb, to fall to 0, linearly, over the rest (ours); None
            keeps them constant, as the authors do.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        speakers: SpeakerRepresentation | None = None,
        interpreter: Interpreter | None = None,
        fusion: FusionName | None = None,
        papt_checkpoint: str | None = None,
        *,
        train_speaker_embedding: bool = False,
        unseen_share: float = 0.0,
        learning_rate: float = 5e-5,
        interpreter_learning_rate: float | None = None,
        weight_decay: float = 1e-4,
        warmup_share: float | None = None,
    ) -> None:
        require_range("unseen_share", unseen_share, 0, 1)
        require_range("learning_rate", learning_rate, 0, above=True)
        if interpreter_learning_rate is not None:
            require_range("interpreter_learning_rate", interpreter_learning_rate, 0, above=True)
        require_range("weight_decay", weight_decay, 0)
        if warmup_share is not None:
            require_range("warmup_share", warmup_share, 0, 1)
        encoder = encoder or HubertEncoder(freeze_cnn=True)
        super().__init__(PersonalizedEncoder(encoder, speakers or SpeakerEmbedding(), fusion or "none"))
        self.save_hyperparameters(ignore=["encoder", "speakers", "interpreter", "loss"])
        self.interpreter = interpreter or MLPInterpreter()

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many values the interpreter gives."""

    @abstractmethod
    def first_outputs(self, training_set: TrainingSet) -> list[float]:
        """What a fresh interpreter gives for any utterance, (outputs,)."""

    def build(self, training_set: TrainingSet) -> None:
        """Make encoder and speakers, from PAPT where it is given, and the interpreter."""
        if self.hparams["papt_checkpoint"] is not None:
            self._take_from_papt(self.hparams["papt_checkpoint"], training_set)
        else:
            self._check_embedding_is_learnt()
            self.personalized.build(known_speakers(training_set, training_set.train_speaker_ids))
            self.personalized.encoder.fit_front_end(training_set.training_audio)
        self._build_interpreter()
        self.interpreter.start_at(self.first_outputs(training_set))

    def rebuild(self, checkpoint: dict[str, Any]) -> None:
        """Make the interpreter for the encoder that the checkpoint described."""
        self._build_interpreter()

    def _build_interpreter(self) -> None:
        self.interpreter.build(self.personalized.dim, self.outputs)
        self.personalized.encoder.freeze_mask_embedding()
        self.personalized.speakers.requires_grad_(requires_grad=self.hparams["train_speaker_embedding"])

    def _take_from_papt(self, path: str, training_set: TrainingSet) -> None:
        checkpoint = read_checkpoint(path)
        weights = checkpoint["state_dict"]
        description: EncoderDescription = checkpoint[DESCRIPTION]
        if "head.label_embeddings" not in weights:
            raise UserError(
                "isn't a checkpoint of PAPT or TAPT",
                where=path,
                remedy="Give one written by `ser fit --config configs/papt.yaml`",
            )
        if self.hparams["fusion"] not in {None, description["fusion"]}:
            raise UserError(
                f"was pre-trained with fusion {description['fusion']}, not {self.hparams['fusion']}",
                where=path,
                remedy="Leave --model.fusion out, or pre-train with that fusion",
            )
        self.personalized.rebuild(description)
        self.complete_speakers(weights, training_set)
        self.personalized.load_state_dict(
            {name.removeprefix(PREFIX): weights[name] for name in weights if name.startswith(PREFIX)}
        )

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
        """The table may come from PAPT, which other speakers may have taken part in."""
        return self.hparams["papt_checkpoint"] is not None

    def draw_unseen(self, batch: SpeechBatch) -> list[bool]:
        """Draw whose speakers count as never seen before, (batch,)."""
        drawn = torch.rand(len(batch["speaker_ids"])) < self.hparams["unseen_share"]
        return [bool(unseen) for unseen in drawn]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, the interpreter at its own rate; constant, or with warm-up and decay."""
        rate, interpreter_rate = self.hparams["learning_rate"], self.hparams["interpreter_learning_rate"]
        body = [weight for weight in self.personalized.parameters() if weight.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": body, "lr": rate},
            {
                "params": list(self.interpreter.parameters()),
                "lr": rate if interpreter_rate is None else interpreter_rate,
            },
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], weight_decay=self.hparams["weight_decay"]
        )
        if self.hparams["warmup_share"] is None:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        schedule = linear_warmup_and_decay(optimizer, total, self.hparams["warmup_share"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
