from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from ser_personal.data.emotion import EmotionDataModule
from ser_personal.data.speaker_features import SpeakerFeatures, SpeakerVectorFile
from ser_personal.errors import UserError

VECTORS = {"2": [1.0, 2.0, 3.0], "10": [4.0, 5.0, 6.0], "anna": [-1.0, 0.5, 1e-3]}


@pytest.fixture(params=["csv", "npz", "safetensors"])
def table(request, tmp_path):
    path = tmp_path / f"speakers.{request.param}"
    if request.param == "csv":
        rows = [f"{speaker},{','.join(map(str, vector))}" for speaker, vector in VECTORS.items()]
        path.write_text("\n".join(["speaker,a,b,c", *rows]))
    elif request.param == "npz":
        np.savez(path, **{speaker: np.array(vector) for speaker, vector in VECTORS.items()})
    else:
        save_file({speaker: np.array(vector, dtype=np.float32) for speaker, vector in VECTORS.items()}, path)
    return str(path)


def test_a_table_of_any_tool(table):
    features = SpeakerVectorFile(table).read([])
    np.testing.assert_allclose(features.of(["anna", "2"]), [VECTORS["anna"], VECTORS["2"]], rtol=1e-6)
    assert np.isnan(features.of([None])).all()
    with pytest.raises(UserError, match=r"speakers\.\w+: no features of speaker bela and 1 others\. Make them"):
        features.of(["dora", "bela", "2"])


def test_permuted_features_are_all_somebody_elses():
    ids = tuple(f"s{number}" for number in range(20))
    features = SpeakerFeatures(ids, np.arange(40, dtype=np.float32).reshape(20, 2), "here")
    permuted = features.permuted()
    assert sorted(permuted.vectors[:, 0]) == sorted(features.vectors[:, 0])
    assert (permuted.vectors[:, 0] != features.vectors[:, 0]).all()
    np.testing.assert_array_equal(permuted.vectors, features.permuted().vectors)
    assert permuted.fingerprint() != features.fingerprint()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,a\nx,1", "no column speaker"),
        ("speaker,a\nx,1\nx,2", "lists speaker x more than once"),
        ("speaker,a\nx,one", "the vector of speaker x holds what is no number"),
        ("speaker,a\nx,nan", "a value of speaker x isn't a finite number"),
        ("speaker,a\n", "holds no row"),
    ],
)
def test_tables_that_do_not_do(tmp_path, text, message):
    path = tmp_path / "speakers.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"speakers\.csv: .*{message}"):
        SpeakerVectorFile(str(path)).read([])


def test_batches_carry_them(synthetic_corpus, tmp_path):
    plain = EmotionDataModule(str(synthetic_corpus), max_batch=8, num_workers=0)
    ids = sorted({u.speaker_id for u in plain.utterances if u.speaker_id is not None})
    path = tmp_path / "speakers.csv"
    path.write_text("\n".join(["speaker,a,b", *(f"{speaker},{row},{-row}" for row, speaker in enumerate(ids))]))
    data = EmotionDataModule(str(synthetic_corpus), num_workers=0, speaker_features=SpeakerVectorFile(str(path)))
    batch = next(iter(data.split_dataloader("train")))
    wanted = [[ids.index(speaker), -ids.index(speaker)] for speaker in batch["speaker_ids"]]
    assert batch["speaker_features"].tolist() == wanted
    assert "speaker_features" not in next(iter(plain.split_dataloader("train")))
    assert plain.speaker_features_of(ids) is None

    path.write_text("\n".join(path.read_text().splitlines()[:3]))
    lacking = EmotionDataModule(str(synthetic_corpus), num_workers=0, speaker_features=SpeakerVectorFile(str(path)))
    with pytest.raises(UserError, match="no features of speaker"):
        lacking.split_dataloader("train")
