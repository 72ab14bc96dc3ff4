import csv

import numpy as np
import pytest
import soundfile

from ser_personal.audio import decode, num_frames
from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.data.frame_store import PseudoLabels, PseudoLabelSource

ROWS = (
    [("train", f"s{k % 4}", 0.5 + 0.05 * k) for k in range(24)]
    + [("train", "", 1.0), ("train", "s0", 0.1)]
    + [("validation", "v0", 0.6 + 0.1 * k) for k in range(4)]
    + [("test1", "t1", 0.7 + 0.1 * k) for k in range(3)]
    + [("test2", "t2", 0.9)]
)


def loudest_eighths(waveform):
    frames = [waveform[320 * t : 320 * t + 400].reshape(8, 50) for t in range(num_frames(len(waveform)))]
    return np.array([np.square(frame).sum(1).argmax() for frame in frames], dtype=np.int64)


@pytest.fixture(scope="session")
def energy_labels():
    """A teacher: which eighth of a frame's 400 samples is loudest, (frames,)."""
    return loudest_eighths


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """A table of noise: 26 training utterances of four speakers, one of nobody, one of 0.1 s and without labels."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    with (folder / "corpus.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "speaker", "split", "arousal", "valence"])
        for k, (split, speaker, seconds) in enumerate(ROWS):
            soundfile.write(folder / f"u{k:02}.wav", rng.uniform(-0.5, 0.5, round(seconds * 16_000)), 16_000)
            table.writerow([f"u{k:02}.wav", speaker, split, "" if seconds == 0.1 else 1 + k % 7, ""])
    return folder


@pytest.fixture
def corpus(corpus_folder):
    return CSVCorpus(str(corpus_folder / "corpus.csv"))


@pytest.fixture
def pseudo_labels_folder(corpus, tmp_path):
    source = PseudoLabelSource(num_clusters=8, teacher="energy", codebook_hash="none")
    store = PseudoLabels.create(tmp_path / "pseudo_labels", source)
    store.write({u.utterance_id: loudest_eighths(decode(u.path)) for u in corpus.utterances})
    store.finish()
    return tmp_path / "pseudo_labels"
