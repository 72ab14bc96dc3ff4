from __future__ import annotations

import os
import shutil

import pytest

from ser_personal.corpus import headers
from ser_personal.corpus.csv_corpus import CSVCorpus

ROWS = ["a.wav,s,train", "b.wav,s,train", "c.wav,t,validation", "gone.wav,t,validation"]


@pytest.fixture
def read(tmp_path, monkeypatch, wav):
    """Reads the corpus; -> seconds of each file, and which headers were read for it."""
    for number, name in enumerate("abc"):
        wav(tmp_path / "corpus" / f"{name}.wav", num_samples=1600 * (number + 1))
    (tmp_path / "corpus" / "corpus.csv").write_text("\n".join(["path,speaker,split", *ROWS]))
    seen = []
    count = headers.num_samples_of
    monkeypatch.setattr(headers, "num_samples_of", lambda path: (seen.append(path.stem), count(path))[1])
    monkeypatch.setattr(headers, "FEW", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def once():
        seen.clear()
        utterances = CSVCorpus(str(tmp_path / "corpus" / "corpus.csv")).utterances
        return {each.utterance_id: each.seconds for each in utterances if each.seconds > 0}, sorted(seen)

    return once


SECONDS = {"a": 0.1, "b": 0.2, "c": pytest.approx(0.3)}


def test_a_header_is_read_again_where_the_file_has_changed_alone(read, tmp_path, wav):
    assert read() == (SECONDS, ["a", "b", "c"])
    assert read() == (SECONDS, [])
    wav(tmp_path / "corpus" / "a.wav", num_samples=3200)
    assert read() == (SECONDS | {"a": 0.2}, ["a"])
    # as large as before, and another sound
    path = tmp_path / "corpus" / "b.wav"
    before = path.stat().st_mtime_ns
    wav(path, num_samples=3200)
    os.utime(path, ns=(before, before + 1))
    assert read() == (SECONDS | {"a": 0.2}, ["b"])
    wav(tmp_path / "corpus" / "gone.wav")
    assert read() == (SECONDS | {"a": 0.2, "gone": 0.1}, ["gone"])
    path.unlink()
    assert read()[0].keys() == {"a", "c", "gone"}


def test_what_commands_on_other_splits_have_read_is_kept(read, tmp_path):
    read()
    table = tmp_path / "corpus" / "corpus.csv"
    every = table.read_text()
    table.write_text("\n".join(["path,speaker,split", *ROWS[1:], "d.wav,t,validation"]))
    shutil.copy(tmp_path / "corpus" / "a.wav", tmp_path / "corpus" / "d.wav")
    assert read()[1] == ["d"]
    table.write_text(every)
    assert read() == (SECONDS, [])


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b'{"a": [1, 2]}', b"\xff", b"[" * 100_000])
def test_what_was_kept_and_cannot_be_read_is_found_anew(read, tmp_path, content):
    read()
    (kept,) = (tmp_path / "cache").rglob("*.json")
    kept.write_bytes(content)
    assert read() == (SECONDS, ["a", "b", "c"])
    assert read() == (SECONDS, [])


def test_nothing_is_kept_of_few_files_or_where_nothing_can_be_written(read, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file in the folder's place")
    assert read() == read() == (SECONDS, ["a", "b", "c"])
    (tmp_path / "cache").unlink()
    monkeypatch.setattr(headers, "FEW", 1_000)
    assert read() == read() == (SECONDS, ["a", "b", "c"])
    assert not (tmp_path / "cache").exists()
    shutil.rmtree(tmp_path / "corpus")
