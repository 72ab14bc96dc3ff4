from dataclasses import replace

import numpy as np
import pytest
from command_line import configs, stage, trainer_flags
from garbage import refused
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from tiny_models import emotion_data

from ser_personal.finetune import similar_speakers
from ser_personal.finetune.similar_speakers import SimilarSpeakers, kl_divergence, most_similar


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

    assert kl_divergence(first, second) == pytest.approx(np.mean(np.log(density(first) / density(second))), rel=0.1)


def test_a_speaker_of_few_utterances_has_one_component():
    rows = np.random.default_rng(0).normal(size=(9, 3))
    fitted = similar_speakers.fit_mixture(rows, 4)
    np.testing.assert_allclose(fitted.means_, rows.mean(0)[None])
    np.testing.assert_allclose(fitted.covariances_, rows.var(0)[None] + 0.05)
    np.testing.assert_allclose(similar_speakers.fit_mixture(rows[:1], 4).covariances_, 0.05)


def test_the_nearest_are_found_and_nobody_is_near_oneself():
    training = {name: gaussian([place], [1.0]) for name, place in {"far": 9, "near": 1, "same": 0.1, "t": 0}.items()}
    assert most_similar({"t": training["t"]}, training, 2) == {"t": ["same", "near"]}
    assert most_similar({"t": training["t"]}, training, 9)["t"] == ["same", "near", "far"]


def test_strategies_by_hand():
    chosen = {"t1": ["a", "b"], "t2": ["b", "c"], "t3": ["b", "a"]}
    names = ("unique", "oversampling", "weighting")
    unique, over, weighting = (similar_speakers.selected_speakers(chosen, name) for name in names)
    assert (unique.copies, unique.weights) == ({"a": 1, "b": 1, "c": 1}, {})
    assert (over.copies, over.weights) == ({"a": 2, "b": 3, "c": 1}, {})
    assert (weighting.copies, weighting.weights) == ({"a": 1, "b": 1, "c": 1}, {"a": 1.0, "b": 1.5, "c": 0.5})


def test_an_epoch_is_what_the_strategy_says(synthetic_corpus):
    data = emotion_data(synthetic_corpus, speaker_selection=SimilarSpeakers("oversampling", speakers=2, dim=4))
    votes = data.selected_speakers.copies
    assert sum(votes.values()) == 2 * len({data.utterances[i].speaker_id for i in data.split_indices("test1")})
    indices = [index for batch in data.train_dataloader() for index in batch["indices"].tolist()]
    for index in data.train_indices:
        assert indices.count(index) == votes.get(data.utterances[index].speaker_id, 0)


def test_no_label_is_read_and_somebody_is_needed_to_choose_for(synthetic_corpus, relabelled):
    muted = relabelled(lambda row: row.update(EmoAct="4", EmoVal="4", EmoDom="4", EmoClass="X"))
    selection = SimilarSpeakers(speakers=2)
    of_both = [emotion_data(corpus, speaker_selection=selection) for corpus in (synthetic_corpus, muted)]
    assert of_both[0].selected_speakers == of_both[1].selected_speakers
    some = of_both[0].utterances[:6]
    nobody = [replace(utterance, speaker_id=None) for utterance in some]
    refused("no test utterance has a known speaker", selection.choose, some, nobody)


def test_the_command_line_adapts_a_fine_tuned_model_alone(synthetic_corpus, finetuned_checkpoint, tmp_path, mistake):
    recipe = configs("finetune.yaml", "tiny/finetune.yaml", "similar_speakers.yaml", "cost.yaml")
    adapted = [*recipe, "--data.corpus", synthetic_corpus, *trainer_flags(tmp_path)]
    assert "--data.speaker_selection: adapts a fine-tuned model, and there is none" in mistake("fit", *adapted)
    adapted += ["--model.initial_checkpoint", finetuned_checkpoint, "--model.attributes", "[arousal,valence]"]
    options = ["--data.speaker_selection.strategy", "weighting", "--data.speaker_selection.speakers", "3"]
    cli = stage("fit", *adapted, *options)
    selected = cli.datamodule.selected_speakers.weights
    batch = next(iter(cli.datamodule.train_dataloader()))
    ratios = np.array(batch["weights"]) / [selected[id_] for id_ in batch["speaker_ids"]]
    assert ratios == pytest.approx(ratios[0])
    assert (tmp_path / "adapted.ckpt").exists()
