"""Nothing in a training step waits for the device: tensors without values, of which nothing can be asked, pass it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from tiny_models import papt
from tiny_networks import tiny_network
from transformers import masking_utils

from ser_personal.audio import num_frames
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.speakers.representation import SpeakerSet

LENGTHS = [(8_000, 8_000), (8_000, 6_000)]


@pytest.fixture(params=["group", "layer"])
def encoder(request, tmp_path):
    tiny_network("hubert", request.param).save_pretrained(tmp_path)
    return HubertEncoder(str(tmp_path), gradient_scale=0.1)


def batch(lengths):
    samples = max(lengths)
    return {
        "waveforms": torch.empty(len(lengths), samples, device="meta"),
        "num_samples": torch.tensor(lengths),
        "speaker_ids": ["a", None],
        "indices": torch.arange(len(lengths)),
        "pseudo_labels": torch.empty(len(lengths), num_frames(samples), dtype=torch.int64, device="meta"),
    }


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_step_of_papt(encoder, lengths, monkeypatch):
    # which doesn't know tensors without values
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    # transformers itself asks once whether a mask that it is given masks anything
    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda *_: False)
    module = papt(encoder=encoder)
    module.personalized.build(SpeakerSet(["a", "b"]))
    module._build_head(7, 8)
    module.to("meta").train()
    prediction, output = module._predict(batch(lengths), mask_seed=0)
    (prediction.loss / prediction.masked + output.feature_penalty).backward()
    assert all(weight.grad is not None for weight in module.parameters() if weight.requires_grad)
