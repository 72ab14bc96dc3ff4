"""Encoders as checkpoints and bundles describe them."""

from __future__ import annotations

import json

from ser_personal.encoder.base import Encoder
from ser_personal.encoder.cached import CachedFeatures
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.raw import EGeMAPSEncoder, LogMelEncoder, MFCCEncoder

_OTHERS: dict[str, type[Encoder]] = {
    kind.model_type: kind for kind in (LogMelEncoder, MFCCEncoder, EGeMAPSEncoder, CachedFeatures)
}


def saved_encoder(config: str, name: str) -> Encoder:
    """Make an encoder of the kind that a saved `config` describes, to be built from it.

    Args:
        config: what `Encoder.config` said.
        name: of the checkpoint or bundle, for messages.
    """
    kind = _kind(config)
    return HubertEncoder(name) if kind is HubertEncoder else kind()


def fitting_encoder(asked: Encoder, config: str) -> Encoder:
    """Keep an encoder, and what it says of freezing and dropout, where it is of the saved kind; else make that kind."""
    return asked if isinstance(asked, _kind(config)) else saved_encoder(config, "the checkpoint's")


def _kind(config: str) -> type[Encoder]:
    return _OTHERS.get(json.loads(config).get("model_type"), HubertEncoder)
