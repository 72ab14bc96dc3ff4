import csv
import json
from zlib import crc32

import numpy as np
import pytest
import soundfile

MSP_COLUMNS = ["FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set"]


def write_wav(path, num_samples=1600, rate=16_000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(crc32(path.name.encode()))
    soundfile.write(path, rng.uniform(-0.5, 0.5, (num_samples, channels)), rate, subtype="PCM_16")


def write_table(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


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
            write_wav(root / audio / str(row[0]))
        write_table(root / "Labels" / label_file, MSP_COLUMNS, rows)
        if label_file.endswith(".json"):
            fields = {row[0]: dict(zip(MSP_COLUMNS[1:], row[1:], strict=True)) for row in rows}
            (root / "Labels" / label_file).write_text(json.dumps(fields))
        return root

    return write


@pytest.fixture
def table(tmp_path):
    """Writes a corpus.csv, with audio for every row."""

    def write(columns, *rows):
        for row in rows:
            if name := str(row[list(columns).index("path")] if "path" in columns else ""):
                write_wav(tmp_path / name)
        write_table(tmp_path / "corpus.csv", columns, rows)
        return str(tmp_path / "corpus.csv")

    return write
