"""The folder of a test run, written by hand: speakers, labels and predictions as a test wants them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from ser_personal.calibration.table import PredictedSet
from ser_personal.evaluation.run_files import SpeakerVectors, write_json, write_speakers
from ser_personal.scores import as_json, score

ROWS = (*("raw", "mu", "sigma", "both", "affine", "posterior", "population", "random_speakers"), "own_statistics")


def invent(folder: Path, *, speakers=24, utterances=12, attributes=("arousal",), seed=0) -> Path:
    """Write a run whose every second test speaker is Female, and whose calibration halves the error of even ones."""
    rng = np.random.default_rng(seed)
    ids = [f"s{number:02}" for number in range(speakers)]
    names = [f"{id_}_{n}" for id_ in ids for n in range(utterances)]
    frame = pd.DataFrame({"utterance": names, "speaker": np.repeat(ids, utterances), "split": "test1"})
    even = np.repeat(np.arange(speakers) % 2 == 0, utterances)
    for attribute in attributes:
        label, error = rng.uniform(1, 7, len(frame)), rng.normal(0.3, 1, len(frame))
        frame[f"{attribute}_label"] = label
        frame[f"{attribute}_raw"] = label + error
        frame[f"{attribute}_calibrated"] = label + np.where(even, 0.5, 2.0) * error
    genders = ["Female" if number % 2 == 0 else "Male" for number in range(speakers)]
    frame["gender"] = np.repeat(genders, utterances)
    frame["seconds"] = np.repeat(np.arange(speakers) + 1.0, utterances)
    frame["emotion"] = np.where(np.arange(len(frame)) % 3 == 0, None, "anger")
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "predictions.csv", index=False)
    rng = np.random.default_rng(1)
    columns = {kind: frame[[f"{a}_{kind}" for a in attributes]].to_numpy() for kind in ("label", "raw", "calibrated")}
    rows = {}
    for name in ROWS:
        predicted = columns["calibrated" if name == "sigma" else "raw"]
        scores = score(predicted, columns["label"], list(frame["speaker"]), attributes)
        rows[name] = {"is_oracle": name == "own_statistics", "attributes": as_json(scores)}
    pldc = {"k": 2, "shift_mean": False, "scale_std": True, "statistics": "average", "center": False, "clip": False}
    splits = {"test1": {"utterances": len(frame), "speakers": {"unseen": len(ids)}, "rows": rows}}
    metrics = {"checkpoint": None, "model": "", "attributes": list(attributes), "pldc": pldc, "scale": [1, 7]}
    write_json(folder / "metrics.json", metrics | {"min_utterances": 10, "splits": splits})
    moments = {name: dict.fromkeys(attributes, 1.0) for name in ("mu", "sigma", "mu_bar", "sigma_bar")}
    of_speaker = {
        id_: {"gender": gender, "utterances": int((frame["speaker"] == id_).sum()), "seconds": 10.0 * (number + 1)}
        | {"feature_shift": 0.1 + 0.01 * number, "label_shift": dict.fromkeys(attributes, 0.5 / (number + 1))}
        | {"neighbours": ["t1", f"t{number % 3 + 2}"], "cosines": [0.9, 0.5]}
        | moments
        for number, (id_, gender) in enumerate(zip(ids, genders, strict=True))
    }
    training = {f"t{n}": {"gender": "Female", "utterances": 5, "seconds": 9.0} for n in range(1, 5)}
    people_of = {"test1": ids, "training": training, "embeddings": training}
    vectors = {name: SpeakerVectors(tuple(of), rng.normal(size=(len(of), 8))) for name, of in people_of.items()}
    write_speakers(folder, {"fusion": "last", "splits": {"test1": of_speaker}, "training": training}, vectors)
    return folder


def edit_json(path: Path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def people(prefix: str, num_speakers: int, seed: int, utterances: int = 25) -> PredictedSet:
    """Speakers whose voice tells the mean and deviation of their labels, and a model blind to both."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(num_speakers), utterances)
    voices = rng.normal(size=(num_speakers, 2))
    means, stds = 4 + voices, np.exp(0.5 * voices)
    emotions = rng.normal(size=(len(speakers), 2))
    return PredictedSet(
        predictions=4 + 0.5 * emotions + 0.2 * rng.normal(size=emotions.shape),
        speaker_ids=tuple(f"{prefix} {s:02}" for s in speakers),
        pooled=voices[speakers] + 0.1 * rng.normal(size=emotions.shape),
        labels=means[speakers] + stds[speakers] * emotions,
    )
