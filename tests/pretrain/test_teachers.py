from __future__ import annotations

import pytest
import torch
import torchaudio
from transformers import HubertConfig, HubertModel

from ser_personal.audio import num_frames
from ser_personal.encoder.hubert import HubertEncoder, TinyEncoder
from ser_personal.pretrain.teachers import EncoderTeacher, MFCCTeacher


def padded(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    waveforms = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(waveforms, lengths, strict=True):
        row[:length] = 0.1 * torch.randn(length)
    return waveforms, torch.tensor(lengths)


@pytest.mark.parametrize("samples", [0, 399, 400, 719, 720, 16_000, 33_333])
def test_mfcc_frames_coincide_with_huberts(samples):
    frames, frame_mask, *_ = MFCCTeacher()(torch.randn(1, samples), torch.tensor([samples]))
    assert frames.shape == (1, num_frames(samples), 39)
    assert frame_mask.shape == (1, num_frames(samples))
    assert frame_mask.all()


def test_mfcc_of_a_clip_is_the_same_bits_alone_and_with_a_louder_one():
    waveforms, num_samples = padded(16_000, 399, 7_000, 24_001)
    waveforms[3] *= 50
    batch = MFCCTeacher()(waveforms, num_samples)
    for row, n in enumerate(num_samples.tolist()):
        alone = MFCCTeacher()(waveforms[row : row + 1, :n], num_samples[row : row + 1])
        assert batch.frame_mask[row].sum() == num_frames(n)
        assert torch.equal(batch.frames[row, : num_frames(n)], alone.frames[0])


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


def test_mfcc_are_not_standardised():
    waveforms, num_samples = padded(16_000)
    teacher = MFCCTeacher()
    loud, quiet = teacher(waveforms, num_samples).frames, teacher(waveforms / 10, num_samples).frames
    assert (loud[..., 0] - quiet[..., 0]).min() > 5


@pytest.fixture(scope="module")
def hubert_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hubert")
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7
    )
    HubertModel(config).save_pretrained(folder)
    return folder


def test_encoder_teacher_gives_transformers_hidden_state(hubert_folder):
    teacher = EncoderTeacher(HubertEncoder(str(hubert_folder)), teacher_layer=2)
    teacher.build()
    waveforms, num_samples = padded(8_000)
    frames = teacher.eval()(waveforms, num_samples).frames
    reference = HubertModel.from_pretrained(hubert_folder).eval()
    expected = reference(waveforms, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(frames, expected, rtol=1e-4, atol=1e-4)


def test_encoder_teacher_is_identified_by_layer_and_weights(hubert_folder):
    teachers = [EncoderTeacher(HubertEncoder(str(hubert_folder)), layer) for layer in (1, 1, 2)]
    for teacher in teachers:
        teacher.build()
    first, again, other_layer = (teacher.description for teacher in teachers)
    assert first == again
    assert first != other_layer
    assert (other_layer["teacher_layer"], teachers[2].teacher_layer) == (2, 2)
    with torch.no_grad():
        next(teachers[0].parameters()).add_(1)
    assert teachers[0].description["weights"] != first["weights"]


def test_build_keeps_the_weights_of_an_encoder_that_has_them():
    encoder = TinyEncoder(dim=8, layers=1, heads=2, feed_forward_dim=8)
    encoder.build()
    weights = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    EncoderTeacher(encoder, 1).build()
    assert all(torch.equal(weight, weights[name]) for name, weight in encoder.state_dict().items())
