import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ser_personal.annotation.tables import write_annotations, write_vectors
from ser_personal.audio import decode
from ser_personal.recognition.recordings import Recording

ANNA = 'an"na <b>'
# the second overlapping the first, the last two of one speaker overlapping
TURNS = [(ANNA, 0.0, 1.5), ("NA", 1.0, 2.5), ("林", 3.0, 4.5), (ANNA, 5.0, 6.0), (ANNA, 5.5, 6.25)]


def test_every_format_holds_the_same(annotate):
    table = pd.read_csv(annotate(), dtype={"speaker": str})
    lines = pd.read_json(annotate(out="predictions.jsonl"), lines=True, dtype={"speaker": str})
    pd.testing.assert_frame_equal(lines, table, check_dtype=False)
    folder = annotate(out="labels.txt")
    for row in table.itertuples():
        label = f"{row.speaker} arousal {row.arousal_calibrated:.2f} valence {row.valence_calibrated:.2f}"
        assert (folder / f"{Path(row.file).stem}.txt").read_text() == f"{row.start:.6f}\t{row.end:.6f}\t{label}\n"
    pytest.importorskip("pyarrow", reason="pyarrow isn't installed (the extra parquet)")
    pd.testing.assert_frame_equal(pd.read_parquet(annotate(out="predictions.parquet")), table, check_dtype=False)


def test_a_textgrid_has_a_tier_for_each_speaker_and_attribute(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid", reason="praatio isn't installed (the extra textgrid)")
    frame = pd.DataFrame(TURNS, columns=["speaker", "start", "end"]).assign(file="meeting.wav")
    frame[["arousal_calibrated", "valence_calibrated"]] = np.random.default_rng(0).uniform(1, 7, (len(TURNS), 2))
    recording, path = Recording("meeting.wav", np.zeros(8 * 16_000, dtype=np.float32)), tmp_path / "meeting.TextGrid"
    write_annotations(path, frame.to_dict("records"), [*frame], ["arousal", "valence"], [recording])
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="error")
    assert grid.tierNames == tuple(f"{who} {what}" for who in (ANNA, "NA", "林") for what in ("arousal", "valence"))
    assert (grid.minTimestamp, grid.maxTimestamp) == (0, 8)
    for tier in grid.tiers:
        speaker, attribute = tier.name.rsplit(" ", 1)
        own = frame[frame["speaker"] == speaker]
        ends = own["end"].clip(upper=own["start"].shift(-1).fillna(8))
        labels = [f"{value:.2f}" for value in own[f"{attribute}_calibrated"]]
        assert [tuple(entry) for entry in tier.entries] == [*zip(own["start"], ends, labels, strict=True)]


def test_several_recordings_have_a_textgrid_each(annotate, refusal, talk, tmp_path):
    pytest.importorskip("praatio", reason="praatio isn't installed (the extra textgrid)")
    (talk / "anna" / "broken.wav").write_bytes(b"nothing")
    folder = annotate(out="grids.TextGrid", code=1)
    stems = sorted(path.stem for path in talk.rglob("*.wav") if path.stem != "broken")
    assert sorted(path.name for path in folder.iterdir()) == [f"{stem}.TextGrid" for stem in stems]
    assert not list(tmp_path.glob(".*"))
    assert "grids.TextGrid: exists already" in refusal(out="grids.TextGrid")
    shutil.copy(talk / "anna" / "broken.wav", talk / "Борис")
    assert "twice.TextGrid: 2 recordings are called broken" in refusal(out="twice.TextGrid")


def test_vectors_lie_beside_the_scores(annotate, killed_at, bundle, talk, tmp_path):
    killed_at(8, flags=["--vectors", tmp_path / "vectors.npz"], before=True)
    frame = pd.read_csv(annotate("--vectors", tmp_path / "vectors.npz"), dtype={"speaker": str})
    with np.load(tmp_path / "vectors.npz") as arrays:
        for column in ("file", "start", "end", "speaker"):
            np.testing.assert_array_equal(arrays[column], frame[column])
        waveforms = [decode(path) for path in frame["file"].map(Path)]
        expected = bundle.network.recognize(waveforms, [None] * len(frame)).pooled
        np.testing.assert_allclose(arrays["vectors"], expected, atol=1e-5)
    write_vectors(tmp_path / "none.npz", [], iter([]))
    with np.load(tmp_path / "none.npz") as none:
        assert [len(none[name]) for name in ("file", "start", "end", "speaker", "vectors")] == [0] * 5


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_tables_rows_are_never_all_in_memory(tmp_path, monkeypatch, name):
    pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed (the extra parquet)")
    monkeypatch.setattr("ser_personal.annotation.tables.ROW_GROUP", 10)
    tracemalloc.start()
    write_annotations(tmp_path / name, ({"file": f"{n:04000}"} for n in range(5000)), ["file"], [], [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6 < 5000 * 4000


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.TextGrid"])
def test_nothing_half_written_takes_the_tables_name(tmp_path, name):
    def rows():
        yield {"file": "a"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_annotations(tmp_path / name, rows(), ["file"], [], [])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line(refusal, monkeypatch):
    monkeypatch.setattr("ser_personal.annotation.tables.find_spec", lambda _: None)
    assert "needs the package praatio" in refusal(out="p.TextGrid")
