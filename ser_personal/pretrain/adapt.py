"""New rows in PAPT's speaker table, learnt on the unlabelled audio of new speakers. Ours."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from typing_extensions import override

from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.module import DESCRIPTION, read_checkpoint, speaker_set
from ser_personal.errors import UserError
from ser_personal.pretrain.papt import CODEBOOK, PAPT
from ser_personal.ranges import PositiveFinite
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerAudio
from ser_personal.speakers.unseen import Mean, UnseenPolicy
from ser_personal.types import unpack_hashes

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
    """PAPT that learns only the rows of new speakers; encoder, head and all other rows are frozen.

    Its checkpoint is PAPT's with a longer table: fine-tuning takes it as `papt_checkpoint`, and a model that is already
    fine-tuned finds the new rows by the policy `Adapted`.

    Args:
        papt_checkpoint: whose encoder, head and table.
        encoder: its settings of freezing, dropout and normalisation; architecture and weights come from PAPT.
        speakers: the table, as in PAPT.
        learning_rate: of the rows, at its peak.
        kwargs: further arguments of PAPT.
    """

    def __init__(
        self,
        papt_checkpoint: str,
        encoder: HubertEncoder | None = None,
        speakers: SpeakerEmbedding | None = None,
        learning_rate: PositiveFinite = 1e-2,
        **kwargs: Any,
    ) -> None:
        # fixed here: what the checkpoint decides, what only frozen weights would need, and the decay, which would
        # change the table's frozen rows
        super().__init__(
            encoder,
            speakers,
            fusion="last",
            final_dim=768,
            released_head=None,
            head_learning_rate=None,
            feature_penalty=0.0,
            learning_rate=learning_rate,
            speaker_learning_rate=learning_rate,
            weight_decay=0.0,
            lora=None,
            **kwargs,
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
        self.refuse_namesakes(training_set)
        new = [speaker for speaker in training_set.train_speaker_ids if speaker not in set(self._table.ids)]
        if not new:
            raise UserError(
                "all speakers are in the table already",
                where=self.papt_checkpoint,
                remedy="Name other sets by --data.splits, or leave adaptation out",
            )
        self.personalized.pretrained_on |= pretraining_set.pretraining_hashes
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


class Adapted(UnseenPolicy):
    """The rows that `SpeakerAdaptation` learnt, under this model's own fully connected layer.

    Args:
        checkpoint: of `SpeakerAdaptation`, from the same PAPT run.
        otherwise: policy for speakers who aren't in it either; the mean of all e_s if None.
    """

    def __init__(self, checkpoint: str, otherwise: UnseenPolicy | None = None) -> None:
        self.checkpoint = checkpoint
        self.otherwise = otherwise or Mean()

    @property
    def rows(self) -> dict[str, Tensor]:
        """Speaker -> its row of the table, (embedding_dim,)."""
        return self._rows_and_audio[0]

    @cached_property
    def _rows_and_audio(self) -> tuple[dict[str, Tensor], SpeakerAudio]:
        checkpoint = _read_papt(self.checkpoint)
        description = checkpoint[DESCRIPTION]
        rows = dict(zip(description["speakers"]["speaker_ids"], checkpoint["state_dict"][_TABLE], strict=True))
        return rows, SpeakerAudio(frozenset(rows), unpack_hashes(description["pretrained_on"]))

    @property
    @override
    def reads_features(self) -> bool:
        return self.otherwise.reads_features

    @property
    @override
    def speaker_audio(self) -> SpeakerAudio:
        return self._rows_and_audio[1]

    @property
    @override
    def settings(self) -> tuple[object, ...]:
        rows = {speaker: row.tolist() for speaker, row in self.rows.items()}
        return (type(self).__name__, rows, self.otherwise.settings)

    @override
    def embed(self, unseen: UnseenSpeakers, table: EmbeddingTable) -> Tensor:
        rows, width = self.rows, table.fc.in_features
        if len(next(iter(rows.values()))) != width:
            raise UserError(f"holds no rows of {width} values", where=self.checkpoint, remedy=_REMEDY)
        embeddings = self.otherwise.embed(unseen, table).clone()
        for number, (speaker_id, row) in enumerate(zip(unseen.ids, unseen.rows, strict=True)):
            # a speaker of the table is only treated as unseen
            if row < 0 and speaker_id in rows:
                embeddings[number] = table.fc(rows[speaker_id].to(embeddings.device))
        return embeddings
