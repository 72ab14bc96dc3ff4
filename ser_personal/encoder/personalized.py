"""Encoder, speaker embedding and their fusion (speaker_fusion.py): from a batch to personalised frames."""

import json
from copy import deepcopy
from typing import TypedDict, TypeVar
from weakref import WeakSet

from torch import Tensor, nn
from typing_extensions import override

from ser_personal.encoder.base import Encoder, weights_fingerprint
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.raw import CachedFeatures, LogMelEncoder, MFCCEncoder
from ser_personal.encoder.speaker_fusion import Fusion, Personalization, make_fusion
from ser_personal.encoder.whisper import WhisperEncoder
from ser_personal.errors import UserError, require_one_of
from ser_personal.files import content_hash
from ser_personal.speakers.embedding import SpeakerDescription, SpeakerRepresentation
from ser_personal.types import EncoderOutput, FusionName, SpeakerBatch, TrainingSet, pack_hashes, unpack_hashes

_KINDS: dict[str, type[Encoder]] = {
    "log_mel": LogMelEncoder,
    "mfcc": MFCCEncoder,
    "cached_features": CachedFeatures,
    "whisper": WhisperEncoder,
}
_OF_MODELS: WeakSet[nn.Module] = WeakSet()
Part = TypeVar("Part", bound=nn.Module)
# transformers' settings beside those of dropout that change no frame in a test
_NOT_OF_FRAMES = ("_name_or_path", "transformers_version")


def saved_encoder(config: str) -> Encoder:
    """Make an encoder of the kind that a saved `Encoder.config` describes, not built yet."""
    return _KINDS.get(json.loads(config).get("model_type"), HubertEncoder)()


def own(part: Part, *, copy: bool = False) -> Part:
    """Make a part, or a copy of it, a model's own; another model's is refused."""
    # a fit would train the other's weights, or make them again unnoticed
    if part in _OF_MODELS:
        remedy = "Make a new one; papt_checkpoint or initial_checkpoint hands trained weights on"
        raise UserError("is part of another model", where=type(part).__name__, remedy=remedy)
    part = deepcopy(part) if copy else part
    _OF_MODELS.add(part)
    return part


class EncoderDescription(TypedDict):
    """What a checkpoint says of its personalised encoder, enough to build it before its weights are loaded."""

    encoder: str
    encoder_config: str
    fusion: FusionName
    speakers: SpeakerDescription | None
    # hashes of the utterances of PAPT or TAPT, else of those that e_s was learnt on, as `pack_hashes` has them
    pretrained_on: str


class PersonalizedEncoder(nn.Module):
    """f^p: an encoder's frames with the speaker's embedding e_s fused in (paper, section 2.1)."""

    def __init__(self, encoder: Encoder, speakers: SpeakerRepresentation, fusion: FusionName) -> None:
        super().__init__()
        require_one_of("fusion", fusion, FusionName)
        self.encoder, self.speakers = own(encoder), own(speakers, copy=True)
        self.fusion_name: FusionName = fusion
        self.fusion: Fusion | None = None
        self.pretrained_on: frozenset[str] = frozenset()

    @property
    def is_built(self) -> bool:
        """Whether the networks exist."""
        return self.fusion is not None

    @property
    def dim(self) -> int:
        """Width of the frames."""
        return self.encoder.dim

    def build(self, training_set: TrainingSet) -> None:
        """Make new networks, the encoder with its pre-trained weights, e_s for the training speakers."""
        speaker_ids = training_set.train_speaker_ids
        features = training_set.speaker_features_of(speaker_ids)
        self.encoder.build(training_set=training_set)
        self.fusion = make_fusion(self.fusion_name, self.encoder.dim, fixed=not self.speakers.is_learnt)
        if self.fusion_name != "none":
            if not speaker_ids:
                remedy = "Name the speakers in the corpus, or train without embeddings (--model.fusion none)"
                raise UserError("no known speaker to embed", where="the training set", remedy=remedy)
            self.speakers.build(speaker_ids, self.encoder.dim, features)

    def rebuild(self, description: EncoderDescription) -> None:
        """Make the networks that a checkpoint describes, their weights to be loaded; freezing and dropout stay."""
        self.fusion_name = description["fusion"]
        self.pretrained_on = unpack_hashes(description["pretrained_on"])
        config = description["encoder_config"]
        # a class outside this package is recognised by its name
        encoder = saved_encoder(config)
        if not isinstance(self.encoder, type(encoder)) and type(self.encoder).__name__ != description["encoder"]:
            self.encoder = encoder
        self.encoder.build(config)
        self.fusion = make_fusion(self.fusion_name, self.encoder.dim, fixed=not self.speakers.is_learnt)
        speakers = description["speakers"]
        if speakers is None:
            if self.speakers.ids:
                self.speakers = type(self.speakers)()
            return
        if speakers["name"] != type(self.speakers).__name__:
            what, remedy = f"was trained with {speakers['name']}", f"Give --model.speakers {speakers['name']}"
            raise UserError(what, where="the checkpoint", remedy=remedy)
        self.speakers.rebuild(speakers, self.encoder.dim)

    @property
    def embedded_speakers(self) -> frozenset[str]:
        """Whose audio made e_s."""
        return frozenset(self.speakers.ids) - self.speakers.namesakes

    def fingerprint(self) -> str:
        """Hash what frames depend on in a test: weights, fusion and settings of encoder and speakers; 32 hex digits."""
        own, config = self.describe(), json.loads(self.encoder.config)
        # a checkpoint may be loaded with other dropout, and by other versions
        names = sorted(name for name in config if "drop" not in name and name not in _NOT_OF_FRAMES)
        settings = own["fusion"], own["speakers"], self.speakers.settings, [(name, config[name]) for name in names]
        return content_hash(f"{settings}", weights_fingerprint(self.state_dict()))

    def describe(self) -> EncoderDescription:
        """Describe the networks for a checkpoint."""
        return EncoderDescription(
            encoder=type(self.encoder).__name__,
            encoder_config=self.encoder.config,
            fusion=self.fusion_name,
            speakers=self.speakers.describe() if self.speakers.ids else None,
            pretrained_on=pack_hashes(self.pretrained_on),
        )

    @override
    def forward(self, batch: SpeakerBatch, time_mask: Tensor | None = None) -> EncoderOutput:
        """Encode a batch, its frames masked where `time_mask` (batch, frames) says so."""
        if self.fusion is None:
            raise RuntimeError("build() the encoder before using it")
        if self.fusion_name == "none":
            return self.encoder.encode(batch, time_mask)
        embedding = self.speakers(batch["speaker_ids"], batch.get("speaker_features"))
        output = self.encoder.encode(batch, time_mask, Personalization(self.fusion, embedding))
        return output._replace(speaker_embedding=embedding)
