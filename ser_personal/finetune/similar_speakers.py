"""Fine-tuning on the training speakers that sound most like the test's: the baselines of Sridhar and Busso (2022)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jsonargparse.typing import PositiveInt
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typing_extensions import override

from ser_personal.audio import decode_utterance
from ser_personal.data.emotion import SelectedSpeakers, SpeakerSelection
from ser_personal.encoder.raw import mfcc_functionals
from ser_personal.errors import UserError, require_one_of
from ser_personal.scores import rows_by_speaker
from ser_personal.types import Seed, Utterance

Strategy = Literal["unique", "oversampling", "weighting"]
# a component takes at least that many utterances, and no dimension of it less than this share of everyone's variance
UTTERANCES_A_COMPONENT = 5
LEAST_VARIANCE = 0.05


class SimilarSpeakers(SpeakerSelection):
    """For each target speaker the training speakers of least KL divergence in acoustics (Sridhar and Busso 2022).

    Acoustic features of utterances (MFCC functionals) are brought to a few whitened principal components; a Gaussian
    mixture is fitted to each speaker's; and training speakers are ranked by KL(target || training speaker). Sizes and
    numbers aren't recorded where we looked: they are arguments, and their defaults ours. No label is read. PLDC's
    neighbours are others: those of `calibration.neighbours`, by cosine of pooled frames.

    Args:
        strategy: `unique`, a chosen speaker's utterances enter once; `oversampling`, as often as test speakers chose
            them; `weighting`, once, with a loss weight proportional to that number, 1 on the average.
        speakers: chosen for each target speaker.
        dim: principal components.
        components: of a speaker's mixture, at most; one for every 5 utterances.
        max_utterances: of a speaker that are read, spread evenly over theirs.
        seed: of the mixtures' starts.
    """

    def __init__(
        self,
        strategy: Strategy = "unique",
        speakers: PositiveInt = 10,
        dim: PositiveInt = 10,
        components: PositiveInt = 4,
        max_utterances: PositiveInt = 50,
        seed: Seed = 0,
    ) -> None:
        require_one_of("strategy", strategy, Strategy)
        self.strategy: Strategy = strategy
        self.speakers, self.dim, self.components = speakers, dim, components
        self.max_utterances, self.seed = max_utterances, seed

    @override
    def choose(self, training: Sequence[Utterance], targets: Sequence[Utterance]) -> SelectedSpeakers:
        features = acoustics_by_speaker(training, self.max_utterances)
        of_targets = acoustics_by_speaker(targets, self.max_utterances)
        for name, found in {"training": features, "test": of_targets}.items():
            if not found:
                what, where = f"no {name} utterance has a known speaker", "--data.speaker_selection SimilarSpeakers"
                raise UserError(what, where=where, remedy="Give a corpus with speakers, or leave the selection out")
        everyone = np.concatenate(list(features.values()))
        pca = PCA(min(self.dim, *everyone.shape), whiten=True, svd_solver="full")
        reduce = make_pipeline(StandardScaler(), pca).fit(everyone).transform
        mixtures, of_target = (
            {id_: fit_mixture(reduce(rows), self.components, self.seed) for id_, rows in side.items()}
            for side in (features, of_targets)
        )
        return selected_speakers(most_similar(of_target, mixtures, self.speakers), self.strategy)


def acoustics_by_speaker(utterances: Sequence[Utterance], max_utterances: int) -> dict[str, NDArray[np.float64]]:
    """Describe known speakers' utterances, speaker -> (utterances, features), at most so many of each."""
    features = {}
    for speaker_id, rows in rows_by_speaker([utterance.speaker_id for utterance in utterances]).items():
        count = min(max_utterances, len(rows))
        spread = [utterances[rows[k * len(rows) // count]] for k in range(count)]
        described = [mfcc_functionals(decode_utterance(utterance)) for utterance in spread]
        features[speaker_id] = np.stack(described, dtype=np.float64)
    return features


def fit_mixture(rows: NDArray[np.float64], components: int, seed: int = 0) -> GaussianMixture:
    """Fit a Gaussian mixture with diagonal covariances to one speaker's utterances (utterances, dim)."""
    fitting = max(1, min(components, len(rows) // UTTERANCES_A_COMPONENT))
    model = GaussianMixture(fitting, covariance_type="diag", reg_covar=LEAST_VARIANCE, random_state=seed)
    # a mixture of one component has no use for the second row that scikit-learn requires
    return model.fit(rows if len(rows) > 1 else np.repeat(rows, 2, axis=0))


def kl_divergence(first: GaussianMixture, second: GaussianMixture) -> float:
    """KL(first || second) in nats by the variational approximation (Hershey and Olsen 2007, equation 20)."""
    return float(first.weights_ @ (_log_overlap(first, first) - _log_overlap(first, second)))


def most_similar(
    targets: Mapping[str, GaussianMixture], training: Mapping[str, GaussianMixture], count: int
) -> dict[str, list[str]]:
    """Rank training speakers by KL(target || training speaker), target -> the nearest `count`; never oneself."""
    chosen = {}
    for target, mixture in targets.items():
        distances = {id_: kl_divergence(mixture, training[id_]) for id_ in sorted(training) if id_ != target}
        chosen[target] = sorted(distances, key=distances.__getitem__)[:count]
    return chosen


def selected_speakers(chosen: Mapping[str, Sequence[str]], strategy: Strategy) -> SelectedSpeakers:
    """Count the choices by a strategy, from target -> chosen training speakers."""
    votes = Counter(speaker_id for nearest in chosen.values() for speaker_id in nearest)
    copies = dict(votes) if strategy == "oversampling" else dict.fromkeys(votes, 1)
    mean = votes.total() / max(len(votes), 1)
    weights = {id_: count / mean for id_, count in votes.items()} if strategy == "weighting" else {}
    return SelectedSpeakers(copies, weights)


def _log_overlap(first: GaussianMixture, second: GaussianMixture) -> NDArray[np.float64]:
    """Log of the sum over components b of weight_b exp(-KL(first_a || second_b)), (components of first,)."""
    mean, variance = first.means_[:, None], first.covariances_[:, None]
    ratio = variance / second.covariances_
    apart = (mean - second.means_) ** 2 / second.covariances_
    kl = 0.5 * (ratio + apart - 1 - np.log(ratio)).sum(2)
    overlap: NDArray[np.float64] = np.logaddexp.reduce(np.log(second.weights_) - kl, axis=1)
    return overlap
