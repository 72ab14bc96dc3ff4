import re
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from command_line import ser
from garbage import refused

from ser_personal.calibration.table import CalibrationRow, decimal, speaker_moments
from ser_personal.comparison.compare import compare, compare_systems, find_baseline, join_runs
from ser_personal.comparison.runs import PRETRAINING_SCORES, ComparedRun, RunRecord, StageCost, find_runs, ridge_runs
from ser_personal.evaluation.run_files import write_moments
from ser_personal.files import write_json
from ser_personal.report.bootstrap import Bootstrap, signed_interval
from ser_personal.scores import concordance, score


class Utterances:
    """Speakers of 3, 4, 5, ... utterances, labelled for arousal, and predictions of them with a given error."""

    def __init__(self, speakers=12, seed=0):
        rng = np.random.default_rng(seed)
        self.speakers = [f"s{n:02}" for n in range(speakers) for _ in range(n + 3)]
        own = np.array([int(speaker[1:]) % 3 for speaker in self.speakers])
        self.labels = (4 + 0.3 * own + rng.normal(0, 0.8, len(self.speakers)))[:, None]

    def row(self, error, name="raw", draws=1, seed=0):
        rng = np.random.default_rng(seed)
        predictions = self.labels + rng.normal(0.2, error, (draws, *self.labels.shape))
        scores = score(predictions[0], self.labels, self.speakers, ("arousal",))
        return CalibrationRow(name, scores, name == "own_statistics", predictions)

    def moments(self, *rows):
        return speaker_moments("test1", rows, self.labels, self.speakers)

    def run(self, recipe, *rows, seed=None):
        return ComparedRun(recipe, seed, self.moments(*rows))

    def write(self, folder, *rows):
        folder.mkdir(parents=True, exist_ok=True)
        write_moments(folder, [self.moments(*rows)])
        return folder


MADE, LARGE = Utterances(), Utterances(14)


def test_resampled_sums_are_the_resampled_utterances_averaged_over_seeds_and_draws():
    made = [MADE.row(0.7, "random_speakers", draws=2, seed=seed) for seed in (1, 2, 3)]
    (test,) = join_runs([MADE.run("papt", row, seed=seed) for seed, row in enumerate(made)])
    (system,) = test.systems
    assert system.seeds == 3
    # how often each speaker is drawn, and the rows of their utterances, each as often
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=20)
    speaker_of = [int(speaker[1:]) for speaker in MADE.speakers]
    draws = [np.repeat(np.arange(len(speaker_of)), times[speaker_of]) for times in weights]
    predictions, labels = [draw[:, 0] for row in made for draw in row.predictions], MADE.labels[:, 0]
    expected = [np.mean([concordance(own[rows], labels[rows]) for own in predictions]) for rows in draws]
    np.testing.assert_allclose(system.overall_ccc(weights.astype(float)), expected, rtol=1e-12)
    # of a speaker, first over the replicates
    counted = system.utterances >= 5
    mine = [np.array(MADE.speakers) == speaker for speaker in test.speakers]
    own_ccc = np.array([np.mean([concordance(own[rows], labels[rows]) for own in predictions]) for rows in mine])
    expected = [np.average(own_ccc[counted], weights=of_draw[counted]) for of_draw in weights]
    np.testing.assert_allclose(system.average_ccc(weights.astype(float), counted), expected, rtol=1e-12)


def halves_of(*rows):
    moments = MADE.moments(*rows)
    return moments[moments.speaker < "s06"], moments[moments.speaker >= "s06"]


def test_folds_of_a_seed_are_one_system_and_a_seed_without_all_speakers_is_named():
    row = MADE.row(0.5)
    folds = [ComparedRun("papt", 0, half) for half in halves_of(row)]
    lacking = ComparedRun("papt", 1, halves_of(row, MADE.row(0.5, "posterior"))[0])
    (joined,) = join_runs([*folds, lacking])
    (alone,) = join_runs([MADE.run("papt", row, seed=0)])
    np.testing.assert_array_equal(joined.systems[0].moments, alone.systems[0].moments)
    assert [(system.name, system.seeds) for system in joined.systems] == [("papt/raw", 1)]
    assert joined.notes == ("papt has seeds without all 12 speakers, which are left out of raw, posterior",)


def test_the_ridge_of_several_folds_is_one_recipe():
    halves = halves_of(MADE.row(0.5), MADE.row(0.8, "ridge"))
    (test,) = join_runs(ridge_runs([ComparedRun("papt", 0, half) for half in halves]))
    assert [system.name for system in test.systems] == ["papt/raw", "ridge/ridge"]
    assert test.notes == ()


def test_differences_to_a_baseline_are_paired():
    row = MADE.row(0.7)
    baseline = MADE.run("vanilla", row, MADE.row(0.4, "sigma"))
    (test,) = join_runs([baseline, MADE.run("same", row), MADE.run("better", MADE.row(0.3))])
    assert find_baseline([test], "vanilla/sigma") == "vanilla/sigma"
    compared = compare_systems(test, find_baseline([test], "vanilla"), Bootstrap(300), min_utterances=5)
    assert compared.rows[0].gains is None
    _, same, better = (row.gains["overall_ccc"] for row in compared.rows[1:])
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert better.low > 0
    # nowhere near what two unpaired intervals would leave open
    unpaired = [compared.rows[place].scores["overall_ccc"] for place in (0, 3)]
    assert better.high - better.low < sum(score.high - score.low for score in unpaired)
    # the baseline was tested on another set
    elsewhere = compare_systems(test, "papt/raw", Bootstrap(100)).rows
    assert {signed_interval(row.gains["average_ccc"]) for row in elsewhere} == {"-"}


def test_average_is_over_the_same_speakers_in_every_row():
    short = Utterances()
    constant = short.row(0.5)
    mine = np.array(short.speakers) == "s11"
    # of one speaker nothing can be said, by one recipe alone
    short.labels[mine] = 3.0
    constant.predictions[0, mine] = 3.0
    other = short.row(0.5, seed=1)
    (test,) = join_runs([short.run("one", constant), short.run("two", other)])
    # s07 has ten utterances, s11 fourteen
    for least, counted in ((5, 9), (10, 4), (20, 0)):
        compared = compare_systems(test, "one/raw", Bootstrap(100), min_utterances=least)
        assert compared.counted == counted
        refused = [score.refused for score in compared.rows[0].scores.values()]
        assert refused == [None, f"{counted} speakers, an interval needs 10"]


def test_runs_that_cannot_be_compared_are_refused():
    row = MADE.row(0.5)
    other = Utterances(seed=5)
    runs = [MADE.run("one", row), other.run("two", other.row(0.5))]
    refused("other utterances or labels of speaker s00", join_runs, runs)
    refused("speaker s00 is tested twice on test1", join_runs, [MADE.run("one", row), MADE.run("one", row)])
    runs = [ComparedRun(name, None, half) for name, half in zip("ab", halves_of(row), strict=True)]
    refused("no recipe was tested on all 12 speakers of test1", join_runs, runs)


def test_the_gap_of_a_study_is_the_difference_of_raw_scores(tmp_path):
    points = {(7, "dependent"): 0.5, (20, "dependent"): 0.6, (20, "independent"): 0.9}
    for (number, side), error in (points | {(100, "dependent"): 0.5, (100, "independent"): 0.5}).items():
        folder = tmp_path / "runs" / "vanilla" / f"{number}_{side}"
        LARGE.write(folder / "test", LARGE.row(error), LARGE.row(0.1, "sigma"))
        record = RunRecord("vanilla", "recipe", 0, None, None, "test", (), (), number, side)
        write_json(folder / "done.json", asdict(record))
    compare([str(tmp_path)], resamples=200)
    page = (tmp_path / "comparison.md").read_text()
    assert "| vanilla, 20 speakers, dependent | raw | 1 | " in page
    # in the order of their numbers; a point without its other side is left out
    of_gap = page.partition("## Personalisation gap")[2]
    assert re.findall("vanilla, (.*), dependent/raw", of_gap) == ["20 speakers", "100 speakers"]
    table = pd.read_csv(tmp_path / "comparison.csv").set_index(["recipe", "calibration"])
    small, large = (table.loc[f"vanilla, {number} speakers, dependent", "raw"] for number in (20, 100))
    dependent, independent = (LARGE.row(error).scores["arousal"].average_ccc for error in (0.6, 0.9))
    assert small.average_ccc_gap == pytest.approx(dependent - independent)
    assert small.overall_ccc_gap_low > 0
    # the same predictions on both sides, whatever the draw
    assert (large.overall_ccc_gap_low, large.overall_ccc_gap_high) == (0, 0)


@pytest.fixture
def runs(tmp_path):
    """Two test runs by hand, and what each cost."""
    for name, error, permuted in (("vanilla", 0.9, 3), ("papt", 0.5, 0)):
        folder = tmp_path / name / "lightning_logs" / "version_0"
        LARGE.write(folder, LARGE.row(error), LARGE.row(0.4, "own_statistics"))
        write_json(folder / "test_cost.json", {"command": "test", "seconds": 90.0, "speech_seconds": 720.0, "other": 1})
        write_json(folder / "metrics.json", {"splits": {"test1": {"permuted_speakers": permuted}, "test2": {}}})
    return tmp_path


def test_runs_by_hand_are_named_by_their_folders(runs, capsys):
    assert ser("compare", runs, "--baseline", "vanilla", "--resamples", "200") == 0
    page = (runs / "comparison.md").read_text()
    table = pd.read_csv(runs / "comparison.csv")
    best = table[(table.recipe == "papt") & (table.calibration == "raw")].iloc[0]
    assert best.overall_ccc_low < best.overall_ccc < best.overall_ccc_high
    assert best.overall_ccc_difference_low > 0
    assert f"| papt | raw | 1 | {decimal(best.overall_ccc)} ({decimal(best.overall_ccc_low)} to" in page
    assert "| papt | own_statistics (oracle) | 1 |" in page
    assert page.count("baseline | baseline") == 1
    assert "| papt | test | - | 90 s | - | 12 min | - |" in page
    shown = " ".join(capsys.readouterr().out.split())
    for text in (shown, page):
        assert "14 speakers, A-CCC over 7" in text
        assert "papt permuted no speaker of test1, so it is not a control" in text
        assert "vanilla permuted" not in text


def test_a_runs_name_is_no_path_of_its_machine(runs, monkeypatch):
    monkeypatch.chdir(runs / "papt")
    for given, names in (
        (["lightning_logs/version_0"], {"version_0"}),
        (["../vanilla/lightning_logs", "../papt"], {"vanilla", "papt"}),
        (["."], {"papt"}),
        (["ours=lightning_logs/version_0", "../vanilla"], {"ours", "vanilla"}),
        (["both=.."], {"both/papt", "both/vanilla"}),
    ):
        assert {run.recipe for run in find_runs(given)} == names


def test_a_study_s_page_holds_its_costs_what_its_recipes_share_and_pre_trainings(tmp_path):
    papt = StageCost("fit", 100.0, 90.0, 2**30, speech_seconds=7200.0, trained_parameters=99)
    prepared = {
        "prepare/papt/seed_0": ([papt], (2.5, 0.25, 3.0, 0.125)),
        "prepare/papt/seed_1": ([papt], (3.5, 0.5, 4.0, 0.375)),
        "prepare/tapt": ([], (3.25, 0.25, None, None)),
        "prepare/labels": ([], None),
    }
    for folder, (stages, scores) in prepared.items():
        name = folder.split("/")[1]
        kept = scores and dict(zip(PRETRAINING_SCORES, scores, strict=True))
        record = RunRecord(name, "preparation", 0, None, None, None, (), stages, pretraining=kept)
        write_json(tmp_path / folder / "done.json", asdict(record))
    for name, seconds, needs in (("vanilla", 40.0, ()), ("tuned", 60.0, tuple(prepared))):
        LARGE.write(tmp_path / "runs" / name / "test", LARGE.row(0.5 if needs else 0.9))
        stages = StageCost("fit", seconds), StageCost("test", 5.0)
        record = RunRecord(name, "recipe", 0, None, None, "test", needs, stages)
        write_json(tmp_path / "runs" / name / "done.json", asdict(record))
    compare([str(tmp_path)], name="study", resamples=200)
    table = pd.read_csv(tmp_path / "study.csv").set_index("recipe")
    assert table.training_seconds.to_dict() == {"vanilla": 40.0, "tuned": 160.0}
    page = (tmp_path / "study.md").read_text()
    assert page.count("| tuned | raw | 1 | ") == 1
    assert "| tuned | papt (shared) | 99 | 100 s | 90 s | 2 h | 1.00 GiB |" in page
    assert "| papt | 2 | 3.000 | .375 | 3.500 | .250 |" in page
    assert "| tapt | 1 | 3.250 | .250 | - | - |" in page
    assert pd.read_csv(tmp_path / "study_pretraining.csv").runs.to_list() == [2, 1]


def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path, mistake, runs):
    for told, *arguments in (
        ("holds no test run with speaker_moments.csv. Give folders of `ser test", tmp_path / "vanilla" / "nothing"),
        ("--baseline: no recipe tapt to compare with. Choose one of", runs, "--baseline", "tapt"),
        ("isn't NAME=FILE", runs, "--add", "mine.csv"),
        ("a run has this name", runs, "--add", "papt=mine.csv"),
        ("isn't NAME=FOLDER", "ours="),
        ("resamples", runs, "--resamples", "5"),
    ):
        assert told in mistake("compare", *arguments)
    for name, text, told in (
        ("predictions.csv", "x", "predictions.csv: no column utterance, speaker, split. Run `ser test` again"),
        ("test_cost.json", "[]", "test_cost.json: is damaged. Delete it"),
    ):
        (runs / "papt" / "lightning_logs" / "version_0" / name).write_text(text)
        assert told in mistake("compare", runs, "--add", "mine=mine.csv")
    (runs / "papt" / "done.json").write_text("{}")
    assert "done.json: is damaged" in mistake("compare", runs)


@pytest.fixture
def mine(runs):
    """The runs with the utterances that they were tested on, and a table of another method's predictions of them."""
    names = [f"u{place}" for place in range(len(LARGE.speakers))]
    tested = pd.DataFrame({"utterance": names, "speaker": LARGE.speakers, "split": "test1"})
    tested["arousal_label"] = LARGE.labels[:, 0]
    for name in ("vanilla", "papt"):
        tested.to_csv(runs / name / "lightning_logs" / "version_0" / "predictions.csv", index=False)
    row = LARGE.row(0.7, seed=3)
    table = pd.DataFrame({"utterance": names, "arousal": row.predictions[0, :, 0]}).sample(frac=1, random_state=0)
    table.to_csv(runs / "mine.csv", index=False)
    return table, row


def test_another_method_joins_the_table(runs, mine, capsys):
    latex = runs / "table.tex"
    options = ["--add", f"mine={runs / 'mine.csv'}", "--latex", latex, "--baseline", "vanilla", "--resamples", "200"]
    assert ser("compare", runs, *options) == 0
    table = pd.read_csv(runs / "comparison.csv").set_index("recipe")
    scores = mine[1].scores["arousal"]
    assert table.loc["mine", "overall_ccc"] == pytest.approx(scores.overall_ccc)
    printed = capsys.readouterr().out
    assert re.search(rf"mine +{re.escape(decimal(scores.overall_ccc))} ", printed)
    assert printed.count("baseline") == 1
    assert (runs / "comparison_forest.png").read_bytes().startswith(b"\x89PNG")
    text = latex.read_text()
    assert f"mine & {decimal(scores.overall_ccc)} & " in text
    assert text.count(r"\\") == 4


def test_of_several_columns_the_one_that_is_meant_is_compared(runs, mine, mistake):
    # as `ser calibrate` writes them
    table, row = mine
    table = table.rename(columns={"arousal": "arousal_sigma"}).assign(arousal_raw=4.0, arousal_label=4.0)
    table.to_csv(runs / "mine.csv", index=False)
    assert ser("compare", runs, "--add", f"mine={runs / 'mine.csv'}:Sigma", "--resamples", "200") == 0
    found = pd.read_csv(runs / "comparison.csv").set_index("recipe").loc["mine", "overall_ccc"]
    assert found == pytest.approx(row.scores["arousal"].overall_ccc)
    line = mistake("compare", runs, "--add", f"mine={runs / 'mine.csv'}:mu")
    assert "no column arousal_mu (found: utterance, arousal_sigma, " in line


def test_names_are_no_formulas_and_leave_room_for_the_plot(runs, tmp_path, recwarn):
    name, latex = r"林a\b^2~$\foo$" + "x" * 90, tmp_path / "table.tex"
    options = ["--baseline", "base", "--latex", latex, "--out", tmp_path / "c", "--resamples", "200"]
    assert ser("compare", f"{name}={runs / 'papt'}", f"base={runs / 'vanilla'}", *options) == 0
    assert r"\$\textbackslash foo\$xxx" in latex.read_text()
    assert (tmp_path / "c" / "comparison_forest.png").read_bytes().startswith(b"\x89PNG")
    assert not [one.message for one in recwarn if "Glyph" in str(one.message)]


def test_predictions_of_another_method_that_cannot_join(runs, mine, mistake):
    write_json(runs / "papt" / "lightning_logs" / "version_0" / "metrics.json", {"splits": {}, "scale": [1, 7]})
    (table, _), path = mine, runs / "mine.csv"
    for changed, told in (
        (table.iloc[2:], r"mine.csv: lacks 2 of \d+ utterances that the runs were tested on: u\d+, u\d+"),
        (pd.concat([table, table.iloc[:1]]), "lists 1 utterances more than once: u"),
        (pd.concat([table, table.iloc[:1].assign(utterance="other")]), "no run was tested on: other. Give one row"),
        (table.rename(columns={"arousal": "arousal_raw"}), 'no column arousal .found: .*--add "mine=.*mine.csv:raw"'),
        (
            table.assign(arousal=(table.arousal - 1) / 6),
            r"mine.csv: (\d+) of \1 predictions of arousal, the first [\d.]+ of utterance u\d+, are outside .*1 to 7. "
            r"Bring.* by 1 \+ 6 \* \(value - A\) / \(B - A\)",
        ),
    ):
        changed.to_csv(path, index=False)
        assert re.search(told, mistake("compare", runs, "--add", f"mine={path}"))
    # some outside the scale, as a regression has them, are no other scale
    table.assign(arousal=table.arousal.where(table.index % 3 > 0, 0.5)).to_csv(path, index=False)
    assert ser("compare", runs, "--add", f"mine={path}", "--resamples", "200") == 0


def test_runs_of_one_attribute_each_share_a_ridge_and_another_method(tmp_path):
    tested = pd.DataFrame({"utterance": [f"u{place}" for place in range(len(LARGE.speakers))]})
    for attribute in ("arousal", "valence"):
        (tmp_path / attribute).mkdir()
        rows = (LARGE.row(0.5), LARGE.row(0.8, "ridge", seed=2))
        of_rows = [LARGE.moments(row).assign(attribute=attribute, split="01") for row in rows]
        write_moments(tmp_path / attribute, of_rows)
        labelled = tested[["utterance"]].assign(speaker=LARGE.speakers, split="01")
        labelled[f"{attribute}_label"] = LARGE.labels[:, 0]
        labelled.to_csv(tmp_path / attribute / "predictions.csv", index=False)
        tested[attribute] = LARGE.row(0.7, seed=3).predictions[0, :, 0]
    tested.to_csv(tmp_path / "mine.csv", index=False)
    both = ["arousal", "valence"]
    runs, added = [str(tmp_path / attribute) for attribute in both], f"mine={tmp_path / 'mine.csv'}"
    compare(runs, add=added, out=str(tmp_path / "out"), resamples=200)
    table = pd.read_csv(tmp_path / "out" / "comparison.csv", dtype=str)
    # a test set may be called by a number
    assert set(table["split"]) == {"01"}
    found = table.groupby("recipe")["attribute"].agg(sorted).to_dict()
    assert found == {"arousal": both[:1], "valence": both[1:], "ridge": both, "mine": both}
