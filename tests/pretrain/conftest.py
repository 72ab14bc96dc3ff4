from __future__ import annotations

from shutil import copytree

import numpy as np
import pytest
import soundfile

from ser_personal.pretrain.pseudo_label_data import PseudoLabelData


@pytest.fixture(scope="session")
def bad_ids(synthetic_corpus):
    """Names of an utterance whose header is bad, and of three that fail while they are decoded."""
    ids = [u.utterance_id for u in PseudoLabelData(str(synthetic_corpus), splits=["train"]).utterances]
    return [ids[0], ids[2], ids[3], ids[20]]


@pytest.fixture(scope="session")
def damaged_corpus(synthetic_corpus, tmp_path_factory, bad_ids):
    """The synthetic corpus, those four damaged."""
    copy = copytree(synthetic_corpus, tmp_path_factory.mktemp("damaged") / "corpus")
    (copy / "Audios" / f"{bad_ids[0]}.wav").write_bytes(b"noise")
    for name in bad_ids[1:]:
        path = copy / "Audios" / f"{name}.wav"
        samples, rate = soundfile.read(path)
        samples[7_000] = np.nan
        soundfile.write(path, samples, rate, subtype="FLOAT")
    return copy
