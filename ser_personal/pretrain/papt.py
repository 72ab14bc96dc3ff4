"""PAPT: personalised adaptive pre-training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt
from typing_extensions import override

from ser_personal.audio import num_frames
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.hugging_face import LoRA
from ser_personal.encoder.module import PersonalizedModule
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.errors import UserError
from ser_personal.pretrain.masked_prediction import (
    MaskedPredictionMetric,
    PredictionHead,
    masked_prediction_loss,
    span_mask,
)
from ser_personal.speakers.embedding import SpeakerEmbedding, SpeakerRepresentation
from ser_personal.types import NO_PSEUDO_LABEL, FusionName, NonNegativeFinite, PositiveFinite, Seed, Share

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch import Tensor

    from ser_personal.pretrain.masked_prediction import MaskedPredictionLoss
    from ser_personal.types import EncoderOutput, PretrainBatch, PretrainingSet, TrainingSet

VALIDATION_SETS = ("", "_unseen_speakers")
CODEBOOK = "codebook_hash"
# Cohen's kappa of a head whose clusters are in the wrong order stays below this
MIN_KAPPA = 0.05


class PAPT(PersonalizedModule):
    """HuBERT's masked cluster prediction continued on a corpus, with a speaker embedding learnt along with it.

    Source: the paper, section 2; what it leaves to HuBERT's own pre-training is fairseq's configuration of
    HuBERT-large. TAPT is the same with `fusion` none.

    Args:
        encoder: what is adapted; HuBERT-large if None.
        speakers: what e_s is; a table with its defaults if None.
        fusion: how e_s is fused with the frames: none, first, prefix, concat (ours) or last.
        final_dim: width in which frames and clusters are compared; 768 in HuBERT-large, 256 in base.
        released_head: prediction_head.safetensors from `ser import`, for its own codebook; a fresh head if None.
        mask_prob: share of frames to mask if no spans overlapped (fairseq's `mask_prob`).
        mask_length: length of a span, in frames.
        min_masks: spans in every utterance, at least.
        feature_penalty: weight of the mean square of the convolutions' output.
        learning_rate: the encoder's, at its peak.
        head_learning_rate: the prediction head's; None: `learning_rate` if it is released, 1e-3 (ours) if fresh.
        speaker_learning_rate: that of the speaker embeddings and of what fuses them; 1e-3 is ours.
        warmup_share: share of all steps in which the rates climb; they fall to 0, linearly, over the rest.
        weight_decay: decoupled, as fairseq's Adam has it.
        lora: train low-rank adapters of the encoder in place of its weights; the weights themselves if None.
        seed: of the span masks, which are a function of it, the batch and the rank.
    """

    head: PredictionHead

    def __init__(
        self,
        encoder: HubertEncoder | None = None,
        speakers: SpeakerRepresentation | None = None,
        fusion: FusionName = "last",
        final_dim: PositiveInt = 768,
        released_head: str | None = None,
        mask_prob: Share = 0.8,
        mask_length: PositiveInt = 10,
        min_masks: NonNegativeInt = 2,
        feature_penalty: NonNegativeFinite = 10.0,
        learning_rate: PositiveFinite = 1e-5,
        head_learning_rate: PositiveFinite | None = None,
        speaker_learning_rate: PositiveFinite = 1e-3,
        warmup_share: ClosedUnitInterval = 0.05,
        weight_decay: NonNegativeFinite = 0.01,
        lora: LoRA | None = None,
        seed: Seed = 0,
    ) -> None:
        encoder = encoder or HubertEncoder()
        # Whisper's would mask nothing
        if not isinstance(encoder, HubertEncoder):
            what, remedy = "can't be pre-trained by masked prediction here", "Give a HubertEncoder"
            raise UserError(what, where=type(encoder).__name__, remedy=remedy)
        if encoder.weighted_layers:
            what = "masked prediction reads the last layer, as HuBERT's does"
            remedy = "Leave it out here, and give it to the fine-tuning from papt.ckpt"
            raise UserError(what, where="--model.encoder.weighted_layers true", remedy=remedy)
        super().__init__(PersonalizedEncoder(encoder, speakers or SpeakerEmbedding(), fusion))
        self.save_hyperparameters(ignore=["encoder", "speakers", "lora"])
        self.lora = lora
        self.codebook_hash = ""
        self._checks_cluster_order = False

    @override
    def build(self, training_set: TrainingSet) -> None:
        pretraining_set = cast("PretrainingSet", training_set)
        self.codebook_hash = pretraining_set.codebook_hash
        self.personalized.build(training_set)
        self.personalized.encoder.adapt(self.lora)
        self._build_head(pretraining_set.num_clusters, self.hparams["final_dim"])
        if (path := self.hparams["released_head"]) is None:
            return
        from ser_personal.pretrain.released import load_released_head

        head, codebook_hash, order_known = load_released_head(path)
        found, expected = (head.final_proj.in_features, codebook_hash), (self.personalized.dim, self.codebook_hash)
        if found != expected:
            what = f"is for frames of width {found[0]} and codebook {found[1]}, not for {expected[0]} and {expected[1]}"
            remedy = "Take the encoder that it was released with and pseudo-labels of its codebook (`ser kmeans "
            remedy += "--codebook`), or make a fresh head by --model.released_head null"
            raise UserError(what, where=path, remedy=remedy)
        self.head = head
        self._checks_cluster_order = not order_known

    @override
    def rebuild(self, checkpoint: dict[str, Any]) -> None:
        self.codebook_hash = checkpoint[CODEBOOK]
        self._build_head(*checkpoint["state_dict"]["head.label_embeddings"].shape)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[CODEBOOK] = self.codebook_hash

    @override
    def on_fit_start(self) -> None:
        # of every fit: a built or resumed model may be trained on other utterances, too
        if self.training_set is not None:
            self.personalized.pretrained_on |= cast("PretrainingSet", self.training_set).pretraining_hashes

    @override
    def check_training_set(self, training_set: TrainingSet) -> None:
        super().check_training_set(training_set)
        if (found := cast("PretrainingSet", training_set).codebook_hash) != self.codebook_hash:
            what = f"predicts clusters of codebook {self.codebook_hash}, the pseudo-labels come from {found}"
            remedy = "Give the pseudo-labels that it began with, or train a new PAPT"
            raise UserError(what, where=type(self).__name__, remedy=remedy)

    def _build_head(self, num_clusters: int, final_dim: int) -> None:
        self.head = PredictionHead(self.personalized.dim, num_clusters, final_dim)
        self.metrics = torch.nn.ModuleList(MaskedPredictionMetric(num_clusters) for _ in VALIDATION_SETS)

    def _check_cluster_order(self, predicted: Tensor, targets: Tensor) -> None:
        """Refuse a released head that predicts masked frames of the first step hardly better than chance.

        Cohen's kappa is that of the frames of all devices, so that all stop or none does.
        """
        self._checks_cluster_order = False
        predicted, targets = predicted[targets != NO_PSEUDO_LABEL], targets[targets != NO_PSEUDO_LABEL]
        counted, clusters = (predicted, targets, targets[predicted == targets]), len(self.head.label_embeddings)
        counts = torch.stack([torch.bincount(ids, minlength=clusters) for ids in counted]).float()
        predicted_counts, target_counts, correct_counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
        frames = target_counts.sum()
        chance, correct = float((predicted_counts @ target_counts) / frames**2), float(correct_counts.sum() / frames)
        # kappa is (correct - chance) / (1 - chance); NaN where nothing was masked
        if correct - chance < MIN_KAPPA * (1 - chance):
            what = f"finds the cluster of {correct:.1%} of {frames:.0f} masked frames, chance finds {chance:.1%}"
            remedy = "Its clusters aren't those of the pseudo-labels: import it with its own codebook and take the "
            remedy += "encoder that it was released with, or make a fresh head by --model.released_head null"
            raise UserError(what, where=self.hparams["released_head"], remedy=remedy)

    def _predict(self, batch: PretrainBatch, mask_seed: int) -> tuple[MaskedPredictionLoss, EncoderOutput]:
        time_mask = span_mask(
            num_frames(batch["num_samples"]),
            self.hparams["mask_prob"],
            self.hparams["mask_length"],
            self.hparams["min_masks"],
            torch.Generator().manual_seed(mask_seed),
        )
        output: EncoderOutput = self.personalized(batch, time_mask.to(batch["waveforms"].device, non_blocking=True))
        return masked_prediction_loss(output.frames, batch["pseudo_labels"], time_mask, self.head), output

    @override
    def training_step(self, batch: PretrainBatch, batch_idx: int) -> Tensor:
        """Predict the pseudo-labels of masked frames: the paper's sum, divided by their number as in fairseq."""
        batches = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        step_seed = (self.hparams["seed"] * 1_000_003 + batches) * self.trainer.world_size + self.global_rank
        prediction, output = self._predict(batch, step_seed)
        if self._checks_cluster_order and output.time_mask is not None:
            self._check_cluster_order(prediction.predicted, batch["pseudo_labels"][output.time_mask])
        masked = self.trainer.strategy.reduce(prediction.masked.float(), reduce_op="sum").clamp(min=1)
        # DDP averages gradients over ranks
        loss = prediction.loss * self.trainer.world_size / masked
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_accuracy", prediction.correct / prediction.masked.clamp(min=1))
        penalty = output.feature_penalty
        # a frozen front end's penalty is a constant
        if penalty is not None and penalty.requires_grad:
            loss = loss + self.hparams["feature_penalty"] * penalty
            self.log("feature_penalty", penalty)
        return loss

    @override
    def validation_step(self, batch: PretrainBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Predict under masks that depend on the batch alone, so that epochs and models are compared on the same."""
        first = int(batch["indices"][0])
        prediction, _ = self._predict(batch, mask_seed=first)
        cast("MaskedPredictionMetric", self.metrics[dataloader_idx]).update(prediction, key=first)

    @override
    def on_validation_epoch_end(self) -> None:
        """Log loss (nats per masked frame), accuracy and codebook usage; unseen speakers apart."""
        for name, module in zip(VALIDATION_SETS, self.metrics, strict=True):
            metric = cast("MaskedPredictionMetric", module)
            if metric.update_called:
                for score, value in metric.compute().items():
                    self.log(f"val_{score}{name}", value, prog_bar=score == "loss")
                metric.reset()

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam (0.9, 0.98) as in fairseq, with linear warm-up and linear decay to 0."""
        rate, speaker_rate = self.hparams["learning_rate"], self.hparams["speaker_learning_rate"]
        head_rate = self.hparams["head_learning_rate"] or (1e-3 if self.hparams["released_head"] is None else rate)
        parts: dict[str, tuple[Any, float]] = {
            "encoder": (self.personalized.encoder, rate),
            "head": (self.head, head_rate),
            "speakers": (self.personalized.speakers, speaker_rate),
            "fusion": (self.personalized.fusion, speaker_rate),
        }
        groups = [{"name": name, "params": part.parameters(), "lr": its} for name, (part, its) in parts.items()]
        decay, share = self.hparams["weight_decay"], self.hparams["warmup_share"]
        return self.adamw(groups, share, betas=(0.9, 0.98), eps=1e-6, weight_decay=decay)
