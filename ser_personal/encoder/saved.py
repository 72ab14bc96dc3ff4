"""Encoders as checkpoints and bundles describe them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ser_personal.encoder.cached import CachedFeatures
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.raw import EGeMAPSEncoder, LogMelEncoder, MFCCEncoder

if TYPE_CHECKING:
    from ser_personal.encoder.base import Encoder

_OTHERS = {kind.model_type: kind for kind in (LogMelEncoder, MFCCEncoder, EGeMAPSEncoder, CachedFeatures)}


def saved_encoder(config: str, name: str) -> Encoder:
    """Make an encoder of the kind that a saved `config` describes, to be built from it.

    Args:
        config: what `Encoder.config` said.
        name: of the checkpoint or bundle, for messages.
    """
    kind = _OTHERS.get(json.loads(config).get("model_type"))
    return HubertEncoder(name) if kind is None else kind()
