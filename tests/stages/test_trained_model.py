from __future__ import annotations

import json

import pytest

from ser_personal.errors import UserError
from ser_personal.stages.trained_model import TrainedModel, leaves

ENCODER = {"class_path": "TinyEncoder", "init_args": {"dim": 64, "heads": 4}}


@pytest.fixture
def trained() -> TrainedModel:
    """Fusion was left to PAPT, which brought `last` and a table of width 8."""
    description = {
        "encoder_config": "{}",
        "fusion": "last",
        "speakers": {"name": "SpeakerEmbedding", "sizes": {"embedding_dim": 8}, "speaker_ids": ["1"], "feature_dim": 0},
    }
    arguments = {"encoder": ENCODER, "fusion": None, "learning_rate": 1e-4}
    return TrainedModel("finetune.ckpt", "package.EmotionFineTuning", arguments, description)


def test_leaves_name_what_a_command_line_does():
    tree = {"encoder": ENCODER, "attributes": ("arousal",), "fusion": None}
    named = {"encoder": "TinyEncoder", "encoder.dim": 64, "encoder.heads": 4}
    assert leaves(tree) == {**named, "attributes": ["arousal"], "fusion": None}


@pytest.mark.parametrize("config", [["--config", "a.yaml"], ["--config=a.yaml"], ["-c", "a.yaml"], ["-c=a.yaml"]])
def test_settings_stand_behind_the_configs_and_before_the_flags(trained, config):
    given = ["test", "--data.corpus", "C", *config, "--model.learning_rate", "1", "--config", "b.yaml"]
    stage, *configs, settings, corpus, _, rate, value = trained.arguments(given)
    assert [stage, *configs] == ["test", "--config", "a.yaml", "--config", "b.yaml", "--config"]
    assert json.loads(settings) == {"model": {"class_path": trained.class_path, "init_args": trained.init_args}}
    assert [corpus, rate, value] == ["--data.corpus", "--model.learning_rate", "1"]


@pytest.mark.parametrize("allowed", [{"learning_rate": 1.0}, {"fusion": None}, {"fusion": "last"}, {"encoder.dim": 64}])
def test_what_was_trained_may_stay_and_the_rest_may_change(trained, allowed):
    trained.refuse_other_architecture(allowed)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"fusion": "first"}, "fusion last, not first"),
        ({"encoder.dim": 32}, "encoder.dim 64, not 32"),
        ({"encoder": "HubertEncoder"}, "encoder TinyEncoder, not HubertEncoder"),
        ({"speakers.embedding_dim": 16}, "speakers.embedding_dim 8, not 16"),
    ],
)
def test_another_architecture_is_refused(trained, changed, told):
    with pytest.raises(UserError, match=f"^finetune.ckpt: was trained with {told}"):
        trained.refuse_other_architecture(changed)
