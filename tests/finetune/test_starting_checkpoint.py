"""A fine-tuning that goes on from another one's checkpoint."""

from __future__ import annotations

import pytest
import torch
from tiny_models import emotion_data, finetuning, fit

from ser_personal.errors import UserError
from ser_personal.finetune.adversary import SpeakerAdversary
from ser_personal.finetune.classification import EmotionClassification
from ser_personal.finetune.interpreters import TransformerInterpreter
from ser_personal.finetune.losses import MSELoss


@pytest.fixture
def start(synthetic_corpus, tmp_path):
    """Begins a fit, and gives what its weights are before the first step."""

    def run(module):
        fit(module, emotion_data(synthetic_corpus), tmp_path, max_steps=1, limit_train_batches=0)
        return module

    return run


def test_all_weights_are_the_checkpoints(start, finetuned_checkpoint):
    trained = torch.load(finetuned_checkpoint, weights_only=True)
    module = start(finetuning(initial_checkpoint=str(finetuned_checkpoint), loss=MSELoss()))
    assert module.state_dict().keys() == trained["state_dict"].keys()
    for name, weight in trained["state_dict"].items():
        assert torch.equal(module.state_dict()[name], weight), name
    assert module.personalized.describe() == trained["personalized_encoder"]


def test_an_adversary_may_join_and_leave(start, finetuned_checkpoint, synthetic_corpus, tmp_path):
    path = tmp_path / "adversarial.ckpt"
    module = finetuning(initial_checkpoint=str(finetuned_checkpoint), adversary=SpeakerAdversary(hidden_dim=4))
    fit(module, emotion_data(synthetic_corpus), tmp_path, max_steps=1).save_checkpoint(path)
    again = start(finetuning(initial_checkpoint=str(path)))
    assert again.adversary is None
    other = start(finetuning(initial_checkpoint=str(path), adversary=SpeakerAdversary(hidden_dim=6)))
    assert other.adversary.layers[0].out_features == 6


def test_its_file_is_not_needed_after_the_fit(finetuned_checkpoint, synthetic_corpus, tmp_path):
    source = tmp_path / "source.ckpt"
    source.write_bytes(finetuned_checkpoint.read_bytes())
    module = finetuning(initial_checkpoint=str(source))
    fit(module, emotion_data(synthetic_corpus), tmp_path, max_steps=1).save_checkpoint(tmp_path / "next.ckpt")
    source.unlink()
    loaded = type(module).load_from_checkpoint(tmp_path / "next.ckpt")
    assert loaded.personalized.speakers.ids == module.personalized.speakers.ids


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"attributes": ("valence", "arousal")},
            r"was trained for arousal, valence\. Give the config, and --model\.attributes",
        ),
        ({"fusion": "first"}, "was trained with fusion last, not first"),
        ({"interpreter": TransformerInterpreter(16)}, "was trained with another interpreter"),
    ],
)
def test_what_does_not_fit(start, finetuned_checkpoint, options, line):
    with pytest.raises(UserError, match=line):
        start(finetuning(initial_checkpoint=str(finetuned_checkpoint), **options))


def test_what_is_no_fine_tuned_checkpoint(start, papt_checkpoint, finetuned_checkpoint):
    with pytest.raises(UserError, match=r"papt\.ckpt: isn't a fine-tuned checkpoint"):
        start(finetuning(initial_checkpoint=str(papt_checkpoint)))
    with pytest.raises(UserError, match="wasn't trained for emotions"):
        start(EmotionClassification(initial_checkpoint=str(finetuned_checkpoint)))
    with pytest.raises(UserError, match="two checkpoints to start from"):
        start(finetuning(initial_checkpoint=str(finetuned_checkpoint), papt_checkpoint=str(papt_checkpoint)))
