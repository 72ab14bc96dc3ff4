"""Training speakers of a bundle without their names: `ser export --anonymise` and `--group_speakers`."""

from copy import deepcopy
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ser_personal.calibration.neighbours import normalised
from ser_personal.calibration.pldc import PLDCSettings, label_statistics
from ser_personal.encoder.base import weights_fingerprint
from ser_personal.errors import UserError
from ser_personal.recognition.bundle import Bundle
from ser_personal.recognition.network import EmotionNetwork
from ser_personal.scores import Values
from ser_personal.speakers.bank import SpeakerBank
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.unseen import Mean, Zero


def grouped_bank(bank: SpeakerBank, size: int, settings: PLDCSettings) -> SpeakerBank:
    """The bank of groups of similar speakers, by microaggregation (Domingo-Ferrer and Mateo-Sanz, 2002).

    A group's vector is its speakers' mean vector, its label statistics are what PLDC makes of its speakers as
    neighbours, and its count is all of their labels. An attribute of which fewer than `size` of them have `min_labels`
    counts as unlabelled. What is left is less than single speakers, and still made of biometric data: groups don't make
    anyone anonymous who is known by other means.
    """
    if not 2 <= size <= len(bank.speaker_ids):
        what = f"{len(bank.speaker_ids)} training speakers can't be put in groups of {size}"
        raise UserError(what, where="--group_speakers", remedy=f"Give a number from 2 to {len(bank.speaker_ids)}")
    groups = similar_speakers(normalised(bank.vectors), size)
    columns = list(range(len(bank.attributes)))
    labelled = np.array([(bank.count[rows] >= settings.min_labels).sum(axis=0) >= size for rows in groups])
    moments = [label_statistics(bank, rows, columns, settings) for rows in groups]
    return replace(
        bank,
        speaker_ids=tuple(f"group-{number:0{len(str(len(groups)))}}" for number in range(1, len(groups) + 1)),
        vectors=np.array([bank.vectors[rows].mean(axis=0) for rows in groups]),
        count=np.where(labelled, [bank.count[rows].sum(axis=0) for rows in groups], 0),
        label_mean=np.where(labelled, [mean for mean, _ in moments], np.nan),
        label_std=np.where(labelled, [std for _, std in moments], np.nan),
        fingerprint="",
    )


def similar_speakers(vectors: Values, size: int) -> list[NDArray[np.int64]]:
    """Divide rows (speakers, dim) into groups of `size` to 2 `size` - 1, near ones together (MDAV).

    The speaker farthest from the mean of those left makes a group with the nearest to them, then so does the farthest
    from that speaker, and so on by turns until too few are left for two groups more.
    """
    left = np.arange(len(vectors))
    groups: list[NDArray[np.int64]] = []

    def by_distance(center: Values) -> NDArray[np.int64]:
        return left[np.argsort(((vectors[left] - center) ** 2).sum(axis=1), kind="stable")]

    first = left[0]
    while len(left) >= 2 * size:
        first = by_distance(vectors[first] if len(groups) % 2 else vectors[left].mean(axis=0))[-1]
        order = by_distance(vectors[first])
        groups.append(np.sort(order[:size]))
        left = np.sort(order[size:])
    return [*groups, left]


def anonymised(bundle: Bundle) -> Bundle:
    """The bundle without names, order and embeddings of its training speakers.

    Vectors and label statistics stay in its bank, for calibration needs them.
    """
    network, bank = _anonymised_network(bundle.network), bundle.bank
    if bank is not None:
        order = np.random.default_rng().permutation(len(bank.speaker_ids))
        names = tuple(f"speaker-{number:0{len(str(len(order)))}}" for number in range(1, len(order) + 1))
        arrays = {name: getattr(bank, name)[order] for name in ("vectors", "count", "label_mean", "label_std")}
        bank = replace(bank, speaker_ids=names, fingerprint="", **arrays)
    return replace(bundle, network=network, model=weights_fingerprint(network.state_dict()), bank=bank)


def _anonymised_network(network: EmotionNetwork) -> EmotionNetwork:
    """The network with one row in its speaker table, the mean of all: what unseen speakers get stays the same."""
    speakers = network.personalized.speakers
    anonymous = deepcopy(network)
    if not isinstance(speakers, SpeakerEmbedding):
        anonymous.personalized.speakers.ids = []
    elif speakers.ids:
        if not isinstance(speakers.unseen, Mean | Zero):
            what = f"needs its training speakers, for its policy for unseen ones is {type(speakers.unseen).__name__}"
            remedy = "Train with --model.speakers SpeakerEmbedding --model.speakers.unseen Mean"
            raise UserError(what, where="--anonymise", remedy=remedy)
        table = cast("SpeakerEmbedding", anonymous.personalized.speakers)
        table.ids = ["anyone"]
        table.embedding = torch.nn.Embedding.from_pretrained(speakers.embedding.weight.detach().mean(0, keepdim=True))
    return anonymous
