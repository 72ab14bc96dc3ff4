from __future__ import annotations

import pytest
import torch
import torchaudio

from ser_personal.audio import num_frames
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.pretrain.teachers import EncoderTeacher, MFCCTeacher


@pytest.mark.parametrize("samples", [0, 399, 400, 720, 16_000])
def test_mfcc_frames_coincide_with_huberts(samples):
    frames, frame_mask, *_ = MFCCTeacher()(torch.randn(1, samples), torch.tensor([samples]))
    assert frames.shape == (1, num_frames(samples), 39)
    assert frame_mask.shape == (1, num_frames(samples))
    assert frame_mask.all()


def test_mfcc_of_a_clip_is_the_same_bits_alone_and_with_a_louder_one():
    torch.manual_seed(0)
    num_samples = torch.tensor([16_000, 399, 7_000, 24_001])
    waveforms = 0.1 * torch.randn(4, 24_001) * (torch.arange(24_001) < num_samples[:, None])
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


def test_a_network_is_identified_by_layer_and_weights_and_built_once():
    encoder = TinyEncoder(dim=8, layers=2, heads=2, feed_forward_dim=8)
    first, other_layer = EncoderTeacher(encoder, 1), EncoderTeacher(encoder, 2)
    first.build()
    description = first.description
    other_layer.build()
    assert first.description == description
    assert other_layer.description == description | {"teacher_layer": 2}
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    assert first.description["weights"] != description["weights"]
