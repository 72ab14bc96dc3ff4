"""Systems of the comparison: joined from runs, and resampled by speakers."""

from __future__ import annotations

import numpy as np
import pytest
from invented_moments import Utterances

from ser_personal.errors import UserError
from ser_personal.report.bootstrap import Bootstrap
from ser_personal.report.compare import compare_systems, find_baseline, join_runs
from ser_personal.scores import concordance

MADE = Utterances()


def slow_overall(predictions, labels, speakers, weights) -> float:
    """O-CCC of the utterances written out, each speaker's as often as drawn."""
    times = np.repeat(np.arange(len(speakers)), [weights[speaker] for speaker in speakers])
    return concordance(predictions[times], labels[times])


def drawn(seed: int) -> tuple[np.ndarray, dict[str, int]]:
    names = sorted(set(MADE.speakers))
    weights = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)))
    return weights, dict(zip(names, weights.tolist(), strict=True))


def test_resampled_sums_are_the_resampled_utterances():
    rows = [MADE.row(0.7, seed=seed) for seed in (1, 2, 3)]
    (test,) = join_runs([MADE.run("papt", row, seed=seed) for seed, row in enumerate(rows)])
    (system,) = test.systems
    assert system.seeds == 3
    weights = np.stack([drawn(seed)[0] for seed in range(20)]).astype(float)
    expected = [
        np.mean(
            [slow_overall(row.predictions[0, :, 0], MADE.labels[:, 0], MADE.speakers, drawn(seed)[1]) for row in rows]
        )
        for seed in range(20)
    ]
    np.testing.assert_allclose(system.overall_ccc(weights), expected, rtol=1e-12)


def test_resampled_speakers_are_averaged_over_seeds_first():
    rows = [MADE.row(0.7, seed=seed) for seed in (1, 2)]
    (test,) = join_runs([MADE.run("papt", row, seed=seed) for seed, row in enumerate(rows)])
    counted = test.systems[0].utterances >= 5
    weights, times = drawn(4)
    speakers = np.array(MADE.speakers)
    own = {
        speaker: np.mean(
            [
                concordance(row.predictions[0, speakers == speaker, 0], MADE.labels[speakers == speaker, 0])
                for row in rows
            ]
        )
        for speaker, enough in zip(test.speakers, counted, strict=True)
        if enough
    }
    expected = np.mean([value for speaker, value in own.items() for _ in range(times[speaker])])
    assert test.systems[0].average_ccc(weights[None].astype(float), counted)[0] == pytest.approx(expected, rel=1e-12)


def test_draws_of_a_control_are_averaged():
    row = MADE.row(0.7, "random_speakers", draws=4)
    (test,) = join_runs([MADE.run("papt", row)])
    expected = np.mean([concordance(draw[:, 0], MADE.labels[:, 0]) for draw in row.predictions])
    assert test.systems[0].overall_ccc(np.ones((1, 12)))[0] == pytest.approx(expected)


def test_folds_of_a_seed_are_one_system():
    row = MADE.row(0.5)
    whole = MADE.moments(row)
    halves = [whole[whole.speaker < "s06"], whole[whole.speaker >= "s06"]]
    runs = [MADE.run("papt", row, seed=0)] * 2
    runs = [type(run)(run.recipe, run.seed, half, ()) for run, half in zip(runs, halves, strict=True)]
    (joined,) = join_runs(runs)
    (alone,) = join_runs([MADE.run("papt", row, seed=0)])
    np.testing.assert_array_equal(joined.systems[0].moments, alone.systems[0].moments)
    assert joined.systems[0].seeds == 1


def test_differences_are_paired():
    row = MADE.row(0.7)
    (test,) = join_runs([MADE.run("vanilla", row), MADE.run("same", row), MADE.run("better", MADE.row(0.3))])
    rows = compare_systems(test, find_baseline([test], "vanilla"), Bootstrap(300), min_utterances=5).rows
    vanilla, same, better = rows
    assert vanilla.overall_gain is None
    assert (same.overall_gain.value, same.overall_gain.low, same.overall_gain.high) == (0, 0, 0)
    assert better.overall_gain.low > 0
    # nowhere near what two unpaired intervals would leave open
    width = better.overall_ccc.high - better.overall_ccc.low + vanilla.overall_ccc.high - vanilla.overall_ccc.low
    assert better.overall_gain.high - better.overall_gain.low < width


def test_average_is_over_the_same_speakers_in_every_row():
    short = Utterances()
    constant = short.row(0.5)
    mine = np.array(short.speakers) == "s11"
    # of one speaker nothing can be said, by one recipe alone
    short.labels[mine] = 3.0
    constant.predictions[0, mine] = 3.0
    other = short.row(0.5, seed=1)
    (test,) = join_runs([short.run("one", constant), short.run("two", other)])
    compared = compare_systems(test, None, Bootstrap(100), min_utterances=10)
    # s07 has ten utterances, s11 fourteen
    assert compared.counted == {5: 9, 10: 4, 20: 0}
    assert compared.speakers == 12
    assert compared.rows[0].average_ccc.refused == "4 speakers, an interval takes 10"
    assert compared.rows[0].overall_ccc.refused is None
    assert np.isnan(compared.rows[0].sensitivity[20])


def test_a_seed_without_all_speakers_is_left_out_and_named():
    row = MADE.row(0.5)
    part = MADE.moments(row)
    part = part[part.speaker != "s03"]
    run = MADE.run("papt", row, seed=0)
    broken = type(run)("papt", 1, part, ())
    (test,) = join_runs([run, broken])
    assert test.systems[0].seeds == 1
    assert test.left_out == ("papt, seed 1 was not tested on 1 of 12 speakers",)


def test_a_baseline_may_name_its_calibration():
    tests = join_runs([MADE.run("papt", MADE.row(0.5), MADE.row(0.4, "sigma"))])
    assert find_baseline(tests, None) is None
    assert find_baseline(tests, "papt") == "papt/raw"
    assert find_baseline(tests, "papt/sigma") == "papt/sigma"
    with pytest.raises(UserError, match="no recipe tapt to compare with"):
        find_baseline(tests, "tapt")


def test_runs_that_cannot_be_compared_are_refused():
    row = MADE.row(0.5)
    other = Utterances(seed=5)
    with pytest.raises(UserError, match="other utterances or labels of speaker s00"):
        join_runs([MADE.run("one", row), other.run("two", other.row(0.5))])
    with pytest.raises(UserError, match="speaker s00 is tested twice on test1"):
        join_runs([MADE.run("one", row), MADE.run("one", row)])
    moments = MADE.moments(row)
    run = MADE.run("one", row)
    halves = [moments[moments.speaker < "s06"], moments[moments.speaker >= "s06"]]
    with pytest.raises(UserError, match="no recipe was tested on all 12 speakers of test1"):
        join_runs([type(run)(name, None, half, ()) for name, half in zip(["one", "two"], halves, strict=True)])
