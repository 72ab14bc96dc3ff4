import json
import re
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from command_line import ser
from invented_run import edit_json, invent

from ser_personal.calibration.table import decimal
from ser_personal.evaluation.run_files import read_run
from ser_personal.files import write_json
from ser_personal.report.audit import harm
from ser_personal.report.bootstrap import Bootstrap, Estimate, interval, signed, signed_interval, verdicts
from ser_personal.report.figures import INK, dumbbells, forest, style
from ser_personal.report.report import report


def parsed(path):
    """Text, figures and tags of a page whose tags close in order."""
    tree = ET.fromstring(re.sub(r"<(!DOCTYPE|meta|br)\b[^>]*>", "", path.read_text()))  # noqa: S314  our own
    text, figures = " ".join("".join(tree.itertext()).split()), [figure.attrib for figure in tree.iter("svg")]
    return SimpleNamespace(text=text, figures=figures, tags={element.tag for element in tree.iter()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An invented run of two attributes, reported."""
    folder = invent(tmp_path_factory.mktemp("run"), attributes=("arousal", "valence"))
    assert ser("report", folder, "--resamples", "200") == 0
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return parsed(folder / "report.html")


def test_the_page_needs_no_network(folder, page):
    text = (folder / "report.html").read_text()
    assert re.findall(r"https?:|@import|url\((?!#)", text) == []
    assert page.tags.isdisjoint({"script", "link", "iframe", "img"})
    # figures have the page's ink, which is that of its colour scheme
    assert all("currentColor" in svg and INK not in svg for svg in re.findall("<svg.*?</svg>", text, re.DOTALL))


def test_every_figure_says_what_it_shows_and_verdicts_stand_first_with_marks_and_intervals(page):
    labels = [figure["aria-label"] for figure in page.figures]
    # gains and speakers for each attribute
    assert len(set(labels)) == len(labels) == 2 * 2
    assert all("viewBox" in figure and "width" not in figure for figure in page.figures)
    assert "CCC of arousal of 24 speakers before and after calibration: it rises for 12 and falls for 12." in labels
    gain = r"A-CCC [+-]?\.\d{3} \(-\.\d{3} to \+\.\d{3}\)"
    assert re.search(rf"\N{{WHITE CIRCLE}} ?no effect of calibration is shown ?{gain}", page.text)
    order = ("no effect of calibration", "12 of 24", "What each calibration gains", "Labels are emotion as annotators")
    places = [page.text.index(said) for said in order]
    assert places == sorted(places)


def test_the_score_table_and_the_audit_are_on_the_page_and_the_audit_in_json(folder, page):
    raw = json.loads((folder / "metrics.json").read_text())["splits"]["test1"]["rows"]["raw"]["attributes"]["valence"]
    assert f"{raw['average_ccc']:.3f} ({raw['average_ccc_std']:.3f})".replace("0.", ".") in page.text
    assert "an oracle, never a result" in page.text
    audit = json.loads((folder / "audit.json").read_text(), parse_constant=pytest.fail)
    (of_set,) = audit["sets"]
    groups = {partition["name"]: partition["groups"] for partition in of_set["partitions"]}
    assert list(groups) == ["gender", "amount of speech"]
    assert of_set["harm"]["arousal"]["harmed"] == 12
    # the invented calibration halves the error of Female speakers and doubles that of Male ones
    gap = groups["gender"]["arousal"]["calibrated"]["Female"]["gap"]["mean_absolute_error"]
    assert gap["value"] < gap["low"] + 1 < 1
    assert gap["high"] < -0.5
    assert "a probe needs two genders of 10 speakers each; here: 4 Female" in page.text


def intervals(speakers, half_width):
    found = {"half_width": half_width, "mean_width": 2.5, "mean": 0.91, "of_speakers": [0.41, 0.6, 0.92, 1.0, 1.0]}
    return {"coverage": 0.9, "speakers_needed": 9, "validation_speakers": speakers, "attributes": {"arousal": found}}


def test_what_else_a_run_may_record(tmp_path):
    def text(**recorded):
        edit_json(tmp_path / "metrics.json", lambda metrics: metrics["splits"]["test1"].update(recorded))
        report(str(tmp_path), resamples=100)
        return parsed(tmp_path / "report.html").text

    invent(tmp_path, speakers=8)
    few = text(intervals=intervals(8, None), permuted_speakers=0)
    assert few.count("need 9 validation speakers. There were 8, so every interval would be the whole label scale") == 1
    assert "so it isn't a control here" in few
    enough = text(intervals=intervals(12, 1.25), permuted_speakers=8)
    assert "to cover about 90%" in enough
    assert ".410 .600 .920 1.000 1.000" in enough
    assert "8 of these had another one's e_s." in enough


def test_names_of_the_corpus_are_text_and_few_utterances_a_page_without_figures(tmp_path):
    invent(tmp_path, speakers=3, utterances=4)
    text = (tmp_path / "speakers.json").read_text().replace("Female", "<script>alert(1)</script>")
    (tmp_path / "speakers.json").write_text(text)
    report(str(tmp_path), resamples=100)
    page = parsed(tmp_path / "report.html")
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert page.figures == []


def test_figures_hold_the_gain_of_each_row_by_kind_and_both_scores_of_each_speaker(folder):
    run = read_run(folder)
    test = run.sets[0]
    own = replace(test, rows=(*test.rows, replace(test.row("sigma"), name="median")))
    with style():
        (forested,) = forest(run, own, "arousal", Bootstrap(resamples=100)).figure.axes
        (axes,) = dumbbells(run, test, "arousal").figure.axes
    names = [tick.get_text() for tick in forested.get_yticklabels()]
    assert names[4:] == ["median", "one map for all", "all speakers", "random speakers", "own labels (oracle)"]
    raw, calibrated = (line.get_xdata() for line in axes.lines[-2:])
    for drawn, name in ((raw, "raw"), (calibrated, "sigma")):
        np.testing.assert_allclose(sorted(drawn), sorted(test.row(name).scores["arousal"].per_speaker.values()))
    assert (np.diff(raw) >= 0).all()
    dotted = [line.get_linestyle() == ":" for line in axes.lines[:-2]]
    assert dotted == [after < before for before, after in zip(raw, calibrated, strict=True)]


def test_numbers_and_intervals_or_why_there_is_none():
    told = {0.5: (".500", "+.500"), -0.25: ("-.250", "-.250"), -0.0002: (".000", ".000"), float("nan"): ("-", "-")}
    assert {value: (decimal(value), signed(value)) for value in told} == told
    assert interval(Estimate(0.5, 0.25, 0.75)) == ".500 (.250 to .750)"
    assert signed_interval(Estimate(0.5, -0.25, 0.75)) == "+.500 (-.250 to +.750)"
    assert interval(Estimate(0.5, refused="3 speakers")) == ".500"


def found(folder):
    run = read_run(folder)
    return verdicts(run, run.sets[0], "arousal", Bootstrap(200))


def gain_of_pldc(folder, gain, noise):
    """Have PLDC raise and lower each CCC by so much, and by the noise in turns."""

    def edit(metrics):
        raw, sigma = (metrics["splits"]["test1"]["rows"][name]["attributes"]["arousal"] for name in ("raw", "sigma"))
        noises = zip(raw["per_speaker"].items(), [noise, -noise] * 12, strict=True)
        sigma["per_speaker"] = {speaker: ccc + gain + noise for (speaker, ccc), noise in noises}

    edit_json(invent(folder) / "metrics.json", edit)


@pytest.mark.parametrize(("gain", "mark"), [(0.1, "helps"), (0.0, "open"), (-0.1, "harms")])
def test_the_interval_decides(tmp_path, gain, mark):
    gain_of_pldc(tmp_path, gain, noise=0.01)
    own, similar = found(tmp_path)
    text = "no effect of calibration is shown" if mark == "open" else f"calibration {mark}"
    assert (own.than, similar.than, own.mark, own.text) == ("raw", "random_speakers", mark, text)
    assert own.gain.value == pytest.approx(gain, abs=1e-12)


def test_differences_of_rounding_size_show_nothing_and_harm_nobody(tmp_path):
    gain_of_pldc(tmp_path, 0.0, noise=1e-15)
    assert [(verdict.mark, verdict.gain.value) for verdict in found(tmp_path)] == [("open", 0)] * 2
    run = read_run(tmp_path)
    assert harm(run, run.sets[0], "arousal", Bootstrap(200)).harmed == 0


def test_neighbours_that_are_all_training_speakers_are_held_against_no_random_ones(tmp_path):
    edit_json(invent(tmp_path) / "metrics.json", lambda metrics: metrics["pldc"].update(k=4))
    assert [verdict.than for verdict in found(tmp_path)] == ["raw"]
    report(str(tmp_path), resamples=100)
    text = parsed(tmp_path / "report.html").text
    assert "similar voices matter can't be said: k = 4 takes all 4 training speakers, so population and random_" in text


def test_what_is_asked_of_raw_predictions_of_ridge_and_of_few_speakers(tmp_path):
    folder = invent(tmp_path)
    rows = json.loads((folder / "metrics.json").read_text())["splits"]["test1"]["rows"]
    write_json(folder / "baseline.json", {"splits": {"test1": {"rows": {"ridge": rows["sigma"]}}}})
    last = found(folder)[-1]
    assert (last.row, last.than) == ("raw", "ridge")
    own, ridge = (rows[name]["attributes"]["arousal"]["per_speaker"] for name in ("raw", "sigma"))
    assert last.gain.value == pytest.approx(np.mean([own[speaker] - ridge[speaker] for speaker in own]))
    (folder / "baseline.json").unlink()
    edit_json(folder / "metrics.json", lambda metrics: metrics["pldc"].update(scale_std=False))
    # they are calibrated by no voices
    assert found(folder) == []
    few = found(invent(tmp_path / "few", speakers=4))
    assert {(verdict.mark, verdict.gain.refused) for verdict in few} == {("open", "4 speakers, an interval needs 10")}
