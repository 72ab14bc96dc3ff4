import re

import numpy as np
import pandas as pd
import pytest
from command_line import ser
from garbage import files, is_read_or_refused, many_inputs
from hypothesis import given
from invented_run import people
from safetensors.numpy import save_file

from ser_personal.calibration.command import read_predictions, read_vectors
from ser_personal.calibration.pldc import calibrate
from ser_personal.calibration.posterior import PosteriorCalibrator
from ser_personal.speakers.bank import SpeakerBank

ATTRIBUTES = ("arousal", "valence")


def utterances(split, num_speakers, seed):
    """A table of utterances and their vectors."""
    made = people(split, num_speakers, seed, utterances=12)
    names = [f"{split}_{row}" for row in range(len(made.labels))]
    frame = pd.DataFrame({"utterance": names, "speaker": made.speaker_ids, "split": split})
    for column, attribute in enumerate(ATTRIBUTES):
        frame[f"{attribute}_label"] = made.labels[:, column].clip(1, 7)
        frame[f"{attribute}_raw"] = made.predictions[:, column]
    return frame, dict(zip(names, made.pooled, strict=True))


TRAIN, TRAIN_VECTORS = utterances("train", 40, 1)
VALIDATION, VALIDATION_VECTORS = utterances("validation", 10, 2)
TEST, TEST_VECTORS = utterances("test1", 6, 3)
VECTORS = TRAIN_VECTORS | VALIDATION_VECTORS | TEST_VECTORS


def arrays(frame, kind):
    columns = [f"{attribute}_{kind}" for attribute in ATTRIBUTES]
    pooled = np.stack([VECTORS[name] for name in frame["utterance"]])
    return frame[columns].to_numpy(), frame["speaker"].tolist(), pooled


def bank():
    labels, speaker_ids, pooled = arrays(TRAIN, "label")
    return SpeakerBank.from_utterances(speaker_ids, pooled, labels, ATTRIBUTES)


@pytest.fixture
def tables(tmp_path):
    """Both tables, vectors and bank; -> the arguments that name them."""
    pd.concat([VALIDATION, TEST]).to_csv(tmp_path / "predictions.csv", index=False)
    TRAIN.to_parquet(tmp_path / "train.parquet")
    save_file(VECTORS, tmp_path / "vectors.safetensors")
    bank().save(tmp_path / "bank.safetensors")
    names = {"predictions": "predictions.csv", "vectors": "vectors.safetensors", "bank": "bank.safetensors"}
    return {kind: tmp_path / name for kind, name in names.items()} | {"out": tmp_path / "made" / "calibrated.csv"}


def run(tables, **changes):
    predictions, *flags = (tables | changes).items()
    code = ser("calibrate", predictions[1], *[piece for name, value in flags for piece in (f"--{name}", value)])
    return code, pd.read_csv((tables | changes)["out"], dtype={"speaker": str}) if code == 0 else None


def test_calibrated_columns_are_those_of_the_library(tables, capsys):
    _, frame = run(tables, k=3)
    assert frame["utterance"].tolist() == TEST["utterance"].tolist()
    names = ["label", "raw", "mu", "sigma", "both", "affine", "posterior", "population"]
    calibrated = [f"{attribute}_{name}" for attribute in ATTRIBUTES for name in names]
    assert list(frame) == ["utterance", "speaker", "split", *calibrated]
    raw, speaker_ids, pooled = arrays(TEST, "raw")
    posterior = PosteriorCalibrator(bank()).fit(*arrays(VALIDATION, "raw"), arrays(VALIDATION, "label")[0])
    expected = {"raw": raw, "label": arrays(TEST, "label")[0], "posterior": posterior(raw, speaker_ids, pooled)}
    expected["sigma"] = calibrate(raw, speaker_ids, pooled, bank(), k=3).predictions
    for name, values in expected.items():
        np.testing.assert_allclose(arrays(frame, name)[0], values, atol=1e-6)
    shown = capsys.readouterr().out
    assert "test1: 72 utterances" in shown
    assert re.search(r"^ *own_statistics ", shown, re.MULTILINE)


def test_tables_in_place_of_bank_and_vectors_and_what_was_written_calibrated_again(tables, tmp_path):
    _, expected = run(tables)
    save_file(TRAIN_VECTORS, tmp_path / "train.safetensors")
    vectors = [{"utterance": name} | dict(enumerate(vector)) for name, vector in VECTORS.items()]
    pd.DataFrame(vectors).to_csv(tmp_path / "vectors.csv", index=False)
    np.savez(tmp_path / "vectors.npz", **VECTORS)
    pd.concat([TRAIN, VALIDATION, TEST]).to_csv(tmp_path / "all.csv", index=False)
    apart = {"bank": "all.csv", "bank_vectors": "train.safetensors"}
    for names in (apart, {"bank": "train.parquet", "vectors": "vectors.csv"}, {"vectors": "vectors.npz"}):
        _, frame = run(tables, replace="true", **{kind: tmp_path / name for kind, name in names.items()})
        pd.testing.assert_frame_equal(frame, expected)
    frame.rename(columns={"arousal_sigma": "arousal_calibrated"}).to_csv(tmp_path / "again.csv", index=False)
    _, again = run(tables, predictions=tmp_path / "again.csv", replace="true")
    np.testing.assert_allclose(again["arousal_sigma"], expected["arousal_sigma"])


def test_without_labels_split_or_speakers_it_is_still_calibrated(tables, tmp_path, capsys):
    bare = TEST[["utterance", "speaker", "arousal_raw"]].copy()
    bare.loc[:11, "speaker"] = None
    bare.to_csv(tmp_path / "bare.csv", index=False)
    _, frame = run(tables, predictions=tmp_path / "bare.csv")
    assert "O-CCC" not in capsys.readouterr().out
    assert "arousal_affine" not in frame
    assert set(frame["split"]) == {"test1"}
    assert frame["arousal_label"].isna().all()
    assert frame["speaker"][:12].isna().all()
    np.testing.assert_allclose(frame["arousal_sigma"][:12], bare["arousal_raw"][:12])
    raw, speaker_ids, pooled = (array[12:] for array in arrays(TEST, "raw"))
    expected = calibrate(raw[:, :1], speaker_ids, pooled, bank(), attributes=["arousal"]).predictions[:, 0]
    np.testing.assert_allclose(frame["arousal_sigma"][12:], expected)


def test_mistakes_in_the_tables_are_one_line_each(tables, tmp_path, capsys):
    def refused(what, **changes):
        assert run(tables, **changes)[0] == 2
        assert re.search(rf"^ser: .*{what}", capsys.readouterr().err)

    for columns, what in (
        ({"arousal_raw": [""] + [4] * 71}, "utterance test1_0: arousal_raw is '', not a finite"),
        ({"anger_raw": 4.0}, "predictions of arousal, valence, anger, but label statistics"),
        ({"split": "validation"}, "no test row. Mark test rows by their set"),
    ):
        TEST.assign(**columns).to_csv(tmp_path / "changed.csv", index=False)
        refused(what, predictions=tmp_path / "changed.csv")
    pd.concat([TRAIN[:12].assign(split="validation"), TEST]).to_csv(tmp_path / "known.csv", index=False)
    refused("known.csv: 1 of its speakers are in the bank .*: train 00", predictions=tmp_path / "known.csv")
    for column in ("arousal", "Arousal_Label"):
        TEST.rename(columns={"arousal_label": column}).to_csv(tmp_path / "changed.csv", index=False)
        refused(rf"column {column} isn't read. Did you mean arousal_label\?", predictions=tmp_path / "changed.csv")
    TEST[["utterance", "speaker"]].to_csv(tmp_path / "bare.csv", index=False)
    refused("no column whose name ends in _label", bank=tmp_path / "bare.csv")
    refused("predictions.csv: no training row", bank=tables["predictions"])
    refused("c.json: .* ends in .csv", out=tmp_path / "c.json")
    for name, content, what in (
        ("shifted.csv", b"name,0\ntrain_0,1.0\n", "no column utterance"),
        ("words.csv", b"utterance,0\ntest1_0,loud\n", "the vector of utterance test1_0 isn't all numbers"),
        ("noise.safetensors", b"\xffnoise", "isn't"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(what, vectors=tmp_path / name)
    tables["out"].parent.mkdir()
    tables["out"].write_text("mine")
    refused("calibrated.csv: exists already. Give another name, or replace it with --replace")
    assert tables["out"].read_text() == "mine"


@pytest.mark.parametrize("name", ["predictions.csv", "vectors.npz", "vectors.safetensors"])
def test_spoilt_files_are_read_or_refused(tmp_path, name):
    path, vectors = tmp_path / name, {"u": np.zeros(2, np.float32), "v": np.ones(2, np.float32)}
    predictions = b"utterance,speaker,split,arousal_raw,arousal_label\nu,x,test1,1.5,\nv,,,2.5,7\n"
    (tmp_path / "predictions.csv").write_bytes(predictions)
    np.savez(tmp_path / "vectors.npz", **vectors)
    save_file(vectors, tmp_path / "vectors.safetensors")

    def read():
        if name != "predictions.csv":
            return read_vectors(path)
        return read_predictions(path, vectors, training=False)

    read()

    @many_inputs
    @given(content=files(path.read_bytes()))
    def spoilt(content):
        path.write_bytes(content)
        is_read_or_refused(read)

    spoilt()


@pytest.mark.parametrize(
    ("table", "kind", "many"),
    [("predictions", "raw", True)] + [(table, "label", many) for table in ("predictions", "bank") for many in (0, 1)],
)
def test_predictions_on_another_scale_and_any_label_outside_it_are_refused(tables, tmp_path, capsys, table, kind, many):
    column, frame = f"arousal_{kind}", (TRAIN if table == "bank" else TEST).copy()
    if many:
        frame[column] = (frame[column] - 1) / 6
    else:
        frame.loc[4, column] = 7.0000005  # float32's rounding
        frame.loc[5, column] = 7.5
    frame.to_csv(tmp_path / "scaled.csv", index=False)
    assert run(tables, **{table: tmp_path / "scaled.csv"})[0] == 2
    first = f", the first {frame[column][0]:g} of utterance {frame['utterance'][0]}" if many else ", the first 7.5 of"
    told = rf"{'' if many else '1 of '}\d+ {'labels' if kind == 'label' else 'predictions'} of arousal{first}"
    assert re.search(rf"scaled.csv: .*{told}.* are outside .*, 1 to 7. Bring .* by 1 \+ 6 \*", capsys.readouterr().err)
