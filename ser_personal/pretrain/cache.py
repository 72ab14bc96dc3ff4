"""`ser cache`: an encoder runs once over a corpus, and training reads its frames from disk."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from numpy.typing import NDArray
from torch import Tensor, nn

from ser_personal.audio import HOP, SAMPLE_RATE
from ser_personal.data.datamodule import AllUtterancesDataModule
from ser_personal.data.frame_store import FeatureCache
from ser_personal.encoder.base import Encoder, weights_fingerprint
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.module import DESCRIPTION, ENCODER_KEYS, TRAINED_ON, naming_checkpoint, read_checkpoint
from ser_personal.encoder.personalized import saved_encoder
from ser_personal.errors import UserError
from ser_personal.files import content_hash
from ser_personal.pretrain.teachers import EncoderTeacher, Precision, fill
from ser_personal.types import FeatureSource, Seed, TrainingSet, unpack_hashes


def cache(
    data: AllUtterancesDataModule,
    encoder: Encoder | None = None,
    checkpoint: str | None = None,
    layer: PositiveInt | None = None,
    stride: PositiveInt = 10,
    out: str = "feature_cache",
    seed: Seed = 0,
    accelerator: str = "auto",
    precision: Precision = "32-true",
) -> None:
    """Write an encoder's frames of every utterance into a feature cache, without any speaker embedding.

    Resumes where an interrupted run with the same settings stopped, to the same bytes on the same machine.

    Args:
        data: which audio.
        encoder: HuBERT-large if None; not with `checkpoint`.
        checkpoint: take the encoder of this one, such as papt.ckpt or tapt.ckpt.
        layer: 1-based layer of the encoder, transformers' `hidden_states[layer]`; None for its output.
        stride: how many frames become one, their mean; the last one may be of fewer.
        out: folder of the cache.
        seed: of weights that aren't pre-trained.
        accelerator: what the encoder runs on, as Lightning names it.
        precision: of the encoder, as Lightning names it.
    """
    trained_on: frozenset[str] = frozenset()
    if checkpoint:
        built, name, trained_on = _from_checkpoint(checkpoint, encoder)
    else:
        torch.manual_seed(seed)
        built = encoder or HubertEncoder()
        built.build(training_set=cast("TrainingSet", data))
        built.adapt(None)
        name = " ".join([type(built).__name__, getattr(built, "pretrained", "")]).strip()
    network: nn.Module = built
    if layer is not None:
        if not isinstance(built, HubertEncoder):
            what, remedy = f"chooses no layer of {type(built).__name__}", "Leave it out, or give a HubertEncoder"
            raise UserError(what, where=f"--layer {layer}", remedy=remedy)
        network = EncoderTeacher(built, layer)
    source = FeatureSource(
        encoder=name,
        dim=built.dim,
        frame_seconds=stride * HOP / SAMPLE_RATE,
        encoder_hash=content_hash(
            type(built).__name__, built.config, weights_fingerprint(built.state_dict()), precision
        ),
        layer=layer,
        stride=stride,
        max_samples=data.max_samples,
    )
    store = FeatureCache.create(out, source, trained_on)

    def means(frames: Tensor) -> NDArray[np.floating]:
        values = frames.float().cpu().numpy()
        # the last mean is of as many frames as are left
        starts = np.arange(0, len(values), stride)
        counts = np.diff(starts, append=len(values)).astype(np.float32)
        return np.add.reduceat(values, starts) / counts[:, None]

    fill(store, data, network, means, accelerator=accelerator, devices=1, precision=precision)
    frames = sum(map(store.num_frames, store))
    size = f"{frames * source.dim * 2 / 1e6:,.1f} MB"
    print(f"{out}: {len(store):,} utterances, {frames:,} frames of {source.dim} values, {size}")


def _from_checkpoint(path: str, other: Encoder | None) -> tuple[Encoder, str, frozenset[str]]:
    if other is not None:
        what = f"can't be combined with --encoder {type(other).__name__}"
        raise UserError(what, where=f"--checkpoint {path}", remedy="Give either --encoder or --checkpoint")
    checkpoint = read_checkpoint(path)
    description, weights, prefix = checkpoint[DESCRIPTION], checkpoint["state_dict"], f"{ENCODER_KEYS}encoder."
    with naming_checkpoint(path):
        encoder = saved_encoder(description["encoder_config"])
        encoder.build(description["encoder_config"])
        encoder.load_state_dict(
            {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
        )
        # test speakers whom it was trained on aren't unseen in its frames
        trained_on = unpack_hashes(description["pretrained_on"]) | unpack_hashes(checkpoint.get(TRAINED_ON, ""))
        return encoder, f"{description['encoder']} of {path}", trained_on
