"""The base of all datamodules: a corpus, what a model may know of it, and loaders over parts of it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from math import isnan
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from typing_extensions import override

from ser_personal.audio import BAD_AUDIO, SAMPLE_RATE, WINDOW
from ser_personal.corpus.base import Corpus
from ser_personal.corpus.csv_corpus import open_corpus
from ser_personal.corpus.splits import canonical_split, canonical_splits, grouped, known_speakers, require_split
from ser_personal.data.dataset import UtteranceDataset, WholeUtterances, collate, samples_of
from ser_personal.data.frame_store import FeatureCache
from ser_personal.data.resumable_loader import Batch, BucketBatchSampler, ExampleKey, GivenBatches, SpeechLoader
from ser_personal.data.speaker_features import SpeakerFeatures, SpeakerFeatureSource
from ser_personal.errors import UserError, require_range
from ser_personal.files import content_hash, file_key
from ser_personal.types import (
    ATTRIBUTES,
    FeatureSource,
    PositiveFinite,
    Seed,
    SpeechBatch,
    Utterance,
    utterance_hash,
    utterance_hashes,
)

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
# batches that torch keeps ready for each worker
PREFETCHED = 2
RESUME = "Give it what it was trained with, or start a new training run"


class SpeechDataModule(LightningDataModule, Generic[Batch]):
    """Loaders over a corpus, which is read at the first use, not here.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        batch_seconds: seconds of a device's batch, padding included, at most.
        max_batch: utterances of a batch, at most, in training those of all devices together; no limit if None.
        max_samples: samples of an utterance, at most; fine-tuning keeps the last ones (the authors' code), PAPT a crop.
        known_speakers_only: leave out utterances whose speaker is unknown, as the paper does.
        num_workers: processes that decode audio, for each loader.
        seed: of the shuffling and the crops.
        speaker_features: a vector per speaker, for speaker embeddings that are made of one.
        permute_speaker_features: control: every speaker gets another one's, the same each time.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        *,
        batch_seconds: PositiveFinite = 360.0,
        max_batch: PositiveInt | None = 32,
        max_samples: PositiveInt = 250_000,
        known_speakers_only: bool = True,
        num_workers: NonNegativeInt = 2,
        seed: Seed = 0,
        speaker_features: SpeakerFeatureSource | None = None,
        permute_speaker_features: bool = False,
    ) -> None:
        require_range("max_samples", max_samples, WINDOW)
        super().__init__()
        self._corpus_or_path = corpus
        self.batch_seconds, self.max_batch, self.max_samples = batch_seconds, max_batch, max_samples
        self.known_speakers_only = known_speakers_only
        self.num_workers, self.seed = num_workers, seed
        self._speaker_feature_source, self._permute_features = speaker_features, permute_speaker_features
        self._indices_of: dict[str, list[int]] = {}
        # whether the checkpoint that was loaded, if any, was trained on these speakers
        self.is_training_corpus = True

    @cached_property
    def dataset(self) -> UtteranceDataset:
        """Examples of all utterances, whatever their split."""
        return WholeUtterances(self.utterances, max_samples=self.max_samples)

    def exclusion_reason(self, utterance: Utterance) -> str | None:
        """Say why an utterance with readable audio is left out; None where it is used."""
        return None

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus, opened."""
        return open_corpus(self._corpus_or_path)

    @property
    def utterances(self) -> list[Utterance]:
        """All utterances of the corpus, used or not: what a batch's `indices` point to."""
        return self.corpus.utterances

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest value of a label."""
        return self.corpus.scale

    @property
    def train_indices(self) -> list[int]:
        """Positions of the training utterances in `utterances`."""
        return self.split_indices("train")

    @property
    def epoch_indices(self) -> list[int]:
        """Positions of an epoch's training utterances; one that is used several times is repeated."""
        return self.train_indices

    @property
    def speaker_weights(self) -> Mapping[str, float]:
        """Training speaker -> weight of their utterances in the loss, by default 1; empty where all count alike."""
        return {}

    @property
    def train_speaker_ids(self) -> list[str]:
        """Known training speakers, sorted."""
        return sorted(known_speakers(self.utterances[i] for i in self.train_indices))

    @property
    def train_hashes(self) -> frozenset[str]:
        """Hashes (`utterance_hashes`) of the training utterances."""
        return utterance_hashes(self.utterances[index] for index in self.train_indices)

    @property
    def hashes_of_speakers(self) -> dict[str, set[str]]:
        """Known speaker of any set -> the `utterance_hash` of each of their utterances."""
        known = ((each.speaker_id, utterance_hash(each)) for each in self.utterances if each.speaker_id is not None)
        return {speaker_id: set(hashes) for speaker_id, hashes in grouped(known).items()}

    @property
    def train_label_mean(self) -> dict[str, float]:
        """Attribute -> mean label of the training set; attributes without labels are left out."""
        labels = {
            attribute: [self.utterances[i].labels.get(attribute, np.nan) for i in self.train_indices]
            for attribute in ATTRIBUTES
        }
        return {name: float(np.nanmean(values)) for name, values in labels.items() if not np.isnan(values).all()}

    @property
    def train_emotions(self) -> dict[str, int]:
        """Categorical emotion -> how many training utterances have it, sorted."""
        return dict(sorted(Counter(e for i in self.train_indices if (e := self.utterances[i].emotion)).items()))

    @cached_property
    def speaker_features(self) -> SpeakerFeatures | None:
        """A vector per speaker of the corpus; None without `speaker_features`."""
        if self._speaker_feature_source is None:
            return None
        features = self._speaker_feature_source.read(self.utterances)
        return features.permuted() if self._permute_features else features

    def speaker_features_of(self, speaker_ids: Sequence[str]) -> NDArray[np.float32] | None:
        """Look up (speakers, feature_dim); None without `speaker_features`."""
        return None if self.speaker_features is None else self.speaker_features.of(speaker_ids)

    @property
    def cache(self) -> FeatureCache | None:
        """The frames that batches hold instead of audio; None where they hold audio."""
        return None

    @property
    def frame_source(self) -> FeatureSource | None:
        """What made the frames of `cache`."""
        return None if self.cache is None else self.cache.source

    @property
    def frames_trained_on(self) -> frozenset[str]:
        """Hashes (`utterance_hashes`) of the utterances that the encoder of `cache` was adapted or trained on."""
        return frozenset() if self.cache is None else self.cache.trained_on

    def training_audio(self, limit: int) -> Iterator[NDArray[np.float32]]:
        """Decode at most `limit` training waveforms (samples,), spread evenly over the set, the same on every rank."""
        count = min(limit, len(self.train_indices))
        for k in range(count):
            yield self.waveform_of(self.train_indices[k * len(self.train_indices) // count])

    def waveform_of(self, index: int) -> NDArray[np.float32]:
        """Decode the utterance at a position in `utterances`, -> (samples,)."""
        waveform = self.dataset[ExampleKey(index)].waveform
        if waveform is None:
            what = "batches hold cached features, not audio"
            remedy = "Give --model.encoder CachedFeatures beside it, or --data EmotionDataModule"
            raise UserError(what, where=f"--data {type(self).__name__}", remedy=remedy)
        return waveform

    def length_of(self, utterance: Utterance) -> int:
        """How much of an utterance a batch holds, in samples."""
        return min(samples_of(utterance), int(self.max_samples))

    def longest_of(self, utterance: Utterance) -> int:
        """How much of an utterance a training batch holds at most, in samples."""
        return self.length_of(utterance)

    def refuse_unusable(self, utterances: Sequence[Utterance], split: str) -> None:
        """Refuse a split whose audio is missing, unreadable or shorter than one frame."""
        unusable = [utterance for utterance in utterances if samples_of(utterance) < WINDOW]
        if unusable:
            wrong = "missing or unreadable" if isnan(unusable[0].seconds) else f"shorter than {WINDOW} samples"
            what = f"audio is {wrong}, the first of {len(unusable)} such utterances in split {split}"
            raise UserError(what, where=unusable[0].path, remedy=BAD_AUDIO)

    def split_indices(self, split: str) -> list[int]:
        """Positions in `utterances` of a split's utterances that are used; how many are left out is logged once."""
        split = canonical_split(split)
        if split in self._indices_of:
            return self._indices_of[split]
        require_split(split, self.corpus.splits.sets)
        own = {i: utterance for i, utterance in enumerate(self.utterances) if utterance.split == split}
        known = {i: u for i, u in own.items() if u.speaker_id is not None or not self.known_speakers_only}
        self.refuse_unusable(list(known.values()), split)
        reasons = {i: self.exclusion_reason(utterance) for i, utterance in known.items()}
        used = self._indices_of[split] = [i for i, reason in reasons.items() if reason is None]
        left_out = Counter(reason for reason in reasons.values() if reason is not None)
        left_out += Counter({"unknown speaker": len(own) - len(known)})
        if left_out:
            listed = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            rank_zero_info(f"{split}: {len(used)} utterances used; left out: {listed}")
        return used

    def indices_of(self, splits: Sequence[str]) -> list[int]:
        """Positions in `utterances` of several splits' utterances that are used, each once."""
        indices = [index for split in canonical_splits(splits) for index in self.split_indices(split)]
        if not indices:
            what = "no utterance is left to use"
            remedy = "See what `ser check CORPUS` lists; data.known_speakers_only=false keeps unknown speakers"
            raise UserError(what, where=f"split {', '.join(splits) or 'test'}", remedy=remedy)
        return indices

    @override
    def train_dataloader(self) -> SpeechLoader[Batch]:
        """Load this rank's share of an epoch, shuffled."""
        indices = self.epoch_indices
        processes = self.trainer.world_size if self.trainer else 1
        if processes > min(len(indices), self.max_batch or processes):
            what = f"{processes} processes for {len(indices)} training utterances in batches of {self.max_batch}"
            remedy = "Ask for fewer devices or nodes, give more audio, or raise data.max_batch"
            raise UserError(what, where="trainer.devices", remedy=remedy)
        sampler = self._sampler(indices, shuffle=True)
        if self.trainer:
            self._report(sampler, self.trainer.accumulate_grad_batches)
        return self._load(sampler, trains=True)

    def _report(self, sampler: BucketBatchSampler, accumulated: int) -> None:
        plan, processes = sampler.plan(epoch=0), sampler.world_size
        lengths = [self.length_of(self.utterances[i]) for i in chain(*plan)]
        # the last one of an epoch may be of fewer batches
        steps = -(-len(sampler) // accumulated)
        step = f"{len(lengths) / steps:.1f} utterances, {sum(lengths) / SAMPLE_RATE / steps:.0f} s"
        rank_zero_info(
            f"a step: {step} on average over all devices ({processes}); an epoch: {len(sampler)} batches on each"
        )
        if repeated := len(sampler) * processes - len(plan):
            even = f"so that {processes} processes have equally many"
            rank_zero_info(f"{repeated} batches of an epoch are trained on twice, {even}")

    def eval_loader(self, indices: Sequence[int]) -> SpeechLoader[Batch]:
        """Load this rank's share of some utterances, longest first; batches repeated to even shares repeat indices."""
        return self._load(self._sampler(indices, shuffle=False))

    def predict_loader(self, batches: Sequence[list[int]]) -> SpeechLoader[Batch]:
        """Load fixed batches."""
        return self._load(GivenBatches(batches))

    def _sampler(self, indices: Sequence[int], *, shuffle: bool) -> BucketBatchSampler:
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return BucketBatchSampler(
            indices,
            [(self.longest_of if shuffle else self.length_of)(self.utterances[i]) for i in indices],
            batch_seconds=self.batch_seconds,
            max_batch=self.max_batch // processes if self.max_batch and shuffle else self.max_batch,
            shuffle=shuffle,
            seed=self.seed,
            rank=rank,
            world_size=processes,
        )

    def _load(self, sampler: GivenBatches, *, trains: bool = False) -> SpeechLoader[Batch]:
        self._refuse_small_shared_memory(sampler)
        if self.speaker_features is not None:
            # look up every speaker now, not in the middle of an epoch
            self.speaker_features.of([self.utterances[i].speaker_id for i in chain(*sampler.plan(0))])
        weights = self.speaker_weights if trains else {}
        make_batch = partial(collate, speaker_features=self.speaker_features, weights=weights)
        return SpeechLoader(self.dataset, sampler, make_batch, num_workers=self.num_workers, persistent=trains)

    def _refuse_small_shared_memory(self, sampler: GivenBatches) -> None:
        """Refuse workers that would wait for ever: they hand batches over in shared memory."""
        if not self.num_workers or not SHARED_MEMORY.is_dir():
            return
        free, source = shutil.disk_usage(SHARED_MEMORY).free, self.frame_source
        sample_bytes = 4 if source is None else 2 * source.dim / (source.frame_seconds * SAMPLE_RATE)
        lengths = [[self.longest_of(self.utterances[i]) for i in batch] for batch in sampler.plan(epoch=0)]
        largest = max((len(each) * max(each) for each in lengths), default=0)
        needed = self.num_workers * PREFETCHED * largest * sample_bytes
        if free < needed:
            what = f"has {free / 1e6:.0f} MB left, {self.num_workers} workers need {needed / 1e6:.0f} MB"
            remedy = "Start the container with more (`docker run --shm-size 2g`), or give --data.num_workers 0"
            raise UserError(what, where=SHARED_MEMORY, remedy=remedy)

    @override
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        # lengths stay on the CPU: what is computed of them there waits for no device
        return moved | {"num_samples": batch["num_samples"]} if "num_samples" in batch else moved

    def input_key(self, utterance: Utterance) -> str:
        """Tell what batches hold of an utterance from anything else, without reading it: a copied file is another."""
        return f"{file_key(utterance.path)} {utterance.start} {samples_of(utterance)} {self.max_samples}"

    def fingerprint_fields(self, utterance: Utterance) -> list[str]:
        """What training uses of an utterance, which must be the same where it is resumed."""
        return [utterance.utterance_id, f"{utterance.start} {self.length_of(utterance)}"]

    @cached_property
    def _train_set(self) -> str:
        indices = sorted(chain(*self._sampler(self.epoch_indices, shuffle=True).plan(epoch=0)))
        return content_hash(*chain(*(self.fingerprint_fields(self.utterances[i]) for i in indices)))

    def settings(self) -> dict[str, Any]:
        """What training depends on, by argument; resumed training must have the same."""
        # plain numbers, which `weights_only` can load
        return {
            "batch_seconds": float(self.batch_seconds),
            "max_batch": self.max_batch and int(self.max_batch),
            "max_samples": int(self.max_samples),
            "seed": int(self.seed),
            "train_set": self._train_set,
        }

    def sources(self) -> dict[str, Any]:
        """What a test, too, must share with the training, by argument."""
        return {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"train_speakers": self.train_speaker_ids, **self.settings(), **self.sources()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        now = self.sources()
        others = sorted({*state_dict.get("train_speakers", self.train_speaker_ids)} ^ {*self.train_speaker_ids})
        self.is_training_corpus = not others
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            now |= self.settings()
            if others:
                what = f"was trained on other speakers than this corpus has ({len(others)} differ, first {others[0]})"
                raise UserError(what, where="the checkpoint", remedy=RESUME)
        for name, value in now.items():
            if state_dict.get(name, value) != value:
                what = f"was trained with data.{name} {state_dict[name]}, not {value}"
                if name == "train_set":
                    what = "was trained on other utterances, lengths or labels than this training set has"
                raise UserError(what, where="the checkpoint", remedy=RESUME)


class AllUtterancesDataModule(SpeechDataModule[SpeechBatch]):
    """Every utterance of some splits, with or without a known speaker and labels, in order: for k-means and caches.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        splits: to use; all if None.
        batch_seconds: seconds of a batch, padding included, at most.
        max_samples: longer audio keeps its last `max_samples`, as in fine-tuning.
        num_workers: processes that decode audio.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        *,
        splits: list[str] | None = None,
        batch_seconds: PositiveFinite = 120.0,
        max_samples: PositiveInt = 250_000,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__(
            corpus,
            batch_seconds=batch_seconds,
            max_batch=None,
            max_samples=max_samples,
            known_speakers_only=False,
            num_workers=num_workers,
        )
        self._splits = splits

    @property
    def used_indices(self) -> list[int]:
        """Positions in `utterances` of those of these splits."""
        existing = [name for name, utterances in self.corpus.splits.sets.items() if utterances]
        return self.indices_of(existing if self._splits is None else self._splits)

    def batches(self, indices: Sequence[int] | None = None) -> list[list[int]]:
        """Put utterances, all that are used if None, into batches, longest first."""
        return self._sampler(self.used_indices if indices is None else indices, shuffle=False).plan(0)
