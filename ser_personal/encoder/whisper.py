"""The encoder of Whisper, by hub name or local folder."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from ser_personal.audio import HOP, SAMPLE_RATE, WINDOW
from ser_personal.encoder.hugging_face import PretrainedEncoder
from ser_personal.encoder.speaker_fusion import UNPERSONALIZED, Personalization
from ser_personal.types import EncoderOutput, TrainingSet

# hop of the log-mel spectrogram; the second convolution has stride 2, hence 50 frames a second
MEL_HOP = HOP // 2
FLOOR = 1e-10


class WhisperEncoder(PretrainedEncoder):
    """Whisper's encoder, frozen by default; masked prediction isn't implemented for it.

    There is a frame for each 20 ms begun, none of the silence that pads audio to 30 s; of longer audio the first 30 s
    are encoded.

    Args:
        pretrained: name on the Hugging Face hub, or a local folder.
        freeze_layers: freeze that many of the first Transformer layers, and the convolutions (0: only the positions);
            None means all of the encoder.
        dropout: of the Transformer.
        gradient_checkpointing: recompute activations in the backward pass, for less memory.
        weighted_layers: output a sum of all hidden states by weights learnt in fine-tuning, not the last layer's alone.
    """

    model_types = ("whisper",)
    feed_forward = ("fc1", "fc2")
    filters: Tensor
    window: Tensor

    def __init__(
        self,
        pretrained: str = "openai/whisper-small",
        *,
        freeze_layers: NonNegativeInt | None = None,
        dropout: ClosedUnitInterval = 0.0,
        gradient_checkpointing: bool = False,
        weighted_layers: bool = False,
    ) -> None:
        super().__init__(
            pretrained,
            freeze_layers=freeze_layers,
            gradient_checkpointing=gradient_checkpointing,
            weighted_layers=weighted_layers,
            dropout=dropout,
            attention_dropout=dropout,
            activation_dropout=dropout,
            encoder_layerdrop=0.0,
        )

    @property
    def max_samples(self) -> int:
        """Most samples of an utterance that are encoded, the first ones."""
        return int(self.network.config.max_source_positions) * HOP

    @override
    def _load(self, saved: dict[str, Any]) -> Any:
        return super()._load(saved).encoder

    @override
    def _make(self, config: Any) -> Any:
        # without Whisper's decoder
        from transformers.models.whisper import modeling_whisper

        return modeling_whisper.WhisperEncoder(config)

    @override
    def _make_front_end(self, training_set: TrainingSet | None) -> None:
        from transformers import WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor(feature_size=self.network.config.num_mel_bins)
        self.register_buffer("filters", torch.from_numpy(extractor.mel_filters).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    @override
    def _frozen(self) -> Iterator[nn.Module]:
        if self.freeze_layers is None and self._lora is None:
            yield self.network
        yield self.network.embed_positions
        if self.freeze_layers:
            yield from (self.network.conv1, self.network.conv2, *self.layers[: self.freeze_layers])

    @override
    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        time_mask: Tensor | None = None,
        personalization: Personalization = UNPERSONALIZED,
    ) -> EncoderOutput:
        if int(num_samples.max()) > self.max_samples:
            seconds = self.max_samples // SAMPLE_RATE
            warnings.warn(f"Whisper takes the first {seconds} s of an utterance; some are longer", stacklevel=2)
        counts = (num_samples.clamp(max=self.max_samples) + HOP - 1) // HOP
        longest = int(counts.max())
        hidden = self.log_mel(waveforms, num_samples).to(self.network.conv1.weight.dtype)
        for convolution in (self.network.conv1, self.network.conv2):
            hidden = functional.gelu(convolution(hidden))
        hidden = hidden.transpose(1, 2) + self.network.embed_positions.weight
        hidden = functional.dropout(hidden, self.overrides["dropout"], self.training)
        hidden = personalization.before_transformer(hidden)
        states = [hidden]
        for layer in self.layers:
            states.append(layer(states[-1], None))
        states[-1] = self.network.layer_norm(states[-1])
        frames = states[-1] if self.layer_weights is None else self.weighted_sum(states)
        frames = personalization.after_transformer(frames)
        frame_mask = torch.arange(longest, device=frames.device) < counts.to(frames.device)[:, None]
        return EncoderOutput(frames[:, :longest], frame_mask)

    def log_mel(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        """Whisper's log-mel spectrogram of 30 s, (batch, samples) -> (batch, mels, frames), 100 a second."""
        with torch.autocast(waveforms.device.type, enabled=False):
            waveforms = waveforms[:, : self.max_samples].float()
            real = torch.arange(waveforms.shape[1], device=waveforms.device) < num_samples.to(waveforms.device)[:, None]
            padded = functional.pad(waveforms * real, (0, self.max_samples - waveforms.shape[1]))
            spectrum = torch.stft(padded, WINDOW, MEL_HOP, window=self.window.float(), return_complex=True)[..., :-1]
            power = self.filters.T.float() @ spectrum.abs().square()
            mel = power.clamp(min=FLOOR).log10()
            return (mel.maximum(mel.amax((1, 2), keepdim=True) - 8) + 4) / 4
