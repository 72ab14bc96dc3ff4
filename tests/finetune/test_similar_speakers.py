from __future__ import annotations

import numpy as np
import pytest
import torch
from command_line import configs, ser, stage, trainer_flags
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from tiny_models import emotion_data, finetuning

from ser_personal.errors import UserError
from ser_personal.finetune.concordance import ccc_loss
from ser_personal.finetune.similar_speakers import (
    SimilarSpeakers,
    acoustics_by_speaker,
    fit_mixture,
    kl_divergence,
    most_similar,
    reduce_features,
    selected_speakers,
)

CHOSEN = {"t1": ["a", "b"], "t2": ["b", "c"], "t3": ["b", "a"]}


def mixture(weights, means, variances):
    model = GaussianMixture(len(weights), covariance_type="diag")
    model.weights_, model.means_, model.covariances_ = (np.array(v, dtype=float) for v in (weights, means, variances))
    return model


def gaussian(mean, variance):
    return mixture([1], [mean], [variance])


def test_kl_of_single_gaussians_is_the_analytic_one():
    first, second = gaussian([0.0, 1.0], [1.0, 4.0]), gaussian([2.0, 1.0], [0.5, 1.0])
    # 0.5 * [ln(w / v) + (v + d^2) / w - 1], dimension by dimension
    by_hand = 0.5 * (np.log(0.5) + (1 + 4) / 0.5 - 1) + 0.5 * (np.log(1 / 4) + 4 - 1)
    assert kl_divergence(first, second) == pytest.approx(by_hand)
    assert kl_divergence(first, first) == 0


def test_kl_of_mixtures_is_near_monte_carlos():
    first = mixture([0.3, 0.7], [[0, 0], [6, 1]], [[1, 2], [0.5, 1]])
    second = mixture([0.6, 0.4], [[0.5, 0], [5, 2]], [[1, 1], [1, 1]])
    assert kl_divergence(first, first) == pytest.approx(0)
    rng = np.random.default_rng(0)
    rows = rng.choice(2, 20_000, p=first.weights_)
    drawn = rng.normal(first.means_[rows], np.sqrt(first.covariances_[rows]))

    def density(model):
        parts = zip(model.weights_, model.means_, model.covariances_, strict=True)
        return sum(weight * multivariate_normal(mean, np.diag(variance)).pdf(drawn) for weight, mean, variance in parts)

    drawn_kl = np.mean(np.log(density(first) / density(second)))
    assert kl_divergence(first, second) == pytest.approx(drawn_kl, rel=0.1)


def test_a_speaker_of_few_utterances_has_one_component():
    rows = np.random.default_rng(0).normal(size=(9, 3))
    fitted = fit_mixture(rows, 4)
    assert len(fitted.weights_) == 1
    np.testing.assert_allclose(fitted.means_[0], rows.mean(0))
    np.testing.assert_allclose(fitted.covariances_[0], rows.var(0) + 0.05)
    assert len(fit_mixture(np.repeat(rows, 3, axis=0), 4).weights_) == 4
    np.testing.assert_allclose(fit_mixture(rows[:1], 4).covariances_, 0.05)


def test_components_are_the_training_speakers_and_white():
    rng = np.random.default_rng(0)
    training = {name: rng.normal(size=(20, 6)) * np.arange(1, 7) for name in "ab"}
    reduced, targets = reduce_features(training, {"t": training["a"][:4]}, 3)
    assert reduced["a"].shape == (20, 3)
    np.testing.assert_allclose(np.cov(np.concatenate([reduced["a"], reduced["b"]]).T), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(targets["t"], reduced["a"][:4])
    few, _ = reduce_features({"a": rng.normal(size=(2, 6))}, {}, 10)
    assert few["a"].shape == (2, 2)


def test_the_nearest_are_found_and_nobody_is_near_oneself():
    training = {name: gaussian([place], [1.0]) for name, place in {"far": 9, "near": 1, "same": 0.1, "t": 0}.items()}
    assert most_similar({"t": training["t"]}, training, 2) == {"t": ["same", "near"]}
    assert most_similar({"t": training["t"]}, training, 9)["t"] == ["same", "near", "far"]


def test_strategies_by_hand():
    unique, over, weighting = (selected_speakers(CHOSEN, name) for name in ("unique", "oversampling", "weighting"))
    assert (unique.copies, unique.weights) == ({"a": 1, "b": 1, "c": 1}, {})
    assert (over.copies, over.weights) == ({"a": 2, "b": 3, "c": 1}, {})
    assert (weighting.copies, weighting.weights) == ({"a": 1, "b": 1, "c": 1}, {"a": 1.0, "b": 1.5, "c": 0.5})


def epoch(data):
    batches = list(data.train_dataloader())
    return batches, [index for batch in batches for index in batch["indices"].tolist()]


@pytest.mark.parametrize("strategy", ["unique", "oversampling", "weighting"])
def test_an_epoch_is_what_the_strategy_says(synthetic_corpus, strategy):
    data = emotion_data(synthetic_corpus, speaker_selection=SimilarSpeakers(strategy, speakers=2, dim=4))
    chosen = data.selected_speakers.chosen
    assert set(chosen) == {data.utterances[i].speaker_id for i in data.split_indices("test1")}
    assert all(len(set(nearest)) == 2 and set(nearest) <= set(data.train_speaker_ids) for nearest in chosen.values())
    batches, indices = epoch(data)
    votes = {id_: sum(id_ in nearest for nearest in chosen.values()) for id_ in data.train_speaker_ids}
    for index in data.train_indices:
        vote = votes[data.utterances[index].speaker_id]
        assert indices.count(index) == (vote if strategy == "oversampling" else min(vote, 1))
    if strategy == "weighting":
        for batch in batches:
            ratios = [
                weight / votes[id_] for weight, id_ in zip(batch["weights"].tolist(), batch["speaker_ids"], strict=True)
            ]
            assert ratios == pytest.approx([ratios[0]] * len(ratios))
    else:
        assert all("weights" not in batch for batch in batches)
    assert data.train_indices == emotion_data(synthetic_corpus).train_indices


def test_no_label_is_read(synthetic_corpus, relabelled):
    mute = relabelled(lambda row: row.update(EmoAct="4", EmoVal="4", EmoDom="4", EmoClass="X"))
    chosen = [
        emotion_data(corpus, speaker_selection=SimilarSpeakers(speakers=2)).selected_speakers.chosen
        for corpus in (synthetic_corpus, mute)
    ]
    assert chosen[0] == chosen[1]


def test_features_are_spread_over_a_speakers_utterances(synthetic_corpus):
    data = emotion_data(synthetic_corpus)
    own = [u for u in data.utterances if u.speaker_id == "1"]
    some, every = (acoustics_by_speaker(own, count)["1"] for count in (2, 99))
    np.testing.assert_array_equal(some, every[[0, len(own) // 2]])


def test_weights_reach_the_loss(synthetic_corpus, finetuned_checkpoint):
    data = emotion_data(synthetic_corpus)
    module = finetuning().__class__.load_from_checkpoint(finetuned_checkpoint).eval()
    module.log = lambda *_args, **_options: None
    batch = next(iter(data.train_dataloader()))
    weights = torch.arange(len(batch["speaker_ids"])) % 3.0
    result = module(batch)
    expected = ccc_loss(result["predictions"], result["labels"], weights)
    assert torch.equal(module.training_step({**batch, "weights": weights}, 0), expected)
    assert expected != ccc_loss(result["predictions"], result["labels"])


def test_the_command_line(synthetic_corpus, finetuned_checkpoint, tmp_path):
    arguments = [*configs("finetune.yaml", "tiny/finetune.yaml"), "--data.corpus", synthetic_corpus]
    more = configs("similar_speakers.yaml", "adversarial.yaml", "cost.yaml", "ridge.yaml")
    adapted = [*arguments, *more, "--model.initial_checkpoint", finetuned_checkpoint]
    adapted += ["--model.attributes", "[arousal,valence]"]
    options = ["--data.speaker_selection.strategy", "weighting", "--data.speaker_selection.speakers", "3"]
    cli = stage("fit", *adapted, *options, *trainer_flags(tmp_path))
    assert cli.datamodule.selected_speakers.weights
    assert cli.model.hparams["learning_rate"] == 1e-5
    tested = ["--ckpt_path", tmp_path / "adapted.ckpt", *trainer_flags(tmp_path)]
    assert ser("test", *arguments, *configs("pldc.yaml"), "--trainer.callbacks.k", "3", *tested) == 0


def test_random_weights_are_not_adapted(synthetic_corpus, tmp_path, capsys):
    arguments = [*configs("finetune.yaml", "tiny/finetune.yaml"), "--data.corpus", synthetic_corpus]
    adapted = [*arguments, *configs("similar_speakers.yaml"), *trainer_flags(tmp_path)]
    assert ser("fit", *adapted) == 2
    assert (
        "--data.speaker_selection: adapts a fine-tuned model, and there is none. Give --model"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "adapted.ckpt").exists()
    assert ser("fit", *adapted, "--data.speaker_selection", "null") == 0


def test_nobody_to_choose_for(relabelled):
    def without_speaker(row):
        if row["Split_Set"].startswith("Test"):
            row["SpkrID"] = "Unknown"

    data = emotion_data(relabelled(without_speaker), known_speakers_only=False, speaker_selection=SimilarSpeakers())
    with pytest.raises(UserError, match="no test utterance has a known speaker"):
        data.setup("fit")


def test_a_test_listens_to_nobody(synthetic_corpus, monkeypatch):
    monkeypatch.setattr(SimilarSpeakers, "choose", None)
    data = emotion_data(synthetic_corpus, speaker_selection=SimilarSpeakers("weighting"))
    data.setup("test")
    assert "weights" not in next(iter(data.test_dataloader()))
