"""What every fine-tuning shares: its settings, its steps, and how it learns."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from ser_personal.encoder.base import Encoder
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.encoder.pooling import mean_pool
from ser_personal.encoder.schedule import adamw, linear_warmup_and_decay
from ser_personal.finetune.adversary import SpeakerAdversary
from ser_personal.finetune.fitting_parts import refuse_papt_of_cached, refuse_unseen_prefix
from ser_personal.finetune.interpreters import Interpreter, MLPInterpreter
from ser_personal.finetune.networks import FineTuningNetworks
from ser_personal.ranges import require_range
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerRepresentation
from ser_personal.types import FusionName, PredictionBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch import Tensor
    from torchmetrics import Metric

    from ser_personal.types import EmotionBatch


class FineTuning(FineTuningNetworks):
    """An encoder with its speakers, an interpreter on top, and AdamW.

    Without `papt_checkpoint` this is Vanilla-FT; from a PAPT run with `fusion` none it is TAPT-FT, else PAPT-FT.

    Args:
        encoder: what to fine-tune; HuBERT-large with its convolutions frozen if None. With `papt_checkpoint` only what
            it says of freezing, dropout and normalisation counts: architecture and weights come from there.
        speakers: what e_s is; a table with its defaults if None.
        interpreter: the head; the paper's MLP if None.
        fusion: where e_s enters; None means as in PAPT, or none without it. Where no Transformer follows, with raw or
            cached features, `prefix` needs an interpreter that reads e_s: the mean of frames doesn't change by it.
        papt_checkpoint: brings encoder and speakers from PAPT or TAPT; needed on disk at fit only.
        initial_checkpoint: a fine-tuned one to go on from, with all its weights, on other data or by another loss;
            needed on disk at fit only. (`--ckpt_path` resumes the same fit.)
        adversary: what the encoder unlearns to tell speakers by, beside its task; none if None.
        train_speaker_embedding: go on learning e_s; frozen otherwise (ours, the paper doesn't say).
        unseen_share: chance that a training utterance counts as an unseen speaker's, so that the policy for those is
            in distribution at test time (ours; the paper's is 0).
        learning_rate: of everything but the interpreter.
        interpreter_learning_rate: of the interpreter, and of the adversary; None means the same.
        weight_decay: of AdamW.
        warmup_share: share of all steps in which both rates climb, to fall to 0, linearly, over the rest (ours); None
            keeps them constant, as the authors do.

    Raises:
        UserError: a number is out of its range, or parts don't go together.
    """

    validation_metric: Metric
    test_metric: Metric

    def __init__(
        self,
        encoder: Encoder | None = None,
        speakers: SpeakerRepresentation | None = None,
        interpreter: Interpreter | None = None,
        fusion: FusionName | None = None,
        papt_checkpoint: str | None = None,
        initial_checkpoint: str | None = None,
        adversary: SpeakerAdversary | None = None,
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
        encoder, interpreter = encoder or HubertEncoder(freeze_cnn=True), interpreter or MLPInterpreter()
        refuse_unseen_prefix(encoder, interpreter, fusion)
        refuse_papt_of_cached(encoder, papt_checkpoint)
        personalized = PersonalizedEncoder(encoder, speakers or SpeakerEmbedding(), fusion or "none")
        super().__init__(personalized, interpreter, adversary)
        self.save_hyperparameters(ignore=["encoder", "speakers", "interpreter", "loss", "adversary"])

    @abstractmethod
    def labels_of(self, batch: EmotionBatch) -> Tensor:
        """What the outputs should be, (batch, outputs), NaN where nobody said."""

    @abstractmethod
    def task_loss(self, outputs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Compare outputs and labels, both (batch, outputs); `weights` (batch,) say what each utterance counts."""

    @abstractmethod
    def log_scores(self, stage: str, scores: dict[str, float]) -> None:
        """Log what a metric found under the stage's name."""

    def draw_unseen(self, batch: EmotionBatch) -> list[bool]:
        """Draw whose speakers count as never seen before, (batch,)."""
        drawn = torch.rand(len(batch["speaker_ids"])) < self.hparams["unseen_share"]
        return [bool(unseen) for unseen in drawn]

    def forward(self, batch: EmotionBatch, as_unseen: Sequence[bool] | None = None) -> PredictionBatch:
        """Predict a batch, some of it as if its speakers had never been seen before."""
        output = self.personalized(batch, as_unseen=as_unseen)
        return PredictionBatch(
            indices=batch["indices"],
            speaker_ids=batch["speaker_ids"],
            pooled=mean_pool(output),
            predictions=self.interpreter(output),
            labels=self.labels_of(batch),
        )

    def training_step(self, batch: EmotionBatch, batch_idx: int) -> Tensor:
        """The loss of this device's batch."""
        result = self(batch, self.draw_unseen(batch))
        loss = self.task_loss(result["predictions"], result["labels"], batch.get("weights"))
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch["indices"]))
        if self.adversary is None:
            return loss
        progress = self.trainer.global_step / self.trainer.estimated_stepping_batches
        speaker_loss: Tensor = self.adversary(result["pooled"], batch["speaker_ids"], progress)
        self.log("train_speaker_loss", speaker_loss, batch_size=len(batch["indices"]))
        return loss + speaker_loss

    def validation_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        """Predict, for scores over the whole set."""
        result = self.predict_step(batch, batch_idx)
        self.validation_metric.update(result)
        return result

    def test_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        """Predict, for scores over the whole set, and for callbacks such as PLDC."""
        result = self.predict_step(batch, batch_idx)
        self.test_metric.update(result)
        return result

    def predict_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        """Predict."""
        result: PredictionBatch = self(batch)
        return result

    def on_validation_epoch_end(self) -> None:
        """Log the scores that training goes by."""
        self.log_scores("val", self.validation_metric.compute())
        self.validation_metric.reset()

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self.log_scores("test", self.test_metric.compute())
        self.test_metric.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, the interpreter at its own rate; constant, or with warm-up and decay."""
        rate, interpreter_rate = self.hparams["learning_rate"], self.hparams["interpreter_learning_rate"]
        body = [weight for weight in self.personalized.parameters() if weight.requires_grad]
        heads = [self.interpreter, *([] if self.adversary is None else [self.adversary])]
        groups: list[dict[str, Any]] = [
            {"params": body, "lr": rate},
            {
                "params": [weight for head in heads for weight in head.parameters()],
                "lr": rate if interpreter_rate is None else interpreter_rate,
            },
        ]
        optimizer = adamw(
            [group for group in groups if group["params"]], self._trainer, weight_decay=self.hparams["weight_decay"]
        )
        if self.hparams["warmup_share"] is None:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        schedule = linear_warmup_and_decay(optimizer, total, self.hparams["warmup_share"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
