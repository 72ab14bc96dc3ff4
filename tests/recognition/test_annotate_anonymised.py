from __future__ import annotations

import json
import shutil
from shutil import copytree

import pandas as pd
import pytest
from command_line import ser

from ser_personal import EmotionRecognizer
from ser_personal.pseudonyms import pseudonym
from ser_personal.recognition.annotate import Journal

NAMES = ("anna", "Борис", "林")


class Killed(BaseException):
    """Ends a run as a signal would."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("ser_personal.recognition.annotate.CHUNK_RECORDINGS", 4)


@pytest.fixture
def talk(recordings, tmp_path):
    """A folder a speaker, whose name stands in the file's name as well, and two recordings that fail."""
    for number, path in enumerate(recordings):
        name = NAMES[number % 3]
        folder = tmp_path / "talk" / name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{name}_{number:02}.wav")
    (tmp_path / "talk" / "anna" / "anna_broken.wav").write_bytes(b"nothing")
    (tmp_path / "talk" / "林" / "gone.wav").symlink_to("林.wav")
    return tmp_path / "talk"


@pytest.fixture
def annotate(bundle_folder, talk, tmp_path):
    def run(*flags, audio=talk, out="out/table.csv", speaker_from="folder", code=1):
        (tmp_path / out).parent.mkdir(exist_ok=True)
        options = ["--model", bundle_folder, "--out", tmp_path / out, "--speaker-from", speaker_from, "--device", "cpu"]
        assert ser("annotate", audio, *options, *flags) == code
        return tmp_path / out

    return run


def key_of(path):
    return bytes.fromhex(path.read_text().strip())


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_no_written_file_names_anyone(annotate, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow isn't installed (the extra parquet)")
    out = annotate("--anonymise", out=f"out/table.{ending}")
    written = sorted(out.parent.iterdir())
    assert [path.name for path in written] == sorted(["table.failed.csv", "table.key", out.name])
    for path in written:
        for name in (*NAMES, "talk", "gone"):
            assert name.encode() not in path.read_bytes()
            assert json.dumps(name)[1:-1].encode() not in path.read_bytes()


def test_values_are_those_under_the_names(annotate, capsys):
    named = pd.read_csv(annotate(out="named.csv"))
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    out = annotate("--anonymise")
    text = capsys.readouterr().out
    assert sorted(line for line in text.splitlines() if line.startswith("failed: ")) == sorted(shown)
    assert f"keep back the key, {out.with_name('table.key')}" in text
    key = key_of(out.with_name("table.key"))
    hidden = pd.read_csv(out)
    assert hidden["speaker"].is_monotonic_increasing
    expected = named.assign(
        speaker=[pseudonym(key, name) for name in named["speaker"]],
        source=[pseudonym(key, path, "recording") for path in named["source"]],
    ).sort_values("speaker", kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(hidden, expected, atol=1e-5)
    failed = [pd.read_csv(path.with_name(f"{path.stem}.failed.csv")) for path in (out, out.parents[1] / "named.csv")]
    assert set(failed[0]["source"]) == {pseudonym(key, path, "recording") for path in failed[1]["source"]}


def test_unknown_speakers_stay_unknown_and_their_paths_are_hidden(annotate):
    frame = pd.read_csv(annotate("--anonymise", speaker_from="none"))
    assert frame["speaker"].isna().all()
    assert frame["source"].str.fullmatch("recording_[0-9a-f]{16}").all()


def test_speakers_of_a_table(annotate, talk, tmp_path):
    paths = sorted(talk.rglob("*_0*.wav"))[:3]
    lines = [f"{path.relative_to(tmp_path)},{who}" for path, who in zip(paths, ("zoë", "Unknown", "zoë"), strict=True)]
    (tmp_path / "corpus.csv").write_text("\n".join(["path,speaker", *lines]) + "\n")
    out = annotate("--anonymise", audio=tmp_path / "corpus.csv", speaker_from="column", code=0)
    hidden = pseudonym(key_of(out.with_name("table.key")), "zoë")
    assert sorted(pd.read_csv(out)["speaker"].fillna("")) == ["", hidden, hidden]


def test_profiles_stay_under_their_names(annotate, bundle_folder, talk, tmp_path):
    profiles = tmp_path / "profiles.safetensors"
    recognizer = EmotionRecognizer.from_pretrained(bundle_folder, profiles=profiles, device="cpu")
    recognizer.enroll("anna", sorted((talk / "anna").glob("*_0*.wav"))[:2])
    frame = pd.read_csv(annotate("--anonymise", "--profiles", profiles))
    anna = pseudonym(key_of(tmp_path / "out" / "table.key"), "anna")
    assert frame.loc[frame["speaker"] == anna, "calibration_utterances"].tolist() == [3, 4, 5, 6, 7, 8]
    again = EmotionRecognizer.from_pretrained(bundle_folder, profiles=profiles, device="cpu")
    assert (again.profiles.ids, again.profiles["anna"].utterances) == (["anna"], 8)


def kill_after_one_chunk(monkeypatch, run):
    add = Journal.add

    def killed(self, *arguments):
        add(self, *arguments)
        raise Killed

    monkeypatch.setattr(Journal, "add", killed)
    with pytest.raises(Killed):
        run()
    monkeypatch.setattr(Journal, "add", add)


def test_a_killed_run_goes_on_with_its_key_and_no_other(annotate, monkeypatch, capsys, tmp_path):
    whole = annotate("--anonymise")
    flags = ("--anonymise", "--key", whole.with_name("table.key"))
    kill_after_one_chunk(monkeypatch, lambda: annotate(*flags, out="killed.csv"))
    for others in ((), ("--anonymise",), ("--anonymise", "--key", tmp_path / "new.key")):
        capsys.readouterr()
        annotate(*others, out="killed.csv", code=2)
        (line,) = capsys.readouterr().err.splitlines()
        assert "is of a run that was broken off with another --anonymise or --key. Repeat that run's command" in line
    assert annotate(*flags, out="killed.csv").read_bytes() == whole.read_bytes()
    assert "going on after 4" in capsys.readouterr().out
    kill_after_one_chunk(monkeypatch, lambda: annotate(out="named.csv"))
    annotate(*flags, out="named.csv", code=2)
    assert "with another --anonymise or --key" in capsys.readouterr().err


def test_a_table_and_a_report_of_one_key_join(annotate, tested_checkpoint, talk, tmp_path):
    """Speakers of the test set, annotated from folders by their ids and reported, have the same names."""
    run = copytree(tested_checkpoint.parent / "run", tmp_path / "run")
    tested = pd.read_csv(run / "predictions.csv", dtype={"speaker": str})
    speakers = sorted(set(tested["speaker"].dropna()))
    folder = tmp_path / "by_id"
    for name, id_ in zip(NAMES, speakers, strict=True):
        copytree(talk / name, folder / id_, symlinks=True)
    out = annotate("--anonymise", audio=folder)
    assert ser("report", run, "--anonymise", "--key", out.with_name("table.key"), "--resamples", "100") == 0
    (metadata,) = run.rglob("metadata.tsv")
    reported = pd.read_csv(metadata, sep="\t").query("set == 'test1'")["speaker"]
    annotated = pd.read_csv(out)["speaker"]
    assert set(annotated) == set(reported)
    assert len(set(annotated)) == 3
    for path in (run / "report.html", run / "audit.json", metadata, *run.glob("events.*.report")):
        assert not any(utterance.encode() in path.read_bytes() for utterance in tested["utterance"])
