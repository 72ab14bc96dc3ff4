"""`ser kmeans` on a corpus with audio that can't be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch
from command_line import configs, ser

from ser_personal.data.frame_store import PseudoLabels, PseudoLabelWriter
from ser_personal.data.pretrain import PretrainDataModule
from ser_personal.errors import UserError
from ser_personal.pretrain.codebook import Codebook
from ser_personal.pretrain.kmeans import kmeans
from ser_personal.pretrain.pseudo_label_data import PseudoLabelData
from ser_personal.pretrain.teachers import MFCCTeacher

if TYPE_CHECKING:
    from pathlib import Path

# of train and validation
UTTERANCES = 54
RUN = "from ser_personal.cli import main; raise SystemExit(main())"


@pytest.fixture(scope="module")
def make(damaged_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")

    def run(out, max_bad_share=0.1, **changes):
        options = {"splits": ["train", "validation"], "batch_seconds": 6, "on_bad_audio": "skip"}
        data = PseudoLabelData(str(damaged_corpus), **options, max_bad_share=max_bad_share)
        settings = {"num_clusters": 10, "iterations": 5, "accelerator": "cpu"}
        kmeans(data, **settings | changes, out=str(folder / out))
        return folder / out

    return run


@pytest.fixture(scope="module")
def whole(make):
    return make("whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def skipped(folder: Path) -> list[str]:
    return [one["utterance"] for one in json.loads((folder / "skipped_audio.json").read_text())["skipped"]]


def test_every_good_utterance_gets_its_nearest_centroids_and_bad_ones_are_listed(whole, damaged_corpus, bad_ids):
    labels, codebook = PseudoLabels.load(whole), Codebook.load(whole / "codebook.safetensors")
    utterances = PseudoLabelData(str(damaged_corpus), splits=["train", "validation"]).utterances
    assert {*labels.utterance_ids} == {u.utterance_id for u in utterances} - {*bad_ids}
    assert len(labels) == UTTERANCES - 4
    assert sorted(skipped(whole)) == sorted(bad_ids)
    for utterance in utterances[4:8]:
        waveform, _ = soundfile.read(utterance.path, dtype="float32")
        frames = MFCCTeacher()(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).frames[0].double()
        distances = [((frames - torch.from_numpy(centroid)) ** 2).sum(1) for centroid in codebook.centroids]
        assert labels[utterance.utterance_id].tolist() == torch.stack(distances).argmin(0).tolist()


def test_the_codebook_is_fitted_on_the_drawn_frames_of_good_audio(make, damaged_corpus, bad_ids, monkeypatch):
    fitted = []
    fit = Codebook.fit.__func__
    spy = classmethod(lambda cls, frames, *settings: fitted.append(frames.copy()) or fit(cls, frames, *settings))
    monkeypatch.setattr(Codebook, "fit", spy)
    folder = make("spied", sample_share=1.0)
    labels = PseudoLabels.load(folder)
    training = PseudoLabelData(str(damaged_corpus), splits=["train"]).utterances
    good = [u.utterance_id for u in training if u.utterance_id not in bad_ids]
    assert len(fitted[0]) == sum(len(labels[name]) for name in good)
    assert np.isfinite(fitted[0]).all()


@pytest.mark.parametrize("written", [0, 30, 49])
def test_an_interrupted_run_ends_with_the_same_bytes(make, whole, monkeypatch, written):
    write = PseudoLabelWriter.write

    def interrupted(writer, *arguments):
        if len(writer._written) == written:
            raise InterruptedError
        write(writer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PseudoLabelWriter, "write", interrupted)
        with pytest.raises(InterruptedError):
            make(f"broken{written}")
    assert contents(make(f"broken{written}")) == contents(whole)


def run_on_two(corpus: Path, folder: Path, max_bad_share: float) -> subprocess.CompletedProcess[str]:
    settings = {"data.corpus": corpus, "data.splits": "[train,validation]", "data.batch_seconds": 6}
    settings |= {"data.on_bad_audio": "skip", "data.max_bad_share": max_bad_share, "out": folder / "labels"}
    settings |= {"num_clusters": 10, "iterations": 5, "accelerator": "cpu", "devices": 2}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    (folder / "run.py").write_text(RUN)
    command = [sys.executable, str(folder / "run.py"), "kmeans", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=150, env=environment)


def test_two_processes_stop_for_the_sum_of_what_they_left_out_or_come_to_the_bytes_of_one(
    whole, damaged_corpus, tmp_path
):
    stopped = run_on_two(damaged_corpus, tmp_path, 3.5 / UTTERANCES)
    assert stopped.returncode == 2, stopped.stderr
    assert "7.4% of the audio can't be used, more than the 6.5%" in stopped.stderr
    assert len(skipped(tmp_path / "labels")) == 4
    done = run_on_two(damaged_corpus, tmp_path, 0.1)
    assert done.returncode == 0, done.stderr
    assert f"4 of {UTTERANCES} utterances left out" in done.stdout
    assert contents(tmp_path / "labels") == contents(whole)


def test_a_finished_folder_keeps_its_list(make, whole):
    before = contents(whole)
    make("whole")
    assert contents(whole) == before


def test_a_list_of_an_earlier_run_goes_with_its_audio(synthetic_corpus, tmp_path):
    (tmp_path / "skipped_audio.json").write_text("of an earlier run")
    kmeans(PseudoLabelData(str(synthetic_corpus)), num_clusters=10, iterations=5, out=str(tmp_path), accelerator="cpu")
    assert not (tmp_path / "skipped_audio.json").exists()


@pytest.mark.parametrize(("share", "percent"), [(1 / 54 - 1e-9, "1.9%"), (3 / 54, "7.4%"), (4 / 54 - 1e-9, "7.4%")])
def test_more_than_the_share_stops_the_run(make, share, percent):
    with pytest.raises(UserError, match=f"split train, validation: {percent} of the audio can't be used, more than"):
        make(f"stopped{share}", max_bad_share=share)


def test_just_the_share_may_be_skipped(make):
    assert len(PseudoLabels.load(make("just", max_bad_share=4 / 54))) == UTTERANCES - 4


def test_unless_told_otherwise_the_first_bad_header_is_refused(damaged_corpus, tmp_path, bad_ids, capsys):
    words = [*configs("kmeans.yaml", "tiny/kmeans.yaml"), "--data.corpus", damaged_corpus, "--out", tmp_path]
    assert ser("kmeans", *words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{bad_ids[0]}.wav: 1 audio files are unreadable or shorter than one frame" in last
    assert last.endswith("or set data.on_bad_audio=skip.")


def test_pretraining_skips_what_was_skipped(whole, damaged_corpus, bad_ids):
    options = {"pseudo_labels": str(whole), "min_samples": 8_000, "num_workers": 0, "on_bad_audio": "skip"}
    data = PretrainDataModule(str(damaged_corpus), **options, max_bad_share=0.1)
    data.setup("fit")
    used = [data.utterances[i].utterance_id for i in data.wanted_indices(["train"])]
    assert {*used} == {u.utterance_id for u in data.corpus.splits.sets["train"]} - {*bad_ids}
    reasons = {one.utterance_id: one.reason for one in data.skipped_audio}
    assert reasons == {bad_ids[0]: "missing or unreadable"} | dict.fromkeys(bad_ids[1:], "has no pseudo-labels")
    assert sum(len(batch["indices"]) for batch in data.train_dataloader()) == len(data.train_indices)
    with pytest.raises(UserError, match=r"split train: 8\.3% of the audio can't be used, more than the 8\.0%"):
        PretrainDataModule(str(damaged_corpus), **options, max_bad_share=0.08).setup("fit")


def test_pretraining_refuses_missing_pseudo_labels_unless_told_to_skip(whole, synthetic_corpus):
    data = PretrainDataModule(str(synthetic_corpus), pseudo_labels=str(whole), min_samples=8_000)
    with pytest.raises(UserError, match=r"no pseudo-labels for 4 of 54 .* data\.on_bad_audio=skip skips too"):
        data.setup("fit")
