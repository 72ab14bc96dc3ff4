"""Speech with pseudo-labels for PAPT."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval
from typing_extensions import override

from ser_personal.audio import HOP, SAMPLE_RATE, WINDOW
from ser_personal.corpus.base import Corpus
from ser_personal.corpus.splits import canonical_splits, grouped
from ser_personal.data.datamodule import SpeechDataModule
from ser_personal.data.dataset import PretrainDataset, samples_of
from ser_personal.data.frame_store import PseudoLabels
from ser_personal.data.resumable_loader import SpeechLoader
from ser_personal.errors import UserError, require_range
from ser_personal.types import PositiveFinite, PretrainBatch, Utterance, utterance_hashes

# holds a masked span of HuBERT's ten frames, and a frame beside it
SHORTEST_CROP = WINDOW + 10 * HOP


class PretrainDataModule(SpeechDataModule[PretrainBatch]):
    """Random crops with their pseudo-labels.

    Validation is on two sets: held-out utterances of the pre-training speakers, which show what a speaker embedding
    learns, and speakers outside pre-training. The default budget is fairseq's for HuBERT base,
    1,400,000 samples.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        pseudo_labels: the folder that `ser kmeans` wrote.
        splits: to pre-train on.
        unseen_splits: of other speakers than `splits`, for validation.
        held_out: share of each pre-training speaker's utterances for validation, at least one of two or more.
        batch_seconds: seconds of a batch, padding included, at most.
        min_samples: shorter utterances are left out.
        **kwargs: as in `SpeechDataModule`.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        *,
        pseudo_labels: str = "pseudo_labels",
        splits: Sequence[str] = ("train",),
        unseen_splits: Sequence[str] = ("validation",),
        held_out: OpenUnitInterval = 0.05,
        batch_seconds: PositiveFinite = 87.5,
        min_samples: NonNegativeInt = 32_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(corpus, batch_seconds=batch_seconds, max_batch=None, **kwargs)
        require_range("max_samples", self.max_samples, SHORTEST_CROP)
        self.splits, self.unseen_splits = canonical_splits(splits), canonical_splits(unseen_splits)
        self.held_out, self.min_samples = held_out, min_samples
        self._pseudo_labels_folder = pseudo_labels

    @override
    def setup(self, stage: str | None = None) -> None:
        # whatever the stage can't use is refused before a model is built
        if stage in ("fit", "validate", None):
            indices = [*self.train_indices, *self.held_out_indices, *self.unseen_indices]
            self.pseudo_labels.check([self.utterances[i] for i in indices])

    @cached_property
    def pseudo_labels(self) -> PseudoLabels:
        """The k-means ids of the corpus."""
        return PseudoLabels.load(self._pseudo_labels_folder)

    @property
    def num_clusters(self) -> int:
        """K, the size of the codebook."""
        return self.pseudo_labels.source.num_clusters

    @property
    def codebook_hash(self) -> str:
        """Hash of the codebook's centroids."""
        return self.pseudo_labels.source.codebook_hash

    @cached_property
    @override
    def train_indices(self) -> list[int]:
        held_out = set(self.held_out_indices)
        return [index for index in self.indices_of(self.splits) if index not in held_out]

    @property
    def pretraining_hashes(self) -> frozenset[str]:
        """Hashes of the utterances that are pre-trained on, or held out to choose the checkpoint."""
        return utterance_hashes(self.utterances[index] for index in self.indices_of(self.splits))

    @cached_property
    def held_out_indices(self) -> list[int]:
        """Positions in `utterances` of the pre-training speakers' held-out utterances."""
        indices = self.indices_of(self.splits)
        held_out = hold_out([self.utterances[i] for i in indices], self.held_out)
        if not held_out:
            what = "no speaker has two utterances, so none can be held out"
            remedy = "Pre-train on a set with several utterances per speaker"
            raise UserError(what, where=f"split {', '.join(self.splits)}", remedy=remedy)
        return [index for index in indices if self.utterances[index].utterance_id in held_out]

    @cached_property
    def unseen_indices(self) -> list[int]:
        """Positions in `utterances` of the speakers outside pre-training; empty where the corpus has none."""
        existing = [name for name in self.unseen_splits if self.corpus.splits.sets.get(name) != ()]
        indices = [index for split in existing for index in self.split_indices(split)]
        seen_speakers = {self.utterances[i].speaker_id for i in self.indices_of(self.splits)} - {None}
        return [index for index in indices if self.utterances[index].speaker_id not in seen_speakers]

    @cached_property
    @override
    def dataset(self) -> PretrainDataset:
        return PretrainDataset(self.utterances, self.pseudo_labels, max_samples=self.max_samples, seed=self.seed)

    @override
    def exclusion_reason(self, utterance: Utterance) -> str | None:
        too_short = samples_of(utterance) < self.min_samples
        return f"shorter than {self.min_samples / SAMPLE_RATE:g} s" if too_short else None

    @override
    def sources(self) -> dict[str, Any]:
        return {"codebook": self.codebook_hash}

    @override
    def val_dataloader(self) -> list[SpeechLoader[PretrainBatch]]:
        sets = [self.held_out_indices, *([self.unseen_indices] if self.unseen_indices else [])]
        return [self.eval_loader(indices) for indices in sets]


def hold_out(utterances: Sequence[Utterance], share: float) -> set[str]:
    """Choose a share of every speaker's utterances by a hash of their ids, the same in every run -> ids.

    At least one and never all of two or more, none of a single one; unknown speakers count as one speaker.
    """
    held_out: set[str] = set()
    for ids in grouped((utterance.speaker_id, utterance.utterance_id) for utterance in utterances).values():
        count = min(max(1, round(share * len(ids))), len(ids) - 1)
        held_out.update(sorted(ids, key=lambda id_: blake2b(id_.encode(), digest_size=8).digest())[:count])
    return held_out
