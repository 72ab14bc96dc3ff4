from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import soundfile

MSP_COLUMNS = ["FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set"]


def write_wav(path, num_samples=1600, rate=16_000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(crc32(path.name.encode()))
    soundfile.write(path, rng.uniform(-0.5, 0.5, (num_samples, channels)), rate, subtype="PCM_16")


@pytest.fixture
def wav():
    """Writes noise, every file its own: `wav(path, num_samples=, rate=, channels=)`."""
    return write_wav


@pytest.fixture
def release(tmp_path):
    """Writes a release in MSP-Podcast's layout, with audio for every row."""

    def write(rows, label_file="labels_consensus.csv", audio="Audios"):
        root = tmp_path / "release"
        for row in rows:
            write_wav(root / audio / row[0])
        (root / "Labels").mkdir()
        frame = pd.DataFrame(rows, columns=MSP_COLUMNS, dtype=object)
        if label_file.endswith(".json"):
            frame.set_index("FileName").to_json(root / "Labels" / label_file, orient="index")
        else:
            frame.to_csv(root / "Labels" / label_file, index=False)
        return root

    return write


@pytest.fixture
def table(tmp_path):
    """Writes a corpus.csv, with audio for every row."""

    def write(columns, *rows):
        for row in rows:
            write_wav(tmp_path / row[columns.index("path")])
        pd.DataFrame(rows, columns=columns, dtype=object).to_csv(tmp_path / "corpus.csv", index=False)
        return str(tmp_path / "corpus.csv")

    return write
