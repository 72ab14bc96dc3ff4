"""What speaker vectors give away: a linear probe that guesses each speaker's gender from their vector."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.report.bootstrap import Bootstrap, Estimate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ser_personal.calibration.speaker_record import SpeakerVectors
    from ser_personal.report.run_folder import RunFolder

FOLDS, REPEATS = 5, 10


@dataclass(frozen=True)
class Probe:
    """How well gender is read from some vectors.

    Attributes:
        vectors: which ones.
        of_run: the run that they come from.
        accuracy: balanced accuracy over speakers whom the probe wasn't fitted on.
        chance: what guessing reaches.
        speakers: gender -> number of speakers.
    """

    vectors: str
    of_run: str
    accuracy: Estimate
    chance: float
    speakers: dict[str, int]


def probes(run: RunFolder, bootstrap: Bootstrap) -> list[Probe]:
    """Probe every kind of speaker vector that a run has."""
    probed = [probe("speaker vectors, training speakers", run, run.training, run.training_gender, bootstrap)]
    if run.embeddings is not None:
        name = "learnt embeddings e_s, training speakers"
        probed.append(probe(name, run, run.embeddings, run.training_gender, bootstrap))
    for test in run.sets:
        gender_of = {speaker: recorded.gender for speaker, recorded in test.speakers.items()}
        probed.append(probe(f"speaker vectors, {test.name} speakers", run, test.vectors, gender_of, bootstrap))
    return probed


def probe(
    name: str, run: RunFolder, vectors: SpeakerVectors, gender_of: Mapping[str, str | None], bootstrap: Bootstrap
) -> Probe:
    """Guess gender by logistic regression, cross-validated over speakers (ours).

    Genders of fewer speakers than an interval takes are left out. The interval resamples speakers among the guesses
    that the cross-validation made; the probe isn't fitted anew.

    Args:
        name: of the vectors.
        run: that they come from.
        vectors: one a speaker.
        gender_of: speaker -> gender, None where unknown.
        bootstrap: makes the interval and gives the seed.
    """
    genders = np.array([gender_of.get(speaker) or "" for speaker in vectors.speaker_ids])
    counted = {gender: n for gender, n in sorted(Counter(genders.tolist()).items()) if gender}
    kept = [gender for gender, n in counted.items() if n >= bootstrap.fewest]
    if len(kept) < 2:
        listed = ", ".join(f"{n} {gender}" for gender, n in counted.items()) or "none with a recorded gender"
        refused = f"a probe takes two genders of {bootstrap.fewest} speakers each; here: {listed}"
        return Probe(name, run.name, Estimate(np.nan, refused=refused), np.nan, counted)
    rows = np.isin(genders, kept)
    correct = _share_guessed(vectors.vectors[rows].astype(np.float64), genders[rows], bootstrap.seed)
    weights = bootstrap.weights(genders[rows].tolist())
    of_gender = [(genders[rows] == gender).astype(np.float64) for gender in kept]
    value = np.mean([correct[mine == 1].mean() for mine in of_gender])
    resampled = np.mean([weights @ (mine * correct) / mine.sum() for mine in of_gender], axis=0)
    accuracy = bootstrap.estimate(float(value), resampled, min(counted[gender] for gender in kept))
    return Probe(name, run.name, accuracy, 1 / len(kept), {gender: counted[gender] for gender in kept})


def _share_guessed(vectors: NDArray[np.float64], genders: NDArray[np.str_], seed: int) -> NDArray[np.float64]:
    """How often each speaker's gender is guessed right by probes that didn't see them, (speakers,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import RepeatedStratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    right = np.zeros(len(genders))
    folds = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=seed)
    for fitted, held_out in folds.split(vectors, genders):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(vectors[fitted], genders[fitted])
        right[held_out] += model.predict(vectors[held_out]) == genders[held_out]
    return right / REPEATS
