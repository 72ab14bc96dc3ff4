from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import emotion_data, finetuning, fit, papt, pretrain_data, trainer

from ser_personal.encoder.base import mean_pool
from ser_personal.errors import UserError
from ser_personal.finetune.adversary import SpeakerAdversary
from ser_personal.finetune.classification import EmotionClassification
from ser_personal.finetune.concordance import ccc_loss
from ser_personal.finetune.interpreters import TransformerInterpreter
from ser_personal.finetune.losses import MSELoss
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.scores import score
from ser_personal.types import ATTRIBUTES, utterance_hashes


@pytest.fixture
def data(synthetic_corpus):
    return emotion_data(synthetic_corpus)


def build(module, data):
    torch.manual_seed(0)
    module.build(data)
    return module


def weights_of(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def prefixed(weights):
    return {name: weight for name, weight in weights.items() if name.startswith("personalized.")}


def assert_same(weights, expected):
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(weights[name], weight), name


def test_papt_brings_encoder_fusion_and_speaker_table(data, papt_checkpoint):
    module = build(finetuning(papt_checkpoint=str(papt_checkpoint)), data)
    assert_same(prefixed(module.state_dict()), prefixed(weights_of(papt_checkpoint)))
    assert module.personalized.fusion_name == "last"
    assert module.personalized.speakers.ids == data.train_speaker_ids
    assert module.personalized.pretrained_on == utterance_hashes(u.utterance_id for u in data.corpus.splits.train)


@pytest.mark.parametrize("train_speaker_embedding", [False, True])
def test_speaker_embeddings_are_frozen_unless_asked(data, papt_checkpoint, tmp_path, train_speaker_embedding):
    module = finetuning(papt_checkpoint=str(papt_checkpoint), train_speaker_embedding=train_speaker_embedding)
    fit(module, data, tmp_path, max_steps=2)
    before, after = weights_of(papt_checkpoint), module.state_dict()
    for name in ("speakers.embedding.weight", "speakers.fc.weight", "speakers.fc.bias"):
        same = torch.equal(after[f"personalized.{name}"], before[f"personalized.{name}"])
        assert same != train_speaker_embedding, name
    encoder = "personalized.encoder.network.feature_projection.projection.weight"
    assert not torch.equal(after[encoder], before[encoder])


def test_papt_checkpoint_is_not_needed_after_the_fit(data, synthetic_corpus, synthetic_pseudo_labels, tmp_path):
    pretraining = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
    fit(papt(fusion="concat"), pretraining, tmp_path, max_steps=2).save_checkpoint(tmp_path / "papt.ckpt")
    module = finetuning(papt_checkpoint=str(tmp_path / "papt.ckpt"))
    fit(module, data, tmp_path, max_steps=2).save_checkpoint(tmp_path / "finetune.ckpt")
    (tmp_path / "papt.ckpt").unlink()

    fresh = finetuning(papt_checkpoint=str(tmp_path / "papt.ckpt"))
    running = trainer(tmp_path)
    running.test(fresh, datamodule=data, ckpt_path=tmp_path / "finetune.ckpt", verbose=False)
    assert_same(fresh.state_dict(), module.state_dict())
    assert fresh.personalized.fusion_name == "concat"
    assert_same(EmotionFineTuning.load_from_checkpoint(tmp_path / "finetune.ckpt").state_dict(), module.state_dict())


def test_fusion_may_be_learnt_here(data, tmp_path):
    module = finetuning(fusion="first", train_speaker_embedding=True)
    fit(module, data, tmp_path, max_steps=2)
    assert module.personalized.speakers.ids == data.train_speaker_ids
    assert module.personalized.speakers.fc.weight.abs().max() > 0


def test_last_bias_starts_at_the_training_labels_mean(data):
    module = build(finetuning(attributes=("valence", "arousal")), data)
    labels = [data.utterances[index].labels for index in data.train_indices]
    means = [np.mean([label[attribute] for label in labels]) for attribute in ("valence", "arousal")]
    assert module.interpreter.layers[-1].bias.tolist() == pytest.approx(means)


def test_missing_labels_are_left_out(relabelled, tmp_path):
    def drop_arousal_of_some(row):
        if row["FileName"].endswith(("1.wav", "2.wav")):
            row["EmoAct"] = ""

    data = emotion_data(relabelled(drop_arousal_of_some))
    module = finetuning()
    fit(module, data, tmp_path, max_steps=3)
    assert all(torch.isfinite(weight).all() for weight in module.parameters())
    batch = next(iter(data.train_dataloader()))
    labelled = ~batch["labels"][:, 0].isnan()
    assert 0 < labelled.sum() < len(labelled)
    module.eval()
    module.log = lambda *_args, **_options: None
    predictions = module(batch)["predictions"]
    by_hand = [
        ccc_loss(predictions[labelled, 0], batch["labels"][labelled, 0]),
        ccc_loss(predictions[:, 1], batch["labels"][:, 1]),
    ]
    torch.testing.assert_close(module.training_step(batch, 0), torch.stack(by_hand).mean())


def test_an_attribute_without_training_labels(relabelled, tmp_path):
    data = emotion_data(relabelled(lambda row: row.update(EmoDom="")))
    with pytest.raises(
        UserError, match=r"no training utterance has a label of dominance\. Choose among arousal, valence"
    ):
        fit(finetuning(attributes=("dominance",)), data, tmp_path, max_steps=1)


@pytest.mark.parametrize("fusion", ["none", "first"])
def test_another_fusion_than_papts(data, papt_checkpoint, fusion):
    module = finetuning(papt_checkpoint=str(papt_checkpoint), fusion=fusion)
    with pytest.raises(UserError, match=f"was pre-trained with fusion last, not {fusion}"):
        module.build(data)


def test_a_fusion_that_nobody_learns(data):
    with pytest.raises(UserError, match="neither pre-trained nor learnt here"):
        finetuning(fusion="last").build(data)


def test_what_is_no_papt_checkpoint(data, finetuned_checkpoint, tmp_path):
    for path, line in {
        tmp_path / "nowhere.ckpt": "no such checkpoint",
        finetuned_checkpoint: "isn't a checkpoint of PAPT or TAPT",
    }.items():
        with pytest.raises(UserError, match=f"{path}: {line}"):
            finetuning(papt_checkpoint=str(path)).build(data)


@pytest.mark.parametrize(("rate", "expected"), [(None, 1e-3), (0.5, 0.5)])
def test_interpreter_learns_at_its_own_rate(data, papt_checkpoint, rate, expected):
    module = finetuning(
        papt_checkpoint=str(papt_checkpoint), learning_rate=1e-3, interpreter_learning_rate=rate, weight_decay=0.02
    )
    optimizer = build(module, data).configure_optimizers()
    rate_of = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.02}
    for name, weight in module.named_parameters():
        wanted = expected if name.startswith("interpreter.") else 1e-3
        assert rate_of.pop(id(weight), None) == (wanted if weight.requires_grad else None), name
    assert not rate_of


def test_rates_are_constant_unless_warm_up_is_asked_for(data, tmp_path):
    for warmup_share, expected in ((None, [2, 2, 2, 2]), (0.5, [1, 2, 2, 1])):
        module, rates = finetuning(learning_rate=2e-4, warmup_share=warmup_share), []
        module.on_train_batch_start = lambda *_, m=module, r=rates: r.append(m.optimizers().param_groups[0]["lr"])
        fit(module, data, tmp_path, max_steps=4)
        assert rates == pytest.approx([1e-4 * rate for rate in expected])


@pytest.mark.parametrize("unseen_share", [0.0, 1.0])
def test_training_speakers_may_count_as_unseen(data, papt_checkpoint, unseen_share):
    module = build(finetuning(papt_checkpoint=str(papt_checkpoint), unseen_share=unseen_share), data).eval()
    module.log = lambda *_args, **_options: None
    batch = next(iter(data.train_dataloader()))
    losses = []
    for speaker_ids in (batch["speaker_ids"], [None] * len(batch["speaker_ids"])):
        result = module({**batch, "speaker_ids": speaker_ids})
        losses.append(ccc_loss(result["predictions"], result["labels"]))
    assert losses[0] != losses[1]
    assert torch.equal(module.training_step(batch, 0), losses[int(unseen_share)])


@pytest.mark.parametrize("interpreter", [None, TransformerInterpreter(8, 1, 2)])
def test_under_autocast_the_encoder_alone_is_in_half_precision(data, finetuned_checkpoint, interpreter):
    options = {} if interpreter is None else {"interpreter": interpreter}
    module = build(finetuning(**options), data).eval()
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        result, output = module(batch), module.personalized(batch)
    assert output.frames.dtype == torch.bfloat16
    exact = output._replace(frames=output.frames.float())
    torch.testing.assert_close(result["pooled"], mean_pool(exact), rtol=0, atol=0)
    torch.testing.assert_close(result["predictions"], module.interpreter(exact), rtol=0, atol=0)


def test_predictions_do_not_depend_on_batch_mates(data, finetuned_checkpoint):
    module = EmotionFineTuning.load_from_checkpoint(finetuned_checkpoint).eval()
    batch = next(iter(data.test_dataloader()))
    assert batch["num_samples"].min() < batch["num_samples"].max()
    with torch.no_grad():
        together = module.predict_step(batch, 0)
        for row, samples in enumerate(batch["num_samples"].tolist()):
            alone = module.predict_step(
                {
                    "waveforms": batch["waveforms"][row : row + 1, :samples],
                    "num_samples": batch["num_samples"][row : row + 1],
                    "speaker_ids": batch["speaker_ids"][row : row + 1],
                    "indices": batch["indices"][row : row + 1],
                    "labels": batch["labels"][row : row + 1],
                },
                0,
            )
            for name in ("predictions", "pooled"):
                torch.testing.assert_close(alone[name][0], together[name][row], rtol=1e-4, atol=1e-4)


def test_predictions_are_told_by_the_speakers_embedding(synthetic_corpus, finetuned_checkpoint):
    module = EmotionFineTuning.load_from_checkpoint(finetuned_checkpoint).eval()
    batch = next(iter(emotion_data(synthetic_corpus).train_dataloader()))
    strangers = module({**batch, "speaker_ids": ["nobody"] * len(batch["speaker_ids"])})
    unknown = module({**batch, "speaker_ids": [None] * len(batch["speaker_ids"])})
    own = module(batch)
    assert torch.equal(strangers["predictions"], unknown["predictions"])
    table = module.personalized.speakers
    mean = table.fc(table.embedding.weight).mean(0)
    shift = torch.stack([table.fc(table.embedding.weight[table.ids.index(id_)]) for id_ in batch["speaker_ids"]]) - mean
    torch.testing.assert_close(own["pooled"] - strangers["pooled"], shift, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_logged_scores_are_those_of_the_predictions(data, finetuned_checkpoint, tmp_path, stage):
    running, module = trainer(tmp_path), finetuning()
    run = running.validate if stage == "val" else running.test
    run(module, datamodule=data, ckpt_path=finetuned_checkpoint, verbose=False)
    logged = {name: float(value) for name, value in running.callback_metrics.items()}
    loader = data.val_dataloader() if stage == "val" else data.test_dataloader()
    outputs = trainer(tmp_path).predict(module, dataloaders=loader)
    order = torch.cat([output["indices"] for output in outputs]).tolist()
    columns = [ATTRIBUTES.index(attribute) for attribute in module.attributes]
    labels = [[data.utterances[index].labels[ATTRIBUTES[column]] for column in columns] for index in order]
    scores = score(
        torch.cat([output["predictions"] for output in outputs]).numpy(),
        np.array(labels, dtype=np.float32),
        [data.utterances[index].speaker_id for index in order],
        module.attributes,
        min_utterances=3,
    )
    for attribute, expected in scores.items():
        for name in ("overall_ccc", "average_ccc", "average_ccc_std", "speakers", "utterances"):
            assert logged[f"{stage}_{attribute}_{name}"] == pytest.approx(getattr(expected, name), abs=1e-5)
    overall = np.mean([expected.overall_ccc for expected in scores.values()])
    assert logged[f"{stage}_ccc"] == pytest.approx(overall, abs=1e-5)
    assert len(order) == (6 if stage == "val" else 18)


def test_fit_raises_the_ccc_of_the_training_set(data, tmp_path):
    module = finetuning(learning_rate=1e-3)
    fit(module, data, tmp_path, max_epochs=15)
    loader = data.split_dataloader("train")
    outputs = trainer(tmp_path).predict(module, dataloaders=loader)
    loss = ccc_loss(
        torch.cat([output["predictions"] for output in outputs]), torch.cat([output["labels"] for output in outputs])
    )
    assert loss < 0.7


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
