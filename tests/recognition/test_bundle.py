from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from ser_personal import EmotionRecognizer, SpeakerBank
from ser_personal.encoder.base import weights_fingerprint
from ser_personal.errors import UserError
from ser_personal.finetune.interpreters import MLPInterpreter
from ser_personal.recognition.bundle import FILES, find_bundle, read_bundle, write_bundle


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def test_a_bundle_holds_no_pickle(bundle_folder):
    assert {path.name for path in bundle_folder.iterdir()} == {*FILES} - {"conformal.json", "posterior.json"}
    assert not any(
        b"PK\x03\x04" in path.read_bytes() or path.read_bytes()[:1] == b"\x80" for path in bundle_folder.iterdir()
    )


def test_a_bundle_written_and_read_again_is_the_same(bundle, tmp_path):
    write_bundle(bundle, tmp_path / "again")
    again = read_bundle(tmp_path / "again")
    assert again.model == bundle.model == weights_fingerprint(again.network.state_dict())
    assert (again.attributes, again.scale, again.pldc) == (("arousal", "valence"), (1.0, 7.0), bundle.pldc)
    assert again.pldc.k == 3
    np.testing.assert_array_equal(again.bank.vectors, bundle.bank.vectors)


def test_nothing_half_written_is_left(bundle, tmp_path):
    def fails(folder):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_bundle(bundle, tmp_path / "b", fails)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b").mkdir()
    write_bundle(bundle, tmp_path / "b")
    with pytest.raises(UserError, match="isn't an empty folder"):
        write_bundle(bundle, tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "changes", "what"),
    [
        ("config.json", {"format_version": 99}, "bundle of format 99; this version reads format 3. Export it again"),
        ("config.json", {"format_version": "2"}, "bundle of format 2; this"),
        ("config.json", {"format": "other"}, "isn't a bundle of ser_personal"),
        ("config.json", {"pldc": {"kk": 3}}, "lacks or misspells .*kk"),
        ("config.json", {"interpreter": {"class_path": "os.system", "init_args": {}}}, "isn't a class"),
        ("config.json", {"calibration": "mean"}, "unknown calibration 'mean'"),
        ("config.json", {"calibration": "posterior"}, "posterior.json: no such file in the bundle"),
        ("config.json", {"interpreter": {"class_path": "antigravity.Head", "init_args": {}}}, "isn't part of ser_pers"),
        ("config.json", {"attributes": ["arousal", "dominance"]}, "lacks|made with|Give"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "expects audio at 8000 Hz"),
    ],
)
def test_what_this_version_can_not_read(copy, name, changes, what):
    edit(copy / name, **changes)
    with pytest.raises(UserError, match=what) as caught:
        read_bundle(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_damaged_or_missing_files(copy, name):
    content = (copy / name).read_bytes()
    for spoil in (lambda path: path.write_bytes(content[: len(content) // 2]), Path.unlink):
        spoil(copy / name)
        with pytest.raises(UserError, match=name):
            read_bundle(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "speaker_bank.safetensors", "conformal.json"])
def test_a_file_of_another_bundle_is_refused_by_name(copy, name):
    (copy / name).write_bytes(b"other")
    with pytest.raises(UserError, match=rf"{name}: isn't the file that the bundle was written with"):
        read_bundle(copy)


def test_a_bank_of_another_model(bundle, tmp_path):
    narrow = SpeakerBank.from_utterances(["a"], np.ones((1, 3)), np.ones((1, 2)), ("arousal", "valence"))
    other = replace(bundle.bank, attributes=("valence", "dominance"))
    for bank, what in (
        (narrow, "of vectors of 3 values, the model's have 16"),
        (other, "bank is of valence, dominance, the model of arousal, valence"),
    ):
        write_bundle(replace(bundle, bank=bank), tmp_path / what)
        with pytest.raises(UserError, match=what):
            read_bundle(tmp_path / what)


class Forgetful(MLPInterpreter):
    def __init__(self, width: int) -> None:
        super().__init__((width,))


class Own(MLPInterpreter):
    def __init__(self, width: int) -> None:
        super().__init__((width,))
        self.width = width


class Layered(MLPInterpreter):
    def __init__(self, dropout: float) -> None:
        super().__init__((4,))
        self.dropout = nn.Dropout(dropout)


def test_interpreters_of_other_packages(bundle, tmp_path):
    bundle.network.interpreter = Own(5)
    bundle.network.interpreter.build(bundle.network.dim, 2)
    write_bundle(bundle, tmp_path / "own")
    assert isinstance(read_bundle(tmp_path / "own").network.interpreter.layers, nn.Sequential)
    for interpreter, what in (
        (Forgetful(5), "Forgetful: doesn't keep its argument width"),
        (Layered(0.5), r"Layered\.dropout: is kept as a Dropout, which a bundle can't hold"),
    ):
        bundle.network.interpreter = interpreter
        with pytest.raises(UserError, match=what):
            write_bundle(bundle, tmp_path / "other")


def test_where_no_bundle_is(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="isn't a bundle"):
        EmotionRecognizer.from_pretrained(tmp_path)
    for name in ("a/b/c", "nowhere", str(tmp_path / "x"), "../up"):
        with pytest.raises(UserError, match="no such folder"):
            find_bundle(name)
    with pytest.raises(UserError, match="nobody/nothing: no folder of this name is here, and the Hugging"):
        find_bundle("nobody/nothing")


def test_a_hub_name_is_downloaded(bundle_folder, monkeypatch):
    asked = []

    def snapshot_download(name, revision, token, allow_patterns):
        asked.append((name, allow_patterns))
        return str(bundle_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert EmotionRecognizer.from_pretrained("some/model").attributes == ("arousal", "valence")
    assert asked == [("some/model", list(FILES))]
