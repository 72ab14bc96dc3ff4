"""HuBERT and its relatives, by hub name or local folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any, cast

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from ser_personal.audio import HOP, WINDOW, normalize, num_frames
from ser_personal.encoder.base import real_frames
from ser_personal.encoder.hugging_face import PretrainedEncoder
from ser_personal.encoder.raw import LogMelFrontEnd
from ser_personal.encoder.speaker_fusion import UNPERSONALIZED, Personalization
from ser_personal.errors import UserError
from ser_personal.types import EncoderOutput, NonNegativeFinite, TrainingSet

LOG_MEL = "log_mel"


class HubertEncoder(PretrainedEncoder):
    """A pre-trained HuBERT, WavLM, wav2vec 2.0 or UniSpeech-SAT from transformers.

    Args:
        pretrained: name on the Hugging Face hub, or a local folder.
        freeze_cnn: keep the convolutions as they are, and run them without autograd.
        freeze_layers: keep that many of the first Transformer layers as they are, and all that is below them.
        normalize: bring each waveform to zero mean and unit variance; None: as in pre-training (large yes, base no).
        gradient_scale: factor on the gradient of the convolutions (fairseq's feature_grad_mult: large 1, base 0.1).
        dropout: of the Transformer; 0 as in HuBERT-large's pre-training (base: 0.1).
        gradient_checkpointing: recompute activations in the backward pass, for less memory.
        weighted_layers: output a sum of all hidden states by weights learnt in fine-tuning, not the last layer's alone.
    """

    model_types = ("hubert", "wavlm", "wav2vec2", "unispeech-sat")
    feed_forward = ("intermediate_dense", "output_dense")
    front_end: ConvFrontEnd | LogMelFrontEnd

    def __init__(
        self,
        pretrained: str = "facebook/hubert-large-ll60k",
        *,
        freeze_cnn: bool = False,
        freeze_layers: NonNegativeInt = 0,
        normalize: bool | None = None,
        gradient_scale: NonNegativeFinite = 1.0,
        dropout: ClosedUnitInterval = 0.0,
        gradient_checkpointing: bool = False,
        weighted_layers: bool = False,
    ) -> None:
        super().__init__(
            pretrained,
            freeze_layers=freeze_layers,
            gradient_checkpointing=gradient_checkpointing,
            weighted_layers=weighted_layers,
            hidden_dropout=dropout,
            attention_dropout=dropout,
            # as fairseq's pre-training has it, of base and large
            activation_dropout=0.0,
            feat_proj_dropout=dropout,
            # a layer that is skipped breaks DDP and gradient checkpointing
            layerdrop=0.0,
            # masked_spec_embed exists only where one of transformers' own masking probabilities isn't zero
            mask_time_prob=0.05,
        )
        self.freeze_cnn = freeze_cnn or bool(freeze_layers)
        self.gradient_scale = gradient_scale
        if normalize is not None:
            self.overrides["normalize"] = normalize

    @override
    def _frozen(self) -> Iterator[nn.Module]:
        if self.freeze_cnn:
            yield self.front_end
        if self.freeze_layers:
            encoder = self.network.encoder
            self.freeze_mask_embedding()
            yield from (self.network.feature_projection, encoder.pos_conv_embed, *encoder.layers[: self.freeze_layers])
            # In post-norm models this norm stands before the layers.
            if not self.network.config.do_stable_layer_norm:
                yield encoder.layer_norm

    @override
    def _adjust(self, config: Any) -> Any:
        window, hop = 1, 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            window, hop = window + (kernel - 1) * hop, hop * stride
        # frames are counted so everywhere
        if (window, hop) != (WINDOW, HOP):
            raise UserError(
                f"its convolutions make a frame of {window} samples every {hop}",
                where=f"encoder {self.pretrained}",
                remedy=f"Give an encoder whose frames are of {WINDOW} samples every {HOP}, as HuBERT's are",
            )
        return super()._adjust(config)

    @override
    def _make_front_end(self, training_set: TrainingSet | None) -> None:
        layers = self.network.feature_extractor.conv_layers
        # Our front end holds the convolutions; transformers' container would list their weights a second time.
        self.network.feature_extractor = nn.Identity()
        if getattr(self.network.config, "front_end", None) == LOG_MEL:
            self.front_end = LogMelFrontEnd(self.network.config.conv_dim[-1])
            if training_set is not None:
                self.front_end.fit(training_set.training_audio)
        else:
            self.front_end = ConvFrontEnd(layers, self.gradient_scale)

    @property
    def max_samples(self) -> int | None:
        """Samples of an utterance that an imported model encodes, the first ones; None for all."""
        return cast("int | None", getattr(self.network.config, "max_samples", None))

    @override
    def freeze_mask_embedding(self) -> None:
        self.network.masked_spec_embed.requires_grad_(requires_grad=False)

    @override
    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        time_mask: Tensor | None = None,
        personalization: Personalization = UNPERSONALIZED,
    ) -> EncoderOutput:
        if self.max_samples is not None and time_mask is None:
            waveforms, num_samples = waveforms[:, : self.max_samples], num_samples.clamp(max=self.max_samples)
        config = self.network.config
        # true, or the mean and standard deviation of an imported model's corpus
        how = getattr(config, "normalize", config.feat_extract_norm == "layer")
        if how:
            waveforms = normalize(waveforms, num_samples, None if how is True else how)
        features = self.front_end(waveforms, num_samples)
        frame_mask = real_frames(num_samples, features)
        hidden = self.network.feature_projection(features)
        # wav2vec 2.0 and WavLM give the normalised features as well
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if time_mask is not None:
            hidden = torch.where(time_mask[..., None], self.network.masked_spec_embed.to(hidden.dtype), hidden)
        hidden = personalization.before_transformer(hidden)
        attention_mask = None
        # Without a mask the fast attention kernel runs; an exported graph can't ask.
        if torch.compiler.is_exporting() or bool((num_frames(num_samples) < features.shape[1]).any()):
            prefix = frame_mask.new_ones(frame_mask.shape[0], hidden.shape[1] - frame_mask.shape[1])
            attention_mask = torch.cat([prefix, frame_mask], dim=1)
        with _kept_states([] if self.layer_weights is None else self.layers) as states:
            frames = self.network.encoder(hidden, attention_mask=attention_mask).last_hidden_state
        if self.layer_weights is not None:
            frames = self.weighted_sum([*states[:-1], frames])
        frames = personalization.after_transformer(frames)
        penalty = (features.float().square().mean(-1) * frame_mask).sum() / frame_mask.sum().clamp(min=1)
        return EncoderOutput(frames, frame_mask, time_mask, penalty)

    def hidden_states(self, waveforms: Tensor, num_samples: Tensor, layer: int) -> EncoderOutput:
        """Encode up to a layer, 1-based: transformers' `hidden_states[layer]`, as a k-means teacher does."""
        layers = self.network.encoder.layers
        if not 1 <= layer <= len(layers):
            remedy = f"Choose from 1 to {len(layers)}"
            raise UserError(f"no layer {layer}", where=f"encoder of {len(layers)} layers", remedy=remedy)
        # Without those above it, whose work would be thrown away.
        self.network.encoder.layers = layers[:layer]
        try:
            with _kept_states(layers[:layer]) as states:
                output = self(waveforms, num_samples)
        finally:
            self.network.encoder.layers = layers
        return EncoderOutput(states[layer], output.frame_mask)


class ConvFrontEnd(nn.Module):
    """A transformers model's convolutions, their group norm over real frames alone, so that no batch matters (ours)."""

    def __init__(self, layers: nn.ModuleList, gradient_scale: float = 1.0) -> None:
        super().__init__()
        self.conv_layers = layers
        self.gradient_scale = gradient_scale

    @override
    def forward(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        hidden = waveforms[:, None]
        layer: Any
        for layer in self.conv_layers:
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                hidden = layer.conv(hidden)
                lengths = (num_samples - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
                hidden = layer.activation(_norm_over_real_frames(hidden, lengths, norm))
            else:
                hidden = layer(hidden)
        if hidden.requires_grad and self.gradient_scale != 1.0:
            hidden = hidden * self.gradient_scale + hidden.detach() * (1 - self.gradient_scale)
        return hidden.transpose(1, 2)


def _norm_over_real_frames(hidden: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    if not torch.compiler.is_exporting() and bool((lengths >= hidden.shape[2]).all()):
        normed: Tensor = norm(hidden)
        return normed
    lengths = lengths.to(hidden.device, non_blocking=True)
    real = (torch.arange(hidden.shape[2], device=hidden.device) < lengths[:, None])[:, None]
    count = lengths[:, None, None]
    values = hidden.float()
    mean = (values * real).sum(2, keepdim=True) / count
    variance = ((values - mean).square() * real).sum(2, keepdim=True) / count
    normed = (values - mean) * torch.rsqrt(variance + norm.eps)
    return (normed * norm.weight[:, None] + norm.bias[:, None]).to(hidden.dtype)


@contextmanager
def _kept_states(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    states: list[Tensor] = []
    thread = get_ident()

    def keep(state: Tensor) -> None:
        if get_ident() == thread:
            states.append(state)

    hooks = [layer.register_forward_pre_hook(lambda _, inputs: keep(inputs[0])) for layer in layers[:1]]
    hooks += [
        layer.register_forward_hook(lambda _, __, output: keep(output[0] if isinstance(output, tuple) else output))
        for layer in layers
    ]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


class TinyEncoder(HubertEncoder):
    """HuBERT's Transformer, pre-norm, over log-mel frames: about 0.2 million parameters, random weights. Ours.

    For the demo, for tests, and for corpora and machines too small for HuBERT. Convolutions would learn more slowly.

    Args:
        dim: width of the Transformer.
        layers: Transformer layers.
        heads: attention heads.
        feed_forward_dim: width of the layers' feed-forward part.
        dropout: of the Transformer.
        freeze_layers: keep that many of the first Transformer layers as they are, and all that is below them.
    """

    def __init__(
        self,
        dim: PositiveInt = 64,
        layers: PositiveInt = 4,
        heads: PositiveInt = 4,
        feed_forward_dim: PositiveInt = 256,
        dropout: ClosedUnitInterval = 0.0,
        freeze_layers: NonNegativeInt = 0,
    ) -> None:
        if dim % heads:
            raise UserError(f"{heads} don't divide dim, {dim}", where="heads", remedy="Give a divisor of dim")
        super().__init__("tiny", freeze_layers=freeze_layers, dropout=dropout)
        self.architecture = {
            "model_type": "hubert",
            "front_end": LOG_MEL,
            "hidden_size": dim,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": feed_forward_dim,
            "do_stable_layer_norm": True,
            "num_conv_pos_embeddings": 15,
            "num_conv_pos_embedding_groups": heads,
            # one stand-in convolution of log-mel's window and hop, replaced by the front end
            "conv_dim": [40],
            "conv_kernel": [WINDOW],
            "conv_stride": [HOP],
            "feat_extract_norm": "group",
            "feat_proj_layer_norm": False,
        }

    @override
    def _load(self, saved: dict[str, Any]) -> Any:
        return self._from_config(self.architecture)
