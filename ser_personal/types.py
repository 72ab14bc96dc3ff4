"""The data that one room hands to the next, and types of arguments that have a range."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import inf, isnan
from typing import TYPE_CHECKING, Literal, NamedTuple, NotRequired, Protocol, TypeAlias, TypedDict
from unicodedata import normalize

from jsonargparse.typing import restricted_number_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

ATTRIBUTES = ("arousal", "valence", "dominance")
# pads pseudo-labels, and is no cluster
NO_PSEUDO_LABEL = -100
# of pseudo-labels, which are stored in two bytes
MAX_CLUSTERS = 2**16

Attribute = Literal["arousal", "valence", "dominance"]
FusionName = Literal["none", "first", "prefix", "concat", "last"]

# jsonargparse runs the TYPE_CHECKING block of the module that declares a signature: use these types by import only
if TYPE_CHECKING:
    AtLeastTwo: TypeAlias = int
    NonNegativeFinite: TypeAlias = float
    NumClusters: TypeAlias = int
    Port: TypeAlias = int
    PositiveFinite: TypeAlias = float
    Seed: TypeAlias = int
    Share: TypeAlias = float
else:
    AtLeastTwo = restricted_number_type("AtLeastTwo", int, (">=", 2))
    NonNegativeFinite = restricted_number_type("NonNegativeFinite", float, [(">=", 0), ("<", inf)])
    NumClusters = restricted_number_type("NumClusters", int, [(">", 0), ("<=", MAX_CLUSTERS)])
    Port = restricted_number_type("Port", int, [(">=", 0), ("<=", 65_535)])
    PositiveFinite = restricted_number_type("PositiveFinite", float, [(">", 0), ("<", inf)])
    # faiss takes no larger one
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<=", 2**31 - 1)])
    Share = restricted_number_type("Share", float, [(">", 0), ("<=", 1)])


@dataclass(frozen=True)
class Utterance:
    """One recording of one speaker and what is annotated of it.

    Attributes:
        utterance_id: unique in its corpus.
        path: the audio file.
        split: train, validation, test1, test2, ...
        speaker_id: None when unknown.
        gender: as the corpus spells it, None when unknown.
        seconds: duration, NaN where the audio can't be read.
        start: where in the file it begins, seconds; None where it is the whole file.
        labels: attribute -> label points, that is values on the corpus's scale, NaN where missing.
        emotion: categorical emotion, None when there is none.
    """

    utterance_id: str
    path: Path
    split: str
    speaker_id: str | None = None
    gender: str | None = None
    seconds: float = float("nan")
    labels: dict[str, float] = field(default_factory=dict)
    emotion: str | None = None
    start: float | None = None


@dataclass(frozen=True)
class FeatureSource:
    """What made the frames of a feature cache; two that agree here give the same frames.

    Attributes:
        encoder: as a person would name it ("HubertEncoder facebook/hubert-large-ll60k", "openai/whisper-small").
        dim: width of the frames.
        frame_seconds: from one frame to the next.
        encoder_hash: of the encoder's weights, configuration and precision; empty where the name says it all.
        layer: 1-based layer of the encoder, None for its output.
        stride: how many of the encoder's frames became one, their mean.
        max_samples: how many samples, the last ones, of longer audio were encoded; 0 for all.
    """

    encoder: str
    dim: int
    frame_seconds: float
    encoder_hash: str = ""
    layer: int | None = None
    stride: int = 1
    max_samples: int = 0


class SpeakerBatch(TypedDict):
    """The speakers of a batch of any kind.

    Attributes:
        speaker_ids: (batch,), None where unknown.
        indices: (batch,), positions in the datamodule's `utterances`.
        speaker_features: (batch, feature_dim), what is known of each speaker besides the name, NaN for an unknown one;
            absent where the datamodule has no such features.
    """

    speaker_ids: list[str | None]
    indices: Tensor
    speaker_features: NotRequired[Tensor]


class SpeechBatch(SpeakerBatch):
    """Audio of one batch, padded at the end.

    Attributes:
        waveforms: (batch, samples), 16 kHz, zeros after each utterance's end.
        num_samples: (batch,), real samples of each.
    """

    waveforms: Tensor
    num_samples: Tensor


class CachedBatch(SpeakerBatch):
    """Cached frames of one batch instead of audio, padded at the end.

    Attributes:
        features: (batch, frames, dim), float16, zeros after each utterance's end.
        num_frames: (batch,), real frames of each.
    """

    features: Tensor
    num_frames: Tensor


class PretrainBatch(SpeechBatch):
    """Audio and its k-means ids.

    Attributes:
        pseudo_labels: (batch, frames), -100 after each utterance's end.
    """

    pseudo_labels: Tensor


class EmotionBatch(SpeechBatch):
    """Audio and its emotion annotations.

    Attributes:
        labels: (batch, attributes) in the order of `ATTRIBUTES`, NaN where missing.
        emotions: (batch,), categorical emotion, None where there is none.
        weights: (batch,), of each utterance in the loss; absent where all are equal.
    """

    labels: Tensor
    emotions: list[str | None]
    weights: NotRequired[Tensor]


class EncoderOutput(NamedTuple):
    """What an encoder makes of a batch.

    Attributes:
        frames: (batch, frames, dim), already personalised.
        frame_mask: (batch, frames), True on real frames.
        time_mask: (batch, frames), True on masked frames; None where nothing is masked.
        feature_penalty: scalar, mean square of the front end's output over real frames; None unless asked for.
        speaker_embedding: e_s, (batch, dim), for interpreters that read it as a token; None where nothing is fused.
    """

    frames: Tensor
    frame_mask: Tensor
    time_mask: Tensor | None = None
    feature_penalty: Tensor | None = None
    speaker_embedding: Tensor | None = None


class PredictionBatch(TypedDict):
    """What a fine-tuned model predicts for one batch.

    Attributes:
        indices: (batch,), positions in the datamodule's `utterances`.
        speaker_ids: (batch,), None where unknown.
        pooled: (batch, dim), mean of the personalised frames over real frames.
        predictions: (batch, attributes), the model's attributes in its own order; (batch, emotions) where it predicts
            categorical emotion: logits while it trains, else probabilities.
        labels: (batch, attributes), NaN where missing; or (batch, emotions), 1 for an utterance's own, else 0.
    """

    indices: Tensor
    speaker_ids: list[str | None]
    pooled: Tensor
    predictions: Tensor
    labels: Tensor


class TrainingSet(Protocol):
    """What a LightningModule may ask the trainer's datamodule for at the start of training.

    Attributes:
        train_speaker_ids: known training speakers, sorted.
        train_hashes: of the training utterances, as `utterance_hashes` makes them.
        hashes_of_speakers: known speaker of any set -> the `utterance_hash` of each of their utterances.
        scale: lowest and highest value of a label.
        train_label_mean: attribute -> mean label of the training set; attributes without labels are left out.
        train_emotions: categorical emotion -> how many training utterances have it, sorted.
        frame_source: what made the frames that batches hold instead of audio; None where they hold audio.
        frames_trained_on: the `utterance_hashes` of what the encoder of these frames was adapted or trained on.
    """

    train_speaker_ids: list[str]
    train_hashes: frozenset[str]
    hashes_of_speakers: dict[str, set[str]]
    scale: tuple[float, float]
    train_label_mean: dict[str, float]
    train_emotions: dict[str, int]
    frame_source: FeatureSource | None
    frames_trained_on: frozenset[str]

    def speaker_features_of(self, speaker_ids: Sequence[str]) -> NDArray[np.float32] | None:
        """Features of speakers, (speakers, feature_dim); None where the datamodule has none."""

    def training_audio(self, limit: int) -> Iterator[NDArray[np.float32]]:
        """At most `limit` training waveforms (samples,), spread evenly over the set, the same on every rank."""


class PretrainingSet(TrainingSet, Protocol):
    """What PAPT asks for in addition.

    Attributes:
        num_clusters: size of the codebook that the pseudo-labels come from.
        codebook_hash: of that codebook.
        pretraining_hashes: of the utterances that are pre-trained on, or held out to choose the checkpoint.
    """

    num_clusters: int
    codebook_hash: str
    pretraining_hashes: frozenset[str]


def plain_name(name: str) -> str:
    """One spelling for a name of a person, an utterance or a recording: Unicode's NFC, no blanks around it."""
    return normalize("NFC", name).strip()


def utterance_hash(utterance: Utterance) -> str:
    """Hash id and length of an utterance, or the id alone where its audio can't be read, 8 characters.

    Two of a million utterances share a hash with a probability of .002.
    """
    length = "" if isnan(utterance.seconds) else f"\t{utterance.seconds:.4f}"
    return b64encode(blake2b(f"{utterance.utterance_id}{length}".encode(), digest_size=6).digest()).decode()


def utterance_hashes(utterances: Iterable[Utterance]) -> frozenset[str]:
    """The hashes by which a checkpoint recognises these utterances, with or without their audio."""
    unread = float("nan")
    return frozenset(utterance_hash(each) for one in utterances for each in (one, replace(one, seconds=unread)))


def pack_hashes(hashes: frozenset[str]) -> str:
    """Join the hashes in one string, which any checkpoint and JSON can hold."""
    return "".join(sorted(hashes))


def unpack_hashes(packed: str) -> frozenset[str]:
    """Undo `pack_hashes`."""
    return frozenset(packed[start : start + 8] for start in range(0, len(packed), 8))
