from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from invented_run import invent

from ser_personal.calibration.divergence import SpeakerShift
from ser_personal.evaluation.run_files import SpeakerVectors, read_run
from ser_personal.report import audit
from ser_personal.report.bootstrap import Bootstrap, Estimate
from ser_personal.scores import concordance, score

MINIMUM = 4
compare = partial(audit.compare_groups, min_utterances=MINIMUM, bootstrap=Bootstrap(200))


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3, 2, 400)
    estimate = Bootstrap(resamples=4000).mean(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_each_draw_keeps_each_stratum_s_number_of_speakers_and_the_seed_makes_it():
    strata = ["a"] * 3 + ["b"] * 5
    weights = Bootstrap(resamples=50).weights(strata)
    assert (weights[0] == 1).all()
    assert (weights[:, :3].sum(axis=1) == 3).all()
    assert (weights[:, 3:].sum(axis=1) == 5).all()
    assert len(np.unique(weights, axis=0)) > 40
    np.testing.assert_array_equal(Bootstrap(resamples=50).weights(strata), weights)
    assert (Bootstrap(resamples=50, seed=2).weights(strata) != weights).any()


def test_no_interval_under_ten_speakers_or_of_an_undefined_value_and_undefined_draws_are_left_out():
    figures = np.append(0.5, np.linspace(0, 1, 101))
    assert Bootstrap().estimate(figures, 10) == Estimate(0.5, pytest.approx(0.025), pytest.approx(0.975))
    refused = Bootstrap().estimate(figures, 9)
    assert (refused.value, refused.refused) == (0.5, "9 speakers, an interval needs 10")
    assert np.isnan([refused.low, refused.high]).all()
    for values in ([np.nan, 0.1, 0.2], [0.1, np.nan, np.nan]):
        assert Bootstrap().estimate(np.array(values), 20).refused == "undefined"
    assert Bootstrap().estimate(np.array([1.0, np.nan, 1.0, 1.0]), 20).high == 1


@pytest.fixture
def toy():
    """Twelve speakers of eight utterances: predictions, labels (some missing), speakers."""
    rng = np.random.default_rng(3)
    labels = rng.uniform(1, 7, 96)
    predictions = labels + rng.normal(0.4, 1, 96)
    labels[::11] = np.nan
    return predictions, labels, np.repeat([f"s{n:02}" for n in range(12)], 8).tolist()


def by_hand(predictions, labels, speaker_ids):
    """The four figures, by `score` and plain means."""
    scores = score(predictions[:, None], labels[:, None], speaker_ids, ["x"], min_utterances=MINIMUM)["x"]
    error = (predictions - labels)[~np.isnan(labels)]
    values = (scores.overall_ccc, scores.average_ccc, error.mean(), np.abs(error).mean())
    return dict(zip(audit.METRICS, values, strict=True))


def test_groups_are_scored_as_if_they_stood_alone_without_unknown_speakers_and_those_in_no_group(toy):
    predictions, labels, speaker_ids = toy
    predictions[:16] += 100
    group_of = {f"s{n:02}": "odd" if n % 2 else "even" for n in range(12) if n != 1}
    found = compare(predictions, labels, [*[None] * 8, *speaker_ids[8:]], group_of)
    member = np.array([*[""] * 8, *(group_of.get(speaker) for speaker in speaker_ids[8:])])
    expected = {
        name: by_hand(predictions[rows], labels[rows], np.array(speaker_ids)[rows].tolist())
        for name, rows in (("even", member == "even"), ("odd", member == "odd"))
    }
    assert found["even"].scores.speakers == 5
    for metric in audit.METRICS:
        value, gap = (getattr(of, metric).value for of in (found["even"].scores, found["even"].gap))
        assert value == pytest.approx(expected["even"][metric])
        assert gap == pytest.approx(expected["even"][metric] - expected["odd"][metric])
        assert getattr(found["odd"].gap, metric).value == pytest.approx(-gap)


def test_a_draw_is_scored_as_if_its_speakers_were_people_of_their_own(toy):
    predictions, labels, _ = toy
    rows_of = [np.arange(8 * n, 8 * n + 8) for n in range(12)]
    sums = audit.speaker_sums(predictions, labels, rows_of, MINIMUM)
    drawn = np.random.default_rng(0).integers(12, size=12)
    found = audit.figures(sums, np.bincount(drawn, minlength=12)[None].astype(float))
    rows = np.concatenate([rows_of[speaker] for speaker in drawn])
    expected = by_hand(predictions[rows], labels[rows], np.repeat([f"copy{n}" for n in range(12)], 8).tolist())
    for metric in audit.METRICS:
        assert found[metric][0] == pytest.approx(expected[metric])
    assert np.isnan(list(audit.figures(sums, np.zeros((1, 12))).values())).all()


def test_intervals_take_ten_speakers_on_both_sides(toy):
    predictions, labels, speaker_ids = toy
    group_of = {speaker: "few" if speaker in {"s00", "s01"} else "many" for speaker in speaker_ids}
    found = compare(predictions, labels, speaker_ids, group_of)
    refused = [found["few"].scores.bias.refused, found["many"].scores.bias.refused, found["many"].gap.bias.refused]
    assert refused == ["2 speakers, an interval needs 10", None, "2 speakers, an interval needs 10"]


def test_speakers_are_divided_by_gender_and_amount_of_speech(tmp_path):
    (few,) = read_run(invent(tmp_path, speakers=4, utterances=10)).sets
    of = {id_: replace(one, utterances=10 * place) for place, (id_, one) in enumerate(few.speakers.items(), 1)}
    few = replace(few, speakers=of)
    assert audit.by_gender(few) == {"s00": "Female", "s01": "Male", "s02": "Female", "s03": "Male"}
    amounts = ["at most 25 utterances"] * 2 + ["over 25 utterances"] * 2
    assert list(audit.by_amount_of_speech(few).values()) == amounts
    # where nobody is known
    assert audit.by_amount_of_speech(replace(few, speakers={})) == {}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(invent(tmp_path_factory.mktemp("run")))


def test_harmed_speakers_are_counted(run):
    found, changes = audit.harm(run, run.sets[0], "arousal", Bootstrap(200)), {}
    for speaker, rows in run.sets[0].utterances.groupby("speaker"):
        raw, calibrated, label = (rows[f"arousal_{kind}"].to_numpy() for kind in ("raw", "calibrated", "label"))
        changes[speaker] = concordance(calibrated, label) - concordance(raw, label)
    losses = {speaker: -change for speaker, change in changes.items() if change < 0}
    # the invented calibration doubles the error of odd speakers and halves that of even ones
    assert sorted(losses) == [f"s{n:02}" for n in range(1, 24, 2)]
    assert (found.speakers, found.harmed) == (24, 12)
    assert found.share.value == pytest.approx(0.5)
    assert found.worst_loss == pytest.approx(max(losses.values()))
    assert found.worst_speaker == max(losses, key=losses.get)
    assert found.mean_change.value == pytest.approx(np.mean(list(changes.values())))
    assert found.mean_change.low < found.mean_change.value < found.mean_change.high


def probed(vectors, genders):
    ids = tuple(f"s{n}" for n in range(len(genders)))
    return audit.probe("toy", SpeakerVectors(ids, vectors), dict(zip(ids, genders, strict=True)), Bootstrap(200))


def test_a_linear_probe_is_balanced_and_never_tested_on_speakers_that_it_was_fitted_on(monkeypatch):
    monkeypatch.setattr(audit, "REPEATS", 2)
    genders = ["Female", "Male"] * 20
    noise = np.random.default_rng(1).normal(size=(40, 200))
    found = probed(noise + np.where(np.array(genders) == "Male", 6.0, 0.0)[:, None], genders)
    assert (found.accuracy.value, found.chance, found.speakers) == (1, 0.5, {"Female": 20, "Male": 20})
    # as many dimensions as speakers: a probe tested on what it was fitted on would reach 1
    assert probed(noise, genders).accuracy.value < 0.75
    # a probe that always says Male is right for three in four
    assert probed(np.zeros((40, 3)), ["Female"] * 10 + ["Male"] * 30).accuracy.value == pytest.approx(0.5)
    found = probed(np.zeros((30, 3)), ["Female"] * 9 + ["Male"] * 20 + [None])
    assert found.accuracy.refused == "a probe needs two genders of 10 speakers each; here: 9 Female, 20 Male"


def test_correlations_have_intervals_over_speakers_with_both_shifts_and_a_ccc(run):
    test_set = run.sets[0]
    first = replace(test_set.speakers["s00"], shift=SpeakerShift(9.0, {"arousal": np.nan}))
    changed = replace(test_set, speakers=test_set.speakers | {"s00": first})
    found = audit.analyse_shifts(changed, "arousal", Bootstrap(300))
    assert (found.speakers, list(found.correlations)) == (23, list(audit.SHIFTS))
    ccc = test_set.row("raw").scores["arousal"].per_speaker
    of_feature = found.correlations["feature_shift_and_ccc"]
    assert of_feature.value == pytest.approx(np.corrcoef(np.arange(23), [ccc[name] for name in sorted(ccc)[1:]])[0, 1])
    assert of_feature.low < of_feature.value < of_feature.high
    # one falls where the other rises, whoever is drawn
    assert found.correlations["feature_shift_and_label_shift"].high < -0.3
