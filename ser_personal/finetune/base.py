"""What every fine-tuning shares: its settings, its steps, and how it learns."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from ser_personal.encoder.base import Encoder, mean_pool
from ser_personal.encoder.cached import CachedFeatures
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.module import (
    DESCRIPTION,
    PREFIX,
    PersonalizedModule,
    known_speakers,
    read_checkpoint,
    using,
)
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.errors import UserError, require_range
from ser_personal.finetune.adversary import SpeakerAdversary
from ser_personal.finetune.interpreters import Interpreter, MLPInterpreter
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerRepresentation
from ser_personal.types import FusionName, PredictionBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch import Tensor
    from torchmetrics import Metric

    from ser_personal.encoder.base import Encoder
    from ser_personal.finetune.adversary import SpeakerAdversary
    from ser_personal.finetune.interpreters import Interpreter
    from ser_personal.types import EmotionBatch, FusionName, TrainingSet

# the adversary's weights in a checkpoint, and the key of its speakers
ADVERSARY = "adversary"


def read_pretrained(path: str, fusion: str | None) -> dict[str, Any]:
    """Read a checkpoint of PAPT or TAPT.

    Args:
        path: of the checkpoint.
        fusion: that it must have; any if None.

    Raises:
        UserError: it is none, or has another fusion.
    """
    checkpoint = read_checkpoint(path)
    if "head.label_embeddings" not in checkpoint["state_dict"]:
        raise UserError(
            "isn't a checkpoint of PAPT or TAPT",
            where=path,
            remedy="Give one written by `ser fit --config configs/papt.yaml`",
        )
    _check_fusion(checkpoint, fusion, path, "pre-train")
    return checkpoint


def read_finetuned(path: str, fusion: str | None, targets: str, wanted: Sequence[str] | None) -> dict[str, Any]:
    """Read a fine-tuned checkpoint.

    Args:
        path: of the checkpoint.
        fusion: that it must have; any if None.
        targets: the argument that says what it predicts, `attributes` or `emotions`.
        wanted: what it must predict; anything of that kind if None.

    Raises:
        UserError: it isn't fine-tuned, has another fusion, or predicts something else.
    """
    checkpoint = read_checkpoint(path)
    if not any(name.startswith("interpreter.") for name in checkpoint["state_dict"]):
        raise UserError(
            "isn't a fine-tuned checkpoint",
            where=path,
            remedy="Give one written by `ser fit --config configs/finetune.yaml`, or --model.papt_checkpoint",
        )
    trained = checkpoint["hyper_parameters"].get(targets)
    if trained is None or (wanted is not None and list(trained) != list(wanted)):
        raise UserError(
            f"was trained for {', '.join(trained)}" if trained else f"wasn't trained for {targets}",
            where=path,
            remedy=f"Give --model.{targets} as it was trained"
            if trained
            else "Give the config that it was trained with",
        )
    _check_fusion(checkpoint, fusion, path, "train")
    return checkpoint


def without_adversary(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what only training needs."""
    return {name: weight for name, weight in weights.items() if not name.startswith(f"{ADVERSARY}.")}


def _check_fusion(checkpoint: dict[str, Any], fusion: str | None, path: str, how: str) -> None:
    trained = checkpoint[DESCRIPTION]["fusion"]
    if fusion not in {None, trained}:
        raise UserError(
            f"was {how}ed with fusion {trained}, not {fusion}",
            where=path,
            remedy=f"Leave --model.fusion out, or {how} with that fusion",
        )


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


def refuse_unseen_prefix(encoder: Encoder, interpreter: Interpreter, fusion: FusionName | None) -> None:
    """Refuse a prefixed e_s that neither a frame nor the interpreter would see: it would be no fusion at all.

    Raises:
        UserError: it is asked for.
    """
    if fusion == "prefix" and not (encoder.mixes_frames or interpreter.reads_speaker):
        raise UserError(
            f"no frame of {type(encoder).__name__} sees e_s, nor does {type(interpreter).__name__} read it",
            where="--model.fusion prefix",
            remedy="Give --model.fusion last, or --model.interpreter TransformerInterpreter",
        )


def refuse_papt_of_cached(encoder: Encoder, papt_checkpoint: str | None) -> None:
    """Refuse an encoder from PAPT beside its features: what is cached of it is made already.

    Raises:
        UserError: it is asked for.
    """
    if papt_checkpoint is not None and isinstance(encoder, CachedFeatures):
        raise UserError(
            "brings an encoder, and CachedFeatures need none",
            where=f"--model.papt_checkpoint {papt_checkpoint}",
            remedy=f"Leave it out, and give --data.cache what `ser cache --checkpoint {papt_checkpoint}` wrote",
        )


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
        return self.adamw(
            [group for group in groups if group["params"]],
            self.hparams["warmup_share"],
            weight_decay=self.hparams["weight_decay"],
        )
