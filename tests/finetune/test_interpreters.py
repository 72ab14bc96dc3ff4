from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import emotion_data, finetuning, fit
from torch import nn

from ser_personal.errors import UserError
from ser_personal.finetune.interpreters import (
    GlobalBatchNorm,
    Interpreter,
    MLPInterpreter,
    PointwiseInterpreter,
    TransformerInterpreter,
    average_frames,
)
from ser_personal.recognition.bundle import describe_part, make_part
from ser_personal.types import EncoderOutput

POOLINGS = ("learnt", "attentive")


def output(*lengths, dim=12, speaker=True):
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(len(lengths), max(lengths), dim, generator=generator)
    frame_mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return EncoderOutput(
        frames, frame_mask, speaker_embedding=torch.randn(len(lengths), dim, generator=generator) if speaker else None
    )


def built(**options):
    torch.manual_seed(0)
    interpreter = TransformerInterpreter(**{"dim": 16, "heads": 2} | options)
    interpreter.build(12, 3)
    return interpreter.eval()


def one(many, row):
    """An utterance by itself, without padding."""
    frames = int(many.frame_mask[row].sum())
    speaker = None if many.speaker_embedding is None else many.speaker_embedding[[row]]
    return EncoderOutput(many.frames[[row], :frames], many.frame_mask[[row], :frames], speaker_embedding=speaker)


@pytest.mark.parametrize("speaker", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("inference", [True, False])
def test_predictions_depend_neither_on_padding_nor_on_batch_mates(pooling, stride, speaker, inference):
    interpreter = built(pooling=pooling, stride=stride)
    many = output(9, 1, 4, 21, speaker=speaker)
    spoilt = many._replace(frames=many.frames.masked_fill(~many.frame_mask[..., None], 1e3))
    with torch.inference_mode(inference):
        together = interpreter(spoilt)
        alone = torch.cat([interpreter(one(many, row)) for row in range(4)])
    assert together.shape == (4, 3)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together.std(0).min() > 1e-3


@given(lengths=st.lists(st.integers(1, 13), min_size=1, max_size=3), stride=st.integers(1, 6))
def test_stride_is_the_mean_of_real_frames(lengths, stride):
    many = output(*lengths)
    frames, mask = average_frames(many.frames, many.frame_mask, stride)
    assert frames.shape[1] == -(-max(lengths) // stride)
    for row, length in enumerate(lengths):
        expected = [many.frames[row, start : min(start + stride, length)].mean(0) for start in range(0, length, stride)]
        assert mask[row].tolist() == [True] * len(expected) + [False] * (mask.shape[1] - len(expected))
        torch.testing.assert_close(frames[row, : len(expected)], torch.stack(expected))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_speaker_is_read(pooling):
    interpreter, many = built(pooling=pooling), output(9, 4)
    moved = many.speaker_embedding.clone()
    moved[1] += 1
    before, after = interpreter(many), interpreter(many._replace(speaker_embedding=moved))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-3)
    without = interpreter(many._replace(speaker_embedding=None))
    nothing = interpreter(many._replace(speaker_embedding=torch.zeros(2, 12)))
    assert not torch.allclose(without, nothing, atol=1e-4)


def test_the_order_of_frames_matters():
    interpreter, many = built(stride=1), output(9)
    turned = many._replace(frames=many.frames.flip(1))
    assert not torch.allclose(interpreter(many), interpreter(turned), atol=1e-3)


def test_attentive_pooling_by_hand():
    interpreter = TransformerInterpreter(2, 1, 1, pooling="attentive")
    interpreter.build(2, 1)
    with torch.no_grad():
        interpreter.score.weight.copy_(torch.tensor([[1.0, 0.0]]))
        interpreter.score.bias.fill_(5.0)
    hidden = torch.tensor([[[9.0, 9.0], [0.0, 1.0], [torch.tensor(3.0).log(), 5.0], [7.0, 7.0]]])
    pooled = interpreter.pool(hidden, torch.tensor([[True, True, False]]))
    # the first output is the speaker's, the last is padding; the weights of those between are 1 : 3
    torch.testing.assert_close(pooled, torch.tensor([[0.75 * torch.tensor(3.0).log(), 4.0]]))


def test_they_start_at_the_label_means():
    means = [4.1, 3.5, 2.0]
    for interpreter, dim in ((built().train(), 12), (mlp().eval(), 16)):
        interpreter.start_from(means)
        if isinstance(interpreter, MLPInterpreter):
            assert torch.equal(interpreter.layers[-1].bias, torch.tensor(means))
            nn.init.zeros_(interpreter.layers[-1].weight)
        torch.testing.assert_close(interpreter(output(7, 3, dim=dim)), torch.tensor([means] * 2))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("speaker", [True, False])
def test_every_weight_is_reached(pooling, speaker):
    interpreter = built(pooling=pooling)
    interpreter(output(9, 4, speaker=speaker)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in interpreter.parameters())


def test_sizes(tmp_path):
    default = TransformerInterpreter()
    default.build(1024, 3)
    assert sum(weight.numel() for weight in default.parameters()) < 500_000
    with pytest.raises(UserError, match="dim: 18 is odd, or 4 heads"):
        TransformerInterpreter(dim=18, heads=4)
    described = describe_part(TransformerInterpreter(16, 1, 2, 0.2, "attentive", 3))
    assert describe_part(make_part(described, Interpreter, tmp_path)) == described
    assert described["init_args"]["pooling"] == "attentive"


def test_it_learns_in_a_fit(synthetic_corpus, tmp_path):
    module = finetuning(interpreter=TransformerInterpreter(16, 1, 2), learning_rate=3e-3)
    data = emotion_data(synthetic_corpus)
    losses = []
    module.on_train_batch_end = lambda outputs, *_: losses.append(float(outputs["loss"]))
    fit(module, data, tmp_path, max_epochs=10)
    per_epoch = len(losses) // 10
    assert sum(losses[-per_epoch:]) < 0.9 * sum(losses[:per_epoch])


def mlp(**options):
    torch.manual_seed(0)
    interpreter = MLPInterpreter(**options)
    interpreter.build(16, 3)
    return interpreter


def test_layers_are_the_papers():
    layers = list(mlp().layers)
    block = [nn.Linear, nn.ReLU, nn.Dropout, GlobalBatchNorm]
    assert [type(layer) for layer in layers] == [*block, *block, nn.Linear]
    assert [(layers[i].in_features, layers[i].out_features) for i in (0, 4, 8)] == [(16, 128), (128, 32), (32, 3)]
    assert [layers[i].p for i in (2, 6)] == [0.1, 0.1]
    assert [layers[i].num_features for i in (3, 7)] == [128, 32]
    small = mlp(hidden_dims=(5,), dropout=0.0).layers
    assert [layer.out_features for layer in small if isinstance(layer, nn.Linear)] == [5, 3]


def test_the_mlp_sees_no_padding():
    interpreter = mlp().eval()
    clean = output(9, 4, dim=16)
    spoilt = clean.frames.clone()
    spoilt[1, 4:] = 1e6
    predictions = interpreter(clean)
    assert predictions.shape == (2, 3)
    assert torch.equal(interpreter(clean._replace(frames=spoilt)), predictions)
    by_hand = interpreter.layers(torch.stack([clean.frames[0].mean(0), clean.frames[1, :4].mean(0)]))
    torch.testing.assert_close(predictions, by_hand)


def test_pointwise_predictions_begin_at_the_labels_means_and_stay_within_the_scale():
    interpreter = PointwiseInterpreter(8, scale=(-1.0, 1.0))
    interpreter.build(12, 2)
    interpreter.start_from([0.5, -0.25])
    predictions = interpreter.eval()(output(7, 4, speaker=False))
    torch.testing.assert_close(predictions.mean(0), torch.tensor([0.5, -0.25]), atol=0.1, rtol=0)
    with torch.no_grad():
        assert interpreter(output(7, 4, speaker=False)._replace(frames=torch.full((2, 7, 12), 1e4))).abs().max() <= 1
    with pytest.raises(UserError, match="predictions stay within -1 to 1"):
        interpreter.start_from([4.0, 0.0])
    with pytest.raises(UserError, match="isn't below"):
        PointwiseInterpreter(scale=(3.0, 3.0))
