"""`ser cache`: an encoder runs once over a corpus, and its frames stay on disk for every later epoch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import numpy as np

# Imported so that their short class names work in configs.
import ser_personal.encoder.hubert  # noqa: F401
from ser_personal.audio import HOP, SAMPLE_RATE
from ser_personal.data.datamodule import AudioDataModule
from ser_personal.data.frame_store import FeatureCache
from ser_personal.encoder.base import Encoder, weights_fingerprint
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.module import DESCRIPTION, PREFIX, read_checkpoint
from ser_personal.encoder.personalized import saved_encoder
from ser_personal.errors import LARGEST_SEED, UserError, require_range
from ser_personal.files import content_hash
from ser_personal.pretrain.teachers import EncoderTeacher
from ser_personal.types import FeatureSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import Trainer
    from numpy.typing import NDArray
    from torch import nn

    from ser_personal.data.loader import SpeechLoader
    from ser_personal.types import EncoderOutput, SpeechBatch, Utterance


def cache(
    data: AudioDataModule,
    encoder: Encoder | None = None,
    checkpoint: str | None = None,
    layer: int | None = None,
    stride: int = 10,
    reduction: Literal["mean", "first"] = "mean",
    out: str = "feature_cache",
    seed: int = 0,
    accelerator: str = "auto",
    precision: str = "32-true",
) -> None:
    """Write what an encoder makes of every utterance into a feature cache; nothing of a speaker embedding enters.

    Goes on where an interrupted run with the same settings stopped, to the same bytes on the same machine.

    Args:
        data: which audio.
        encoder: HuBERT-large if None; not with `checkpoint`.
        checkpoint: take the encoder of this one, such as papt.ckpt or tapt.ckpt.
        layer: 1-based layer of the encoder, transformers' `hidden_states[layer]`; None for its output.
        stride: how many frames become one; a shorter rest at the end becomes one as well.
        reduction: how they do: their mean, or the first of them.
        out: folder of the cache.
        seed: of weights that aren't pre-trained.
        accelerator: what the encoder runs on, as Lightning names it.
        precision: of the encoder, as Lightning names it.

    Raises:
        UserError: a setting is impossible, or `out` holds the features of another encoder or of other audio.
    """
    from ser_personal.pretrain.teacher_pass import run_pass

    started = time.perf_counter()
    require_range("stride", stride, 1)
    require_range("seed", seed, 0, LARGEST_SEED)
    built, name = _encoder_of(checkpoint, encoder) if checkpoint else _fresh(encoder or HubertEncoder(), data, seed)
    source = FeatureSource(
        encoder=name,
        dim=built.dim,
        frame_seconds=stride * HOP / SAMPLE_RATE,
        encoder_hash=_hash(built, precision),
        layer=layer,
        stride=stride,
        reduction=reduction,
        max_samples=data.max_samples,
    )
    network = built if layer is None else _layer(built, layer)
    batches = data.batches()
    store = FeatureCache.create(out, source)
    # Batches keep their make-up, on which a network's rounding depends: the one broken off is run again whole.
    left = [batch for batch in batches if not _is_written(batch, data.utterances, store)]
    if left:
        task = FrameTask(data.utterances, data.loader_of(left), store)
        run_pass(network, task, accelerator=accelerator, devices=1, precision=precision)
    store.finish()
    print(
        f"{out}: {len(store):,} utterances, {store.total_frames:,} frames of {source.dim} values, "
        f"{store.total_frames * source.dim * 2 / 1e6:,.1f} MB, {time.perf_counter() - started:.1f} s"
    )


class FrameTask:
    """Writes the frames of utterances that have none yet, on one process."""

    title = "Encoding"

    def __init__(self, utterances: Sequence[Utterance], loader: SpeechLoader[SpeechBatch], store: FeatureCache) -> None:
        self.utterances, self._loader, self.store = utterances, loader, store

    def loader(self, trainer: Trainer) -> SpeechLoader[SpeechBatch]:
        """See `PassTask`."""
        return self._loader

    def finish(self, trainer: Trainer) -> None:
        """See `PassTask`."""

    def take(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        """See `PassTask`."""
        source = self.store.source
        frames, audio = {}, {}
        for index, of_utterance, real in zip(batch["indices"].tolist(), output.frames, output.frame_mask, strict=True):
            utterance = self.utterances[index]
            whole = of_utterance[real].float().cpu().numpy()
            frames[utterance.utterance_id] = strided(whole, source.stride, source.reduction)
            audio[utterance.utterance_id] = utterance.path
        self.store.write(frames, audio)


def strided(frames: NDArray[np.float32], stride: int, reduction: str) -> NDArray[np.float32]:
    """Make one frame of every `stride`: (frames, dim) -> fewer; the last is made of as many as are left."""
    starts = np.arange(0, len(frames), stride)
    if reduction == "first":
        return frames[starts]
    counts = np.diff(starts, append=len(frames)).astype(np.float32)
    sums: NDArray[np.float32] = np.add.reduceat(frames, starts, axis=0, dtype=np.float32)
    return (sums / counts[:, None]).astype(np.float32)


def _is_written(batch: Sequence[int], utterances: Sequence[Utterance], store: FeatureCache) -> bool:
    stored = [utterances[index] for index in batch if utterances[index].utterance_id in store]
    for utterance in stored:
        store.refuse_changed(utterance.utterance_id, utterance.path)
    return len(stored) == len(batch)


def _fresh(encoder: Encoder, data: AudioDataModule, seed: int) -> tuple[Encoder, str]:
    import torch

    torch.manual_seed(seed)
    encoder.build()
    encoder.fit_front_end(data.training_audio)
    return encoder, " ".join([type(encoder).__name__, getattr(encoder, "pretrained", "")]).strip()


def _encoder_of(path: str, asked: Encoder | None) -> tuple[Encoder, str]:
    """Take the encoder out of a checkpoint.

    Raises:
        UserError: there is none in it, or another one is asked for.
    """
    if asked is not None:
        what = f"{type(asked).__name__} is asked for besides"
        raise UserError(what, where=f"--checkpoint {path}", remedy="Give either --encoder or --checkpoint")
    checkpoint = read_checkpoint(path)
    description = checkpoint[DESCRIPTION]
    encoder = saved_encoder(description["encoder_config"], path)
    encoder.build(description["encoder_config"])
    prefix = f"{PREFIX}encoder."
    weights = checkpoint["state_dict"]
    encoder.load_state_dict({name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)})
    return encoder, f"{description['encoder']} of {path}"


def _layer(encoder: Encoder, layer: int) -> nn.Module:
    if not isinstance(encoder, HubertEncoder):
        remedy = "Leave --layer out, or give a HubertEncoder"
        raise UserError(f"{type(encoder).__name__} has no layers", where=f"--layer {layer}", remedy=remedy)
    return EncoderTeacher(encoder, layer)


def _hash(encoder: Encoder, precision: str) -> str:
    """Identify what frames depend on: kind, configuration, weights, and the precision they are computed in."""
    return content_hash(type(encoder).__name__, encoder.config, weights_fingerprint(encoder.state_dict()), precision)
