"""Fine-tuning for emotion attributes by the concordance correlation coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ser_personal.encoder.checkpoint import DESCRIPTION, read_checkpoint
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.module import PersonalizedModule
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.encoder.pooling import mean_pool
from ser_personal.encoder.schedule import linear_warmup_and_decay
from ser_personal.errors import UserError
from ser_personal.finetune.concordance import ccc_loss
from ser_personal.finetune.interpreters import Interpreter, MLPInterpreter
from ser_personal.finetune.metric import ConcordanceMetric
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.types import ATTRIBUTES, Attribute, FusionName, PredictionBatch

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch import Tensor

    from ser_personal.encoder.personalized import EncoderDescription
    from ser_personal.types import EmotionBatch, TrainingSet

PREFIX = "personalized."


class EmotionFineTuning(PersonalizedModule):
    """Predicts emotion attributes of an utterance; trained by 1 - CCC (paper, section 2.2, and the authors' code).

    Without `papt_checkpoint` this is Vanilla-FT; from a PAPT run with `fusion` none it is TAPT-FT, else PAPT-FT.

    Args:
        encoder: what to fine-tune; HuBERT-large with its convolutions frozen if None. With `papt_checkpoint` only what
            it says of freezing, dropout and normalisation counts: architecture and weights come from there.
        speakers: the table of e_s and what unseen speakers get; one with its defaults if None.
        interpreter: the head; the paper's MLP if None.
        fusion: where e_s enters; None means as in PAPT, or none without it.
        attributes: what to predict; the paper trains one model an attribute.
        papt_checkpoint: brings encoder and speaker table from PAPT or TAPT; needed on disk at fit only.
        train_speaker_embedding: go on learning e_s; frozen otherwise (ours, the paper doesn't say).
        unseen_share: chance that a training utterance counts as an unseen speaker's, so that the policy for those is
            in distribution at test time (ours; the paper's is 0).
        learning_rate: of everything but the interpreter.
        interpreter_learning_rate: of the interpreter; None means the same.
        weight_decay: of AdamW.
        warmup_share: share of all steps in which both rates climb, to fall to 0, linearly, over the rest (ours); None
            keeps them constant, as the authors do.
        min_utterances: labelled utterances a speaker must have to count in A-CCC (ours).
    """

    def __init__(
        self,
        encoder: HubertEncoder | None = None,
        speakers: SpeakerEmbedding | None = None,
        interpreter: Interpreter | None = None,
        fusion: FusionName | None = None,
        attributes: tuple[Attribute, ...] = ("arousal",),
        papt_checkpoint: str | None = None,
        *,
        train_speaker_embedding: bool = False,
        unseen_share: float = 0.0,
        learning_rate: float = 5e-5,
        interpreter_learning_rate: float | None = None,
        weight_decay: float = 1e-4,
        warmup_share: float | None = None,
        min_utterances: int = 10,
    ) -> None:
        encoder = encoder or HubertEncoder(freeze_cnn=True)
        super().__init__(PersonalizedEncoder(encoder, speakers or SpeakerEmbedding(), fusion or "none"))
        self.save_hyperparameters(ignore=["encoder", "speakers", "interpreter"])
        self.attributes = list(attributes)
        self.columns = [ATTRIBUTES.index(attribute) for attribute in attributes]
        self.interpreter = interpreter or MLPInterpreter()
        self.validation_metric = ConcordanceMetric(self.attributes, min_utterances)
        self.test_metric = ConcordanceMetric(self.attributes, min_utterances)

    def build(self, training_set: TrainingSet) -> None:
        """Make encoder and speaker table, from PAPT where it is given, and the interpreter."""
        if self.hparams["papt_checkpoint"] is not None:
            self._take_from_papt(self.hparams["papt_checkpoint"])
        else:
            self._check_embedding_is_learnt()
            self.personalized.build(training_set.train_speaker_ids)
            self.personalized.encoder.fit_front_end(training_set.training_audio)
        self._build_interpreter()
        self.interpreter.start_at(self._label_means(training_set.train_label_mean))

    def rebuild(self, checkpoint: dict[str, Any]) -> None:
        """Make the interpreter for the encoder that the checkpoint described."""
        self._build_interpreter()

    def _build_interpreter(self) -> None:
        self.interpreter.build(self.personalized.dim, len(self.attributes))
        self.personalized.encoder.freeze_mask_embedding()
        self.personalized.speakers.requires_grad_(requires_grad=self.hparams["train_speaker_embedding"])

    def _take_from_papt(self, path: str) -> None:
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
        self.personalized.load_state_dict(
            {name.removeprefix(PREFIX): weights[name] for name in weights if name.startswith(PREFIX)}
        )

    def _check_embedding_is_learnt(self) -> None:
        if self.personalized.fusion_name != "none" and not self.hparams["train_speaker_embedding"]:
            raise UserError(
                "speaker embeddings are neither pre-trained nor learnt here",
                where=f"--model.fusion {self.personalized.fusion_name}",
                remedy="Give --model.papt_checkpoint, or set --model.train_speaker_embedding true",
            )

    def _label_means(self, label_mean: dict[str, float]) -> list[float]:
        for attribute in self.attributes:
            if attribute not in label_mean:
                raise UserError(
                    f"no training utterance has a label of {attribute}",
                    where="--model.attributes",
                    remedy=f"Choose among {', '.join(label_mean) or 'none: this corpus has no labels'}",
                )
        return [label_mean[attribute] for attribute in self.attributes]

    @property
    def keeps_foreign_speakers(self) -> bool:
        """The table may come from PAPT, which other speakers may have taken part in."""
        return self.hparams["papt_checkpoint"] is not None

    def forward(self, batch: EmotionBatch) -> PredictionBatch:
        """Predict a batch."""
        output = self.personalized(batch)
        return PredictionBatch(
            indices=batch["indices"],
            speaker_ids=batch["speaker_ids"],
            pooled=mean_pool(output),
            predictions=self.interpreter(output),
            labels=batch["labels"][:, self.columns],
        )

    def training_step(self, batch: EmotionBatch, batch_idx: int) -> Tensor:
        """1 - CCC of this device's batch, the mean over attributes."""
        result = self(self._with_unseen_speakers(batch))
        loss = ccc_loss(result["predictions"], result["labels"])
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch["indices"]))
        return loss

    def _with_unseen_speakers(self, batch: EmotionBatch) -> EmotionBatch:
        drawn = torch.rand(len(batch["speaker_ids"])) < self.hparams["unseen_share"]
        speakers = [None if unseen else speaker for speaker, unseen in zip(batch["speaker_ids"], drawn, strict=True)]
        return {**batch, "speaker_ids": speakers}

    def validation_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        """Predict, for O-CCC and A-CCC over the whole set."""
        result: PredictionBatch = self(batch)
        self.validation_metric.update(result)
        return result

    def test_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        """Predict, for O-CCC and A-CCC over the whole set, and for callbacks such as PLDC."""
        result: PredictionBatch = self(batch)
        self.test_metric.update(result)
        return result

    def predict_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        """Predict."""
        result: PredictionBatch = self(batch)
        return result

    def on_validation_epoch_end(self) -> None:
        """Log each attribute's O-CCC and A-CCC, and `val_ccc`, the mean of the defined O-CCC, that training goes by."""
        self._log_scores("val", self.validation_metric, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Log each attribute's O-CCC and A-CCC."""
        self._log_scores("test", self.test_metric)

    def _log_scores(self, stage: str, metric: ConcordanceMetric, *, prog_bar: bool = False) -> None:
        scores = metric.compute()
        metric.reset()
        self.log_dict({f"{stage}_{name}": value for name, value in scores.items()}, rank_zero_only=False)
        overall = np.array([scores[f"{attribute}_overall_ccc"] for attribute in self.attributes])
        defined = overall[~np.isnan(overall)]
        self.log(f"{stage}_ccc", float(defined.mean()) if len(defined) else np.nan, prog_bar=prog_bar)

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
