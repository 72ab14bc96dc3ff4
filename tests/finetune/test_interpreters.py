import pytest
import torch
from garbage import refused
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ser_personal.finetune import interpreters
from ser_personal.finetune.interpreters import MLPInterpreter, PointwiseInterpreter, TransformerInterpreter
from ser_personal.types import EncoderOutput

POOLING = [MLPInterpreter(), interpreters.DenseInterpreter(), interpreters.AttentiveStatisticsInterpreter((8,))]
BEGIN_AT_MEANS = [*POOLING, TransformerInterpreter(16, 1, 2), TransformerInterpreter(16, 1, 2, stride=1)]
KINDS = [*BEGIN_AT_MEANS, PointwiseInterpreter(8)]


def output(*lengths, dim=12, speaker=True):
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(len(lengths), max(lengths), dim, generator=generator)
    frame_mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    embedding = torch.randn(len(lengths), dim, generator=generator) if speaker else None
    return EncoderOutput(frames, frame_mask, speaker_embedding=embedding)


def built(interpreter):
    torch.manual_seed(0)
    interpreter.build(12, 3)
    return interpreter.eval()


def one(many, row):
    """An utterance by itself, without padding."""
    frames = int(many.frame_mask[row].sum())
    speaker = None if many.speaker_embedding is None else many.speaker_embedding[[row]]
    return EncoderOutput(many.frames[[row], :frames], many.frame_mask[[row], :frames], speaker_embedding=speaker)


@given(lengths=st.lists(st.integers(1, 13), min_size=1, max_size=3), stride=st.integers(1, 6))
def test_stride_is_the_mean_of_real_frames(lengths, stride):
    many = output(*lengths)
    frames, mask = interpreters.average_frames(many.frames, many.frame_mask, stride)
    assert frames.shape[1] == -(-max(lengths) // stride)
    for row, length in enumerate(lengths):
        expected = [many.frames[row, start : min(start + stride, length)].mean(0) for start in range(0, length, stride)]
        assert mask[row].tolist() == [True] * len(expected) + [False] * (mask.shape[1] - len(expected))
        torch.testing.assert_close(frames[row, : len(expected)], torch.stack(expected))


@pytest.mark.parametrize("speaker", [True, False])
@pytest.mark.parametrize("interpreter", KINDS, ids=lambda kind: type(kind).__name__)
def test_predictions_depend_neither_on_padding_nor_on_batch_mates(interpreter, speaker):
    built(interpreter)
    many = output(9, 1, 4, 21, speaker=speaker)
    spoilt = many._replace(frames=many.frames.masked_fill(~many.frame_mask[..., None], 1e3))
    # torch has a faster path in inference
    with torch.inference_mode():
        together = interpreter(spoilt)
        alone = torch.cat([interpreter(one(many, row)) for row in range(4)])
    assert together.shape == (4, 3)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(interpreter(spoilt), together, rtol=0, atol=1e-5)
    assert together.std(0).min() > 1e-3


def test_the_speaker_and_the_order_of_frames_are_read():
    interpreter, many = built(TransformerInterpreter(16, 2, 2, stride=1)), output(9, 4)
    moved = many.speaker_embedding.clone()
    moved[1] += 1
    before, after = interpreter(many), interpreter(many._replace(speaker_embedding=moved))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-3)
    for other in ({"speaker_embedding": None}, {"frames": many.frames.flip(1)}):
        assert not torch.allclose(interpreter(many._replace(**other))[0], before[0], atol=1e-3)


@pytest.mark.parametrize("interpreter", BEGIN_AT_MEANS, ids=lambda kind: type(kind).__name__)
def test_they_start_at_the_label_means(interpreter):
    means = torch.tensor([[4.1, 3.5, 2.0]] * 2)
    built(interpreter).start_from([0.0, 0.0, 0.0])
    from_zero = interpreter(output(7, 3))
    interpreter.start_from(means[0].tolist())
    torch.testing.assert_close(interpreter(output(7, 3)) - from_zero, means)
    assert from_zero.any() != isinstance(interpreter, TransformerInterpreter)


@pytest.mark.parametrize("speaker", [True, False])
def test_every_weight_is_reached(speaker):
    interpreter = built(TransformerInterpreter(16, 2, 2))
    interpreter(output(9, 4, speaker=speaker)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in interpreter.parameters())


def test_layers_are_the_papers():
    interpreter = built(MLPInterpreter())
    layers = list(interpreter.layers)
    block = [nn.Linear, nn.ReLU, nn.Dropout, interpreters.GlobalBatchNorm]
    assert [type(layer) for layer in layers] == [*block, *block, nn.Linear]
    assert [(layers[i].in_features, layers[i].out_features) for i in (0, 4, 8)] == [(12, 128), (128, 32), (32, 3)]
    many = output(9, 4)
    by_hand = interpreter.layers(torch.stack([many.frames[0].mean(0), many.frames[1, :4].mean(0)]))
    torch.testing.assert_close(interpreter(many), by_hand)


def test_pointwise_predictions_begin_at_the_labels_means_and_stay_within_the_scale():
    interpreter = PointwiseInterpreter(8, scale=(-1.0, 1.0))
    interpreter.build(12, 2)
    interpreter.start_from([0.5, -0.25])
    predictions = interpreter.eval()(output(7, 4, speaker=False))
    torch.testing.assert_close(predictions.mean(0), torch.tensor([0.5, -0.25]), atol=0.1, rtol=0)
    with torch.no_grad():
        assert interpreter(output(7, 4, speaker=False)._replace(frames=torch.full((2, 7, 12), 1e4))).abs().max() <= 1
    refused("is an empty range", PointwiseInterpreter, scale=(3.0, 3.0))
    refused("dim: 18 is odd, or 4 heads", TransformerInterpreter, dim=18, heads=4)
