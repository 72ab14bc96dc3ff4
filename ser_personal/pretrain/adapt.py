"""New speakers join PAPT's table: a row each, learnt on their unlabelled audio. Ours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt
from typing_extensions import override

from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.module import DESCRIPTION, read_checkpoint, speaker_set
from ser_personal.errors import UserError
from ser_personal.pretrain.papt import CODEBOOK, PAPT
from ser_personal.ranges import PositiveFinite, Seed, Share
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerAudio
from ser_personal.speakers.unseen import Mean, UnseenPolicy

if TYPE_CHECKING:
    from torch import Tensor

    from ser_personal.speakers.unseen import EmbeddingTable, UnseenSpeakers
    from ser_personal.types import PretrainingSet, TrainingSet

_TABLE = "personalized.speakers.embedding.weight"
_REMEDY = "Give one written by `ser fit --config configs/papt.yaml`, with a speaker table"


def _read_papt(path: str) -> dict[str, Any]:
    checkpoint = read_checkpoint(path)
    if CODEBOOK not in checkpoint or checkpoint[DESCRIPTION]["speakers"] is None:
        raise UserError("isn't a checkpoint of PAPT with a speaker table", where=path, remedy=_REMEDY)
    return checkpoint


class SpeakerAdaptation(PAPT):
    """PAPT of the rows of new speakers alone; encoder, head and all other rows are frozen.

    Its checkpoint is PAPT's with a longer table: fine-tuning takes it as `papt_checkpoint`, and a model that is already
    fine-tuned finds the new rows by the policy `Adapted`.

    Args:
        papt_checkpoint: whose encoder, head and table.
        encoder: its settings of freezing, dropout and normalisation; architecture and weights come from PAPT.
        speakers: the table, as in PAPT.
        mask_prob: as in PAPT.
        mask_length: as in PAPT.
        mask_min: as in PAPT.
        learning_rate: of the rows, at its peak.
        warmup_share: share of all steps in which the rate climbs; it falls to 0, linearly, over the rest.
        seed: of the span masks.
    """

    def __init__(
        self,
        papt_checkpoint: str,
        encoder: HubertEncoder | None = None,
        speakers: SpeakerEmbedding | None = None,
        mask_prob: Share = 0.8,
        mask_length: PositiveInt = 10,
        mask_min: NonNegativeInt = 2,
        learning_rate: PositiveFinite = 1e-2,
        warmup_share: ClosedUnitInterval = 0.05,
        seed: Seed = 0,
    ) -> None:
        super().__init__(
            encoder,
            speakers,
            mask_prob=mask_prob,
            mask_length=mask_length,
            mask_min=mask_min,
            learning_rate=learning_rate,
            warmup_share=warmup_share,
            seed=seed,
        )
        self.papt_checkpoint = papt_checkpoint

    @override
    def build(self, training_set: TrainingSet) -> None:
        pretraining_set = cast("PretrainingSet", training_set)
        checkpoint = _read_papt(self.papt_checkpoint)
        if checkpoint[CODEBOOK] != pretraining_set.codebook_hash:
            raise UserError(
                "was trained on another codebook than these pseudo-labels come from",
                where=self.papt_checkpoint,
                remedy="Run `ser kmeans --codebook CODEBOOK` on the new speakers, with the codebook of PAPT",
            )
        self.personalized.rebuild(checkpoint[DESCRIPTION])
        self.rebuild(checkpoint)
        self.load_state_dict(checkpoint["state_dict"])
        new = [speaker for speaker in training_set.train_speaker_ids if speaker not in set(self._table.ids)]
        if not new:
            raise UserError(
                "all speakers are in the table already",
                where=self.papt_checkpoint,
                remedy="Name other sets by --data.splits, or leave adaptation out",
            )
        self.personalized.pretraining_splits = sorted({*self.personalized.pretraining_splits, *pretraining_set.splits})
        known = len(self._table.ids)
        self._table.extend(new)
        if self._table.known_features is not None:
            added = speaker_set(training_set, self._table.ids).features
            self._table.known_features = None if added is None else torch.from_numpy(added)
        self._learn_rows_from(known)

    @property
    def _table(self) -> SpeakerEmbedding:
        return cast("SpeakerEmbedding", self.personalized.speakers)

    def _learn_rows_from(self, first: int) -> None:
        self.requires_grad_(requires_grad=False)
        weight = cast("torch.nn.Embedding", self._table.embedding).weight
        weight.requires_grad_()

        def of_new_rows(gradient: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(gradient[:first]), gradient[first:]])

        weight.register_hook(of_new_rows)

    @property
    @override
    def weight_decay(self) -> float:
        # the frozen rows are in the same weight
        return 0.0

    @property
    @override
    def keeps_foreign_speakers(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class AdaptedRows:
    """The table that `SpeakerAdaptation` learnt.

    Attributes:
        rows: speaker -> row of the table, (embedding_dim,).
        splits: sets whose audio PAPT or adaptation used.
    """

    rows: dict[str, Tensor]
    splits: frozenset[str]

    @classmethod
    def read(cls, path: str) -> AdaptedRows:
        """Read a checkpoint of `SpeakerAdaptation`."""
        checkpoint = _read_papt(path)
        description = checkpoint[DESCRIPTION]
        ids = description["speakers"]["speaker_ids"]
        rows = dict(zip(ids, checkpoint["state_dict"][_TABLE], strict=True))
        return cls(rows, frozenset(description["pretraining_splits"]))


class Adapted(UnseenPolicy):
    """The rows that `SpeakerAdaptation` learnt, under this model's own fully connected layer.

    Args:
        checkpoint: of `SpeakerAdaptation`, from the same PAPT run.
        otherwise: policy for speakers who aren't in it either; the mean of all e_s if None.
    """

    def __init__(self, checkpoint: str, otherwise: UnseenPolicy | None = None) -> None:
        self.checkpoint = checkpoint
        self.otherwise = otherwise or Mean()

    @cached_property
    def _adapted(self) -> AdaptedRows:
        return AdaptedRows.read(self.checkpoint)

    @property
    @override
    def reads_features(self) -> bool:
        return self.otherwise.reads_features

    @property
    @override
    def speaker_audio(self) -> SpeakerAudio:
        return SpeakerAudio(frozenset(self._adapted.rows), self._adapted.splits)

    @property
    @override
    def settings(self) -> tuple[object, ...]:
        rows = {speaker: row.tolist() for speaker, row in self._adapted.rows.items()}
        return (type(self).__name__, rows, self.otherwise.settings)

    @override
    def embed(self, unseen: UnseenSpeakers, table: EmbeddingTable) -> Tensor:
        rows, width = self._adapted.rows, table.fc.in_features
        if len(next(iter(rows.values()))) != width:
            raise UserError(f"holds no rows of {width} values", where=self.checkpoint, remedy=_REMEDY)
        embeddings = self.otherwise.embed(unseen, table).clone()
        for number, (speaker_id, row) in enumerate(zip(unseen.ids, unseen.rows, strict=True)):
            # a speaker of the table is only treated as unseen
            if row < 0 and speaker_id in rows:
                embeddings[number] = table.fc(rows[speaker_id].to(embeddings.device))
        return embeddings
