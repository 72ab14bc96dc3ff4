"""An encoder small enough to train from random weights on two processor cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.audio import HOP, WINDOW
from ser_personal.encoder.hubert import LOG_MEL, HubertEncoder
from ser_personal.errors import UserError
from ser_personal.ranges import require_range

if TYPE_CHECKING:
    from torch import nn


class TinyEncoder(HubertEncoder):
    """HuBERT's Transformer, pre-norm, over log-mel frames: about 0.2 million parameters, random weights. Ours.

    For the demo, for tests, and for corpora and machines too small for HuBERT. Log-mel instead of convolutions over
    the wave, since convolutions of that size learn far more slowly.

    Args:
        dim: width of the Transformer.
        layers: Transformer layers.
        heads: attention heads.
        feed_forward_dim: width of the layers' feed-forward part.
        num_mels: mel bins.
        dropout: of the Transformer.
        freeze_layers: keep that many of the first Transformer layers as they are, and the projection before them.

    Raises:
        UserError: a number is out of its range, or `heads` doesn't divide `dim`.
    """

    def __init__(
        self,
        dim: int = 64,
        layers: int = 4,
        heads: int = 4,
        feed_forward_dim: int = 256,
        num_mels: int = 40,
        dropout: float = 0.0,
        freeze_layers: int = 0,
    ) -> None:
        for name, value in {
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "feed_forward_dim": feed_forward_dim,
            "num_mels": num_mels,
        }.items():
            require_range(name, value, 1)
        if dim % heads:
            raise UserError(f"{heads} don't divide dim, {dim}", where="heads", remedy="Give a divisor of dim")
        require_range("freeze_layers", freeze_layers, 0, layers)
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
            "conv_dim": [num_mels],
            "conv_kernel": [WINDOW],
            "conv_stride": [HOP],
            "feat_extract_norm": "group",
            "feat_proj_layer_norm": False,
        }

    def _load(self) -> nn.Module:
        return self._from_config(dict(self.architecture))
