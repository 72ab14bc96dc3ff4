from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from shutil import copy

import pandas as pd
import pytest
from command_line import ser
from invented_run import edit_json, invent
from tiny_models import emotion_data, finetuning, newest_run, trainer

from ser_personal.errors import UserError
from ser_personal.evaluation.pldc_callback import PLDCCallback
from ser_personal.report.report import report

VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps text, attributes and figures."""

    def __init__(self, path):
        super().__init__()
        self.open, self.text, self.figures, self.links, self.tags = [], "", [], [], set()
        self.feed(path.read_text())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "data", "action"}]
        if tag == "svg":
            self.figures.append(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An invented run of two attributes, reported."""
    folder = invent(tmp_path_factory.mktemp("run"), attributes=("arousal", "valence"))
    report(str(folder), resamples=200)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page(folder / "report.html")


def test_the_page_needs_no_network(folder, page):
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    text = (folder / "report.html").read_text()
    assert re.findall(r"https?:|@import|url\((?!#)", text) == []
    assert page.tags.isdisjoint({"script", "link", "iframe", "img"})
    assert len(text) < 2_000_000
    assert 'name="viewport"' in text


def test_every_figure_says_what_it_shows(page):
    labels = [figure["aria-label"] for figure in page.figures]
    # gains, speakers, single speakers, calibration, shifts and two of groups for each attribute; one of neighbours
    assert len(labels) == 2 * 7 + 1
    assert all(figure["role"] == "img" for figure in page.figures)
    assert all("viewbox" in figure and "width" not in figure for figure in page.figures)
    assert all(len(label) > 40 for label in labels)
    assert len(set(labels)) == len(labels)
    assert "CCC of arousal of 24 speakers before and after calibration: it rises for 12 and falls for 12." in labels


def test_verdicts_stand_first_with_marks_and_intervals(page):
    text = " ".join(page.text.split())
    # half of the speakers get better by as much as the others get worse
    gain = r"A-CCC [+-]?\.\d{3} \(-\.\d{3} to \+\.\d{3}\)"
    assert re.search(rf"\N{{WHITE CIRCLE}} ?no effect of calibration is shown ?{gain}", text)
    order = ("no effect of calibration", "What each calibration gains", "Labels are emotion as annotators")
    places = [text.index(said) for said in order]
    assert places == sorted(places)
    assert "12 of 24" in text


def test_a_plot_without_spread_is_left_out(tmp_path):
    folder = invent(tmp_path)
    frame = pd.read_csv(folder / "predictions.csv").assign(arousal_raw=4.0, arousal_calibrated=4.0)
    frame.to_csv(folder / "predictions.csv", index=False)
    report(str(folder), resamples=100)
    assert not [f for f in Page(folder / "report.html").figures if f["aria-label"].startswith("Mean label over")]


def test_the_score_table_holds_every_row_and_says_what_it_is(folder, page):
    rows = json.loads((folder / "metrics.json").read_text())["splits"]["test1"]["rows"]
    assert all(name.replace("_", " ") in page.text for name in rows)
    raw = rows["raw"]["attributes"]["valence"]
    assert f"{raw['overall_ccc']:.3f}".lstrip("0") in page.text
    assert f"{raw['average_ccc']:.3f} ({raw['average_ccc_std']:.3f})".replace("0.", ".") in page.text
    assert "oracle: never a result" in page.text
    assert "PLDC towards random training speakers" in page.text


def test_the_page_says_what_an_audit_can_t_show(page):
    for said in ("perceived", "no difference shows that a group's trait causes it", "once in twenty", "--before RUN"):
        assert said in page.text
    assert "a probe needs two genders of 10 speakers each; here: 4 Female" in page.text


def test_the_cost_is_what_was_recorded(page):
    text = " ".join(page.text.split())
    assert "12,345, of which training changed 2,345" in text
    assert "90 s for 2 h of speech, on 1 cpu device" in text


def test_the_audit_in_json(folder):
    audit = json.loads((folder / "audit.json").read_text(), parse_constant=pytest.fail)
    (of_set,) = audit["sets"]
    names = [partition["name"] for partition in of_set["partitions"]]
    assert names == ["gender", "amount of speech", "label of arousal", "label of valence"]
    assert of_set["harm"]["arousal"]["harmed"] == 12
    gender = of_set["partitions"][0]["groups"]["arousal"]
    gap = gender["calibrated"]["Female"]["gap"]["mean_absolute_error"]
    # the invented calibration halves the error of Female speakers and doubles that of Male ones
    assert gap["value"] < gap["low"] + 1 < 1
    assert gap["high"] < -0.5
    assert audit["bootstrap"] == {"resamples": 200, "seed": 0, "fewest": 10}
    assert "perceived" in audit["meaning"]


def intervals(speakers, half_width):
    found = {"half_width": half_width, "mean_width": 2.5, "mean": 0.91, "of_speakers": [0.41, 0.6, 0.92, 1.0, 1.0]}
    told = {"coverage": 0.9, "speakers_needed": 9, "validation_speakers": speakers, "attributes": {"arousal": found}}
    return lambda metrics: metrics["splits"]["test1"].update(intervals=told)


def test_how_often_intervals_hold_or_that_they_can_not(tmp_path):
    def text(**changed):
        folder = invent(tmp_path / "run")
        if changed:
            edit_json(folder / "metrics.json", intervals(**changed))
        report(str(folder), resamples=100)
        return " ".join(Page(folder / "report.html").text.split())

    assert "There were no validation speakers" in text()
    few = text(speakers=8, half_width=None)
    assert few.count("need 9 validation speakers. There were 8, so every interval would be the whole label scale") == 1
    assert "half-width mean width" not in few
    enough = text(speakers=12, half_width=1.25)
    assert "estimated on 12 validation speakers" in enough
    assert "to cover about 90%" in enough
    assert ".410 .600 .920 1.000 1.000" in enough


def test_a_control_that_permutes_speakers_says_how_many(tmp_path):
    folder = invent(tmp_path)
    for number, said in ((24, "24 of these had another one's e_s."), (0, "so it is no control here")):
        edit_json(folder / "metrics.json", lambda m, n=number: m["splits"]["test1"].update(permuted_speakers=n))
        report(str(folder), resamples=100)
        assert said in " ".join(Page(folder / "report.html").text.split())


def test_names_of_the_corpus_are_text_and_no_markup(tmp_path):
    invent(tmp_path)
    text = (tmp_path / "predictions.csv").read_text().replace("Female", "<script>alert(1)</script>")
    (tmp_path / "predictions.csv").write_text(text)
    report(str(tmp_path), resamples=100)
    page = Page(tmp_path / "report.html")
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_a_column_and_another_run(tmp_path, capsys):
    run, before = invent(tmp_path / "run"), invent(tmp_path / "before", seed=5)
    table = tmp_path / "speakers.csv"
    table.write_text("speaker,accent\n" + "".join(f"s{n:02},{'north' if n < 12 else 'south'}\n" for n in range(24)))
    options = ["--by", "accent", "--table", table, "--before", before, "--resamples", "100"]
    assert ser("report", run, *options) == 0
    assert "report.html and audit.json" in capsys.readouterr().out
    audit = json.loads((run / "audit.json").read_text())
    accent = next(partition for partition in audit["sets"][0]["partitions"] if partition["name"] == "accent")
    assert accent["groups"]["arousal"]["raw"]["north"]["scores"]["speakers"] == 12
    assert audit["before"][0]["of_run"].endswith("before")
    assert "north" in Page(run / "report.html").text


def test_a_miniature_run(synthetic_corpus, finetuned_checkpoint, tmp_path, capsys):
    checkpoint = copy(finetuned_checkpoint, tmp_path / "finetune.ckpt")
    running = trainer(tmp_path, callbacks=[PLDCCallback(k=3, draws=2)])
    running.test(finetuning(), datamodule=emotion_data(synthetic_corpus), ckpt_path=checkpoint, verbose=False)
    run = newest_run(tmp_path)
    assert ser("report", run, "--resamples", "100") == 0
    page = Page(run / "report.html")
    assert "No interval under 10 speakers: test1, amount of speech" in capsys.readouterr().out
    assert "18 utterances of 3 known speakers" in page.text
    assert "3 speakers, an interval needs 10" in page.text
    audit = json.loads((run / "audit.json").read_text())
    assert audit["sets"][0]["harm"]["arousal"]["speakers"] == 3


def test_mistakes(tmp_path, capsys):
    assert ser("report", tmp_path) == 2
    assert "isn't a test run" in capsys.readouterr().err
    with pytest.raises(UserError, match="--table: needs the name of a column"):
        report(str(tmp_path), table="corpus.csv")
    invent(tmp_path, speakers=2, utterances=2)
    assert ser("report", tmp_path, "--by", "height") == 2
    assert "no column height in predictions.csv" in capsys.readouterr().err
