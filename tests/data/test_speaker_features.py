from __future__ import annotations

import numpy as np
import pytest

from ser_personal.data.emotion import EmotionDataModule
from ser_personal.data.speaker_features import SpeakerFeatures, SpeakerVectorFile
from ser_personal.errors import UserError


def test_vectors_of_any_tool(tmp_path):
    path = tmp_path / "speakers.csv"
    path.write_text("speaker,a,b\n2,1,2\n10,4,5\nanna,-1,.001\n")
    features = SpeakerVectorFile(str(path)).read([])
    np.testing.assert_allclose(features.of(["anna", "2"]), [[-1, 0.001], [1, 2]], rtol=1e-6)
    assert np.isnan(features.of([None])).all()
    with pytest.raises(UserError, match=r"speakers\.csv: no features of speaker bela and 1 others\. Make them"):
        features.of(["dora", "bela", "2"])
    path.write_text("speaker,a\nx,nan\n")
    with pytest.raises(UserError, match=r"speakers\.csv: a value of speaker x isn't a finite number"):
        SpeakerVectorFile(str(path)).read([])


def test_permuted_features_are_all_somebody_elses():
    ids = tuple(f"s{number}" for number in range(20))
    features = SpeakerFeatures(ids, np.arange(40, dtype=np.float32).reshape(20, 2), "here")
    permuted = features.permuted()
    assert sorted(permuted.vectors[:, 0]) == sorted(features.vectors[:, 0])
    assert (permuted.vectors[:, 0] != features.vectors[:, 0]).all()
    np.testing.assert_array_equal(permuted.vectors, features.permuted().vectors)
    assert permuted.fingerprint() != features.fingerprint()


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
