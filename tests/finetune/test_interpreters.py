from __future__ import annotations

import torch
from torch import nn

from ser_personal.finetune.interpreters import MLPInterpreter
from ser_personal.types import EncoderOutput


def output(*lengths, dim=16):
    frames = torch.randn(len(lengths), max(lengths), dim)
    return EncoderOutput(frames, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


def built(**options):
    torch.manual_seed(0)
    interpreter = MLPInterpreter(**options)
    interpreter.build(16, 3)
    return interpreter


def test_layers_are_the_papers():
    layers = list(built().layers)
    block = [nn.Linear, nn.ReLU, nn.Dropout, nn.BatchNorm1d]
    assert [type(layer) for layer in layers] == [*block, *block, nn.Linear]
    assert [(layers[i].in_features, layers[i].out_features) for i in (0, 4, 8)] == [(16, 128), (128, 32), (32, 3)]
    assert [layers[i].p for i in (2, 6)] == [0.1, 0.1]
    assert [layers[i].num_features for i in (3, 7)] == [128, 32]


def test_it_starts_at_the_label_means():
    interpreter = built().eval()
    interpreter.start_at([4.1, 3.5, 2.0])
    assert torch.equal(interpreter.layers[-1].bias, torch.tensor([4.1, 3.5, 2.0]))
    nn.init.zeros_(interpreter.layers[-1].weight)
    torch.testing.assert_close(interpreter(output(7, 3)), torch.tensor([[4.1, 3.5, 2.0]] * 2))


def test_padded_frames_are_not_seen():
    interpreter = built().eval()
    clean = output(9, 4)
    spoilt = clean.frames.clone()
    spoilt[1, 4:] = 1e6
    predictions = interpreter(clean)
    assert predictions.shape == (2, 3)
    assert torch.equal(interpreter(clean._replace(frames=spoilt)), predictions)
    by_hand = interpreter.layers(torch.stack([clean.frames[0].mean(0), clean.frames[1, :4].mean(0)]))
    torch.testing.assert_close(predictions, by_hand)


def test_other_widths():
    layers = built(hidden_dims=(5,), dropout=0.0).layers
    assert [layer.out_features for layer in layers if isinstance(layer, nn.Linear)] == [5, 3]
