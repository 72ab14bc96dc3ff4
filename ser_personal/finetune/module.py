"""Fine-tuning: what all kinds of it share, and that for emotion attributes by 1 - CCC."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from typing_extensions import override

from ser_personal.encoder.base import Encoder, mean_pool, weights_fingerprint
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.hugging_face import LoRA
from ser_personal.encoder.module import (
    DESCRIPTION,
    ENCODER_KEYS,
    TRAINED_ON,
    PersonalizedModule,
    naming_checkpoint,
    read_checkpoint,
)
from ser_personal.encoder.personalized import PersonalizedEncoder, own
from ser_personal.encoder.raw import CachedFeatures
from ser_personal.errors import UserError, as_names
from ser_personal.files import content_hash
from ser_personal.finetune.concordance import CCCLoss, EmotionLoss
from ser_personal.finetune.interpreters import Interpreter, MLPInterpreter
from ser_personal.finetune.metrics import ConcordanceMetric
from ser_personal.speakers.embedding import SpeakerEmbedding, SpeakerRepresentation
from ser_personal.types import (
    ATTRIBUTES,
    Attribute,
    FusionName,
    NonNegativeFinite,
    PositiveFinite,
    PredictionBatch,
    pack_hashes,
    unpack_hashes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch import Tensor
    from torchmetrics import Metric

    from ser_personal.types import EmotionBatch, EncoderOutput, TrainingSet


# a checkpoint's key for the attributes or emotions that the model predicts, in the order of its outputs
PREDICTS = "predicts"


class FineTuning(PersonalizedModule):
    """A personalised encoder and an interpreter, trained together by AdamW.

    Args:
        encoder: what to fine-tune; HuBERT-large with its convolutions frozen if None. With `papt_checkpoint` only what
            it says of freezing, dropout and normalisation counts: architecture and weights come from there.
        speakers: what e_s is; a table with its defaults if None.
        interpreter: the head; the paper's MLP if None.
        fusion: where e_s is added; None means as in PAPT, or none without it. With raw or cached features, where the
            encoder has no Transformer, `prefix` changes no frame, and needs an interpreter that reads e_s.
        papt_checkpoint: brings encoder and speakers from PAPT or TAPT; needed on disk at fit only.
        initial_checkpoint: a fine-tuned one to start from, with all its weights, on other data or by another loss;
            needed on disk at fit only. (`--ckpt_path` resumes the same fit.)
        lora: train low-rank adapters of the encoder in place of its weights; the weights themselves if None, into which
            the adapters of a checkpoint are merged.
        train_speaker_embedding: keep learning e_s; frozen otherwise (ours, the paper doesn't say).
        unseen_share: chance that a training utterance counts as an unseen speaker's, so that the policy for those is
            in distribution at test time (ours; the paper's is 0).
        learning_rate: of everything but the interpreter.
        interpreter_learning_rate: of the interpreter; None means the same.
        weight_decay: of AdamW.
        warmup_share: share of all steps in which both rates climb, to fall to 0, linearly, over the rest (ours); None
            keeps them constant, as the authors do.
    """

    parts: ClassVar[tuple[str, ...]] = ("interpreter",)
    # what it predicts: one of the two is empty
    attributes: Sequence[str] = ()
    emotions: Sequence[str] = ()

    # the argument that says what is predicted
    targets: ClassVar[str]
    # of outputs and labels, both (batch, outputs), and of weights (batch,), what each utterance counts
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    metric: Metric

    def __init__(
        self,
        encoder: Encoder | None = None,
        speakers: SpeakerRepresentation | None = None,
        interpreter: Interpreter | None = None,
        fusion: FusionName | None = None,
        papt_checkpoint: str | None = None,
        initial_checkpoint: str | None = None,
        lora: LoRA | None = None,
        *,
        train_speaker_embedding: bool = False,
        unseen_share: ClosedUnitInterval = 0.0,
        learning_rate: PositiveFinite = 5e-5,
        interpreter_learning_rate: PositiveFinite | None = None,
        weight_decay: NonNegativeFinite = 1e-4,
        warmup_share: ClosedUnitInterval | None = None,
    ) -> None:
        encoder, interpreter = encoder or HubertEncoder(freeze_cnn=True), interpreter or MLPInterpreter()
        if fusion == "prefix" and not (encoder.mixes_frames or interpreter.reads_speaker):
            raise UserError(
                f"the speaker embedding changes no frame of {type(encoder).__name__}, which has no Transformer, and "
                f"{type(interpreter).__name__} doesn't read it",
                where="--model.fusion prefix",
                remedy="Give --model.fusion last, or --model.interpreter TransformerInterpreter",
            )
        if papt_checkpoint is not None and isinstance(encoder, CachedFeatures):
            what, remedy = "brings an encoder, CachedFeatures need none", "Give it to `ser cache --checkpoint` instead"
            raise UserError(what, where=f"--model.papt_checkpoint {papt_checkpoint}", remedy=remedy)
        super().__init__(PersonalizedEncoder(encoder, speakers or SpeakerEmbedding(), fusion or "none"))
        self.save_hyperparameters(ignore=["encoder", "speakers", "interpreter", "loss", "lora"])
        self.interpreter = own(interpreter, copy=True)
        self.lora = lora
        # utterances whose labels this model, or one that it started from, was trained on
        self.trained_on: frozenset[str] = frozenset()

    def fingerprint(self) -> str:
        """Hash what predictions depend on in a test: `PersonalizedEncoder.fingerprint`, and the interpreter."""
        return content_hash(self.personalized.fingerprint(), weights_fingerprint(self.interpreter.state_dict()))

    @abstractmethod
    def initial_outputs(self, training_set: TrainingSet) -> list[float]:
        """What a new interpreter gives for any utterance."""

    @abstractmethod
    def labels_of(self, batch: EmotionBatch) -> Tensor:
        """What the outputs should be, (batch, outputs), NaN where there is no label."""

    @abstractmethod
    def log_scores(self, stage: str, scores: dict[str, float]) -> None:
        """Log the scores of a set, the one that chooses the best model among them."""

    @override
    def build(self, training_set: TrainingSet) -> None:
        initial, papt = self.hparams["initial_checkpoint"], self.hparams["papt_checkpoint"]
        if initial is not None and papt is not None:
            where = "--model.initial_checkpoint, --model.papt_checkpoint"
            remedy = "Give one of them: what came from PAPT is in the fine-tuned one"
            raise UserError("two checkpoints to start from", where=where, remedy=remedy)
        if initial is not None:
            with naming_checkpoint(initial):
                self._start_from_finetuned(initial, training_set)
        elif papt is not None:
            with naming_checkpoint(papt):
                self._start_from_papt(papt, training_set)
        else:
            self._start_anew(training_set)
        if initial is None:
            self._build_interpreter()
            self.interpreter.start_from(self.initial_outputs(training_set))
        self.personalized.encoder.adapt(self.lora)

    @override
    def on_fit_start(self) -> None:
        # in every fit: a built or resumed model may be trained on other utterances, too
        if self.training_set is not None:
            self.trained_on |= self.training_set.train_hashes

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[TRAINED_ON] = pack_hashes(self.trained_on)
        checkpoint[PREDICTS] = list(self.attributes or self.emotions)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._require_same_outputs(checkpoint, "the checkpoint")
        super().on_load_checkpoint(checkpoint)

    @override
    def rebuild(self, checkpoint: dict[str, Any]) -> None:
        self._build_interpreter()

    def _build_interpreter(self) -> None:
        self.interpreter.build(self.personalized.dim, len(self.attributes or self.emotions))
        self.personalized.encoder.freeze_mask_embedding()
        self.personalized.speakers.requires_grad_(requires_grad=self.hparams["train_speaker_embedding"])

    def _start_anew(self, training_set: TrainingSet) -> None:
        is_learnt = self.personalized.fusion_name != "none" and self.personalized.speakers.is_learnt
        if is_learnt and not self.hparams["train_speaker_embedding"]:
            raise UserError(
                "speaker embeddings are neither pre-trained nor learnt here",
                where=f"--model.fusion {self.personalized.fusion_name}",
                remedy="Give --model.papt_checkpoint, or set --model.train_speaker_embedding true",
            )
        self.personalized.build(training_set)
        own = training_set.train_hashes if self.personalized.speakers.ids else frozenset()
        self.personalized.pretrained_on = training_set.frames_trained_on | own

    def _start_from_papt(self, path: str, training_set: TrainingSet) -> None:
        checkpoint = self._rebuild_from(path, "head.label_embeddings", "checkpoint of PAPT or TAPT", training_set)
        weights = checkpoint["state_dict"]
        self.personalized.load_state_dict(
            {name.removeprefix(ENCODER_KEYS): weights[name] for name in weights if name.startswith(ENCODER_KEYS)}
        )

    def _start_from_finetuned(self, path: str, training_set: TrainingSet) -> None:
        checkpoint = self._rebuild_from(path, "interpreter.", "fine-tuned checkpoint", training_set)
        self.rebuild(checkpoint)
        own, trained = (
            {name: weight.shape for name, weight in weights.items() if name.startswith("interpreter.")}
            for weights in (self.state_dict(), checkpoint["state_dict"])
        )
        if own != trained:
            what = "was trained with another interpreter, or other sizes of it"
            raise UserError(what, where=path, remedy="Give the --model.interpreter that it was trained with")
        self.load_state_dict(checkpoint["state_dict"])

    def _rebuild_from(self, path: str, part: str, kind: str, training_set: TrainingSet) -> dict[str, Any]:
        """Make the personalised encoder of a checkpoint of that kind, known by a `part` that others lack."""
        checkpoint = read_checkpoint(path)
        if not any(name.startswith(part) for name in checkpoint["state_dict"]):
            remedy = "Give PAPT's or TAPT's to --model.papt_checkpoint, a fine-tuned one to --model.initial_checkpoint"
            raise UserError(f"isn't a {kind}", where=path, remedy=remedy)
        wanted, trained = self.hparams["fusion"], checkpoint[DESCRIPTION]["fusion"]
        if wanted not in {None, trained}:
            remedy = "Leave --model.fusion out, or give a checkpoint of that fusion"
            raise UserError(f"was trained with fusion {trained}, not {wanted}", where=path, remedy=remedy)
        self._require_same_outputs(checkpoint, path)
        self.personalized.rebuild(checkpoint[DESCRIPTION])
        self.check_training_set(training_set)
        return checkpoint

    def _require_same_outputs(self, checkpoint: dict[str, Any], path: str) -> None:
        """Refuse a checkpoint of other attributes or emotions, and keep the hashes of what it was trained on."""
        wanted = list(self.attributes or self.emotions)
        trained = checkpoint.get(PREDICTS, wanted)
        # emotions may be left to the checkpoint
        if trained != wanted and (wanted or {*trained} <= {*ATTRIBUTES}):
            raise UserError(
                f"was trained for {', '.join(trained)}, not {', '.join(wanted) or self.targets}",
                where=path,
                remedy=f"Give the --model.{self.targets}, and the config, that it was trained with",
            )
        self.trained_on = unpack_hashes(checkpoint.get(TRAINED_ON, ""))

    @override
    def forward(self, batch: EmotionBatch) -> PredictionBatch:
        output: EncoderOutput = self.personalized(batch)
        output = output._replace(frames=output.frames.to(torch.promote_types(output.frames.dtype, torch.float32)))
        # bfloat16 would put predictions of 1 to 7 on a grid of 1/32
        with torch.autocast(output.frames.device.type, enabled=False):
            return PredictionBatch(
                indices=batch["indices"],
                speaker_ids=batch["speaker_ids"],
                pooled=mean_pool(output),
                predictions=self.interpreter(output),
                labels=self.labels_of(batch),
            )

    @override
    def training_step(self, batch: EmotionBatch, batch_idx: int) -> Tensor:
        result = self(self._some_as_unseen(batch))
        loss = self.loss(result["predictions"], result["labels"], batch.get("weights"))
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch["indices"]))
        return loss

    def _some_as_unseen(self, batch: EmotionBatch) -> EmotionBatch:
        unseen = torch.rand(len(batch["speaker_ids"])) < self.hparams["unseen_share"]
        pairs, some = zip(batch["speaker_ids"], unseen.tolist(), strict=True), batch.copy()
        some["speaker_ids"] = [None if hidden else speaker for speaker, hidden in pairs]
        if "speaker_features" in batch:
            features = batch["speaker_features"]
            some["speaker_features"] = features.masked_fill(unseen.to(features.device)[:, None], torch.nan)
        return some

    @override
    def on_validation_epoch_start(self) -> None:
        self.metric.reset()

    @override
    def validation_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        result: PredictionBatch = self.predict_step(batch, batch_idx)
        self.metric.update(result)
        return result

    @override
    def on_validation_epoch_end(self) -> None:
        self.log_scores("test" if self.trainer.testing else "val", self.metric.compute())

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, the interpreter at its own rate; constant, or with warm-up and decay."""
        rate, interpreter_rate = self.hparams["learning_rate"], self.hparams["interpreter_learning_rate"]
        groups = [
            {"params": self.personalized.parameters(), "lr": rate},
            {"params": self.interpreter.parameters(), "lr": rate if interpreter_rate is None else interpreter_rate},
        ]
        return self.adamw(groups, self.hparams["warmup_share"], weight_decay=self.hparams["weight_decay"])


class EmotionFineTuning(FineTuning):
    """Predicts emotion attributes of an utterance; trained by 1 - CCC (paper, section 2.2, and the authors' code).

    Without `papt_checkpoint` this is Vanilla-FT; from a PAPT run with `fusion` none it is TAPT-FT, else PAPT-FT.

    Args:
        attributes: what to predict; the paper trains one model per attribute.
        loss: what is minimised; the paper's 1 - CCC if None.
        min_utterances: labelled utterances a speaker must have to count in A-CCC (ours).
        **kwargs: encoder, speakers, interpreter and how they learn, as in `FineTuning`.
    """

    parts = ("interpreter", "loss")
    targets = "attributes"

    def __init__(
        self,
        attributes: tuple[Attribute, ...] = ("arousal",),
        loss: EmotionLoss | None = None,
        min_utterances: PositiveInt = 10,
        **kwargs: Any,
    ) -> None:
        chosen = as_names("attributes", attributes)
        if not chosen or len(set(chosen)) < len(chosen) or not {*chosen} <= {*ATTRIBUTES}:
            remedy = f"Choose among {', '.join(ATTRIBUTES)}, each once"
            raise UserError(f"can't be {', '.join(chosen) or 'empty'}", where="attributes", remedy=remedy)
        super().__init__(**kwargs)
        self.attributes = list(chosen)
        self.loss = loss or CCCLoss()
        self.metric = ConcordanceMetric(self.attributes, min_utterances)

    @override
    def build(self, training_set: TrainingSet) -> None:
        self.interpreter.check_label_scale(training_set.scale)
        super().build(training_set)

    @override
    def initial_outputs(self, training_set: TrainingSet) -> list[float]:
        """The training labels' means: from 0, training by CCC stalls on labels of 1 to 7."""
        label_mean = training_set.train_label_mean
        for attribute in self.attributes:
            if attribute not in label_mean:
                raise UserError(
                    f"no training utterance has a label of {attribute}",
                    where="--model.attributes",
                    remedy=f"Choose among {', '.join(label_mean) or 'none: this corpus has no labels'}",
                )
        return [label_mean[attribute] for attribute in self.attributes]

    @override
    def labels_of(self, batch: EmotionBatch) -> Tensor:
        return batch["labels"][:, [ATTRIBUTES.index(attribute) for attribute in self.attributes]]

    @override
    def log_scores(self, stage: str, scores: dict[str, float]) -> None:
        """Log each attribute's O-CCC and A-CCC, and the mean of the defined O-CCC, which chooses the best model."""
        self.log_dict({f"{stage}_{name}": value for name, value in scores.items()}, rank_zero_only=False)
        overall = np.array([scores[f"{attribute}_overall_ccc"] for attribute in self.attributes])
        defined = overall[~np.isnan(overall)]
        self.log(f"{stage}_ccc", float(defined.mean()) if len(defined) else np.nan, prog_bar=stage == "val")
