import shutil
import signal

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from command_line import configs, ser
from garbage import refused
from killing import contents, on_two, output
from tiny_models import fitted, padded_noise

from ser_personal import MSPPodcast
from ser_personal.data.frame_store import PseudoLabels
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.encoder.raw import MFCCFrontEnd
from ser_personal.pretrain.codebook import Codebook
from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans
from ser_personal.pretrain.teachers import EncoderTeacher, MFCCTeacher


@pytest.fixture
def data(synthetic_corpus):
    return PseudoLabelData(str(synthetic_corpus), batch_seconds=20)


@pytest.fixture
def make(data, tmp_path):
    def run(out="labels", **changes):
        settings = {"data": data, "num_clusters": 6, "sample_share": 0.5, "iterations": 10, "accelerator": "cpu"}
        kmeans(**(settings | changes), out=str(tmp_path / out))
        return tmp_path / out

    return run


def test_every_frame_gets_its_nearest_centroid_of_the_training_set(make, data, monkeypatch, capsys):
    sampled = []
    fit = Codebook.fit.__func__
    spy = classmethod(lambda cls, frames, *settings: sampled.append(len(frames)) or fit(cls, frames, *settings))
    monkeypatch.setattr(Codebook, "fit", spy)
    folder = make(sample_share=1.0)
    labels, codebook = PseudoLabels.load(folder), Codebook.load(folder / "codebook.safetensors")
    source = labels.source
    assert (source.num_clusters, source.teacher, source.teacher_layer, source.frame_rate) == (6, "mfcc", None, 50)
    assert source.codebook_hash == codebook.hash
    assert len(labels) == len(data.utterances) == 72
    assert sampled == [sum(len(labels[one.utterance_id]) for one in data.utterances if one.split == "train")]
    for utterance in data.utterances:
        waveform, _ = soundfile.read(utterance.path, dtype="float32")
        frames = MFCCTeacher()(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).frames[0].double()
        distances = [((frames - torch.from_numpy(centroid)) ** 2).sum(1) for centroid in codebook.centroids]
        assert labels[utterance.utterance_id].tolist() == torch.stack(distances).argmin(0).tolist()
    counts = np.bincount(np.concatenate([labels[utterance.utterance_id] for utterance in data.utterances]))
    assert f"K = 6, {counts.sum():,} frames, {(counts > 0).sum()} clusters used" in capsys.readouterr().out


def test_the_same_settings_give_the_same_bytes_another_seed_others_and_batches_no_other_codebook(make, data):
    first, again, other = contents(make("first")), contents(make("again")), contents(make("other", seed=1))
    assert first == again != other
    wide = contents(make("wide", data=PseudoLabelData(data.corpus, batch_seconds=60)))
    assert first["codebook.safetensors"] == wide["codebook.safetensors"]


def test_an_interrupted_run_ends_with_the_same_bytes_and_does_nothing_twice(resumes_alike):
    resumes_alike(PseudoLabels, MFCCTeacher)


def test_labels_of_audio_that_has_changed_are_not_kept(make, synthetic_corpus, tmp_path):
    corpus = shutil.copytree(synthetic_corpus, tmp_path / "corpus")
    make(data=PseudoLabelData(str(corpus)))
    # as long, another sound
    path = corpus / "Audios" / "MSP-PODCAST_0001_0001.wav"
    soundfile.write(path, soundfile.read(path)[0][::-1] * 0.5, 16_000)
    line = r"_0001\.wav: audio has changed since its pseudo-labels in .*labels were made"
    refused(line, make, data=PseudoLabelData(str(corpus)))


def test_other_settings_in_an_existing_folder_are_named(make, synthetic_corpus):
    make()
    refused(r"was made with other settings \(num_clusters 6, now 4; seed 0, now 3\)", make, num_clusters=4, seed=3)
    fewer = PseudoLabelData(str(synthetic_corpus), splits=["train"])
    refused(r"\(data 72 utterances, \w+, now 48 utterances, \w+\)", make, data=fewer)


def test_no_such_accelerator_and_frames_that_are_not_finite(make, monkeypatch):
    refused("accelerator quantum, .*: You selected an invalid accelerator", make, accelerator="quantum")
    features = MFCCFrontEnd.features
    monkeypatch.setattr(MFCCFrontEnd, "features", lambda *audio: features(*audio) * np.nan)
    refused(r"\.wav: the network's frames of this audio hold NaN or infinity", make)


def test_splits_in_any_spelling_and_wrong_ones_and_empty_audio(synthetic_corpus, tmp_path):
    data = PseudoLabelData(str(synthetic_corpus), splits=["Train", "dev", "train"], fit_splits=["TRAIN"])
    assert (len(data.used_indices), len(data.fit_indices)) == (54, 48)
    cut = MSPPodcast(str(synthetic_corpus), cut_test="test1", adaptation_seconds=3)
    data = PseudoLabelData(cut, splits=["train", "validation", "test1_adaptation"])
    assert len(data.used_indices) > 54
    assert {data.utterances[index].split for index in data.fit_indices} == {"train"}
    soundfile.write(tmp_path / "short.wav", np.zeros(399), 16_000)
    (tmp_path / "corpus.csv").write_text("path,speaker,split\nshort.wav,a,train\n")
    empty = PseudoLabelData(str(tmp_path / "corpus.csv"))
    refused(r"short\.wav: audio is shorter than 400 samples", lambda: empty.used_indices)


def test_an_encoder_layer_teaches(make):
    encoder = fitted(TinyEncoder(dim=8, layers=2, heads=2, feed_forward_dim=8), padded_noise(torch.full((5,), 8_000)))
    folder = make(teacher=EncoderTeacher(encoder, teacher_layer=1))
    assert PseudoLabels.load(folder).source.teacher_layer == 1
    other = EncoderTeacher(encoder, teacher_layer=2)
    refused("teacher_layer 1, now 2", make, teacher=other)
    codebook = str(folder / "codebook.safetensors")
    refused(r"other settings \(teacher_layer 1, now 2\)", make, "other", teacher=other, codebook=codebook)
    teacher = EncoderTeacher(encoder, teacher_layer=1)
    same = PseudoLabels.load(make("same", teacher=teacher, codebook=codebook))
    assert same.source.codebook_hash == PseudoLabels.load(folder).source.codebook_hash
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    refused(r"made with other settings \(weights \w+, now \w+\)", make, teacher=teacher)
    encoder.network.config.max_samples = 8_000
    refused("the teacher's encoder: encodes only the first 8,000 samples", make, "half", teacher=teacher)


def test_two_processes_one_of_them_killed_come_to_the_bytes_of_one(synthetic_corpus, tmp_path):
    settings = ["--data.batch_seconds", "10", "--num_clusters", "10", "--iterations", "5", "--accelerator", "cpu"]
    words = ["kmeans", *configs("kmeans.yaml", "tiny/kmeans.yaml"), "--data.corpus", synthetic_corpus, *settings]
    assert ser(*words, "--out", tmp_path / "whole") == 0
    two = [*words, "--out", tmp_path / "labels", "--devices", "2"]
    # a batch is four changes: opened beside, twice, renamed, removed if it is still there
    codes = on_two(two, tmp_path / "log", [5, None], changing="batch-")
    assert codes[0] == -signal.SIGKILL
    assert codes[1] != 0
    refused("half written", PseudoLabels.load, tmp_path / "labels")
    assert len(list((tmp_path / "labels").glob("batch-*"))) >= 1
    assert on_two(two, tmp_path / "again") == [0, 0], output(tmp_path / "again")
    assert output(tmp_path / "again").count("K = 10") == 1
    assert contents(tmp_path / "labels") == contents(tmp_path / "whole")


def test_mfcc_are_those_of_fairseq_at_every_second_frame():
    waveform = 0.1 * torch.randn(1, 4_000)
    frames = MFCCTeacher()(waveform, torch.tensor([4_000])).frames[0]
    # fairseq's examples/hubert/simple_kmeans/dump_mfcc_feature.py
    static = torchaudio.compliance.kaldi.mfcc(waveform, sample_frequency=16_000, use_energy=False).transpose(0, 1)
    deltas = torchaudio.functional.compute_deltas(static)
    ddeltas = torchaudio.functional.compute_deltas(deltas)
    at_100_hz = torch.cat([static, deltas, ddeltas], dim=0).transpose(0, 1)
    assert torch.equal(frames, at_100_hz[torch.arange(len(frames)) * 2])
    assert at_100_hz.shape == (23, 39)
