import base64
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import soundfile
from browser import chromium, needs_chromium
from command_line import ser

RATE = 16_000
NAMES = ["Anna", '<script>alert("x")</script>', "NA", "", "None & Zoë"]


def rows_of(file, seconds, names=NAMES, seed=0):
    """Invented utterances of a recording, with a gap in the middle; one is short, one overlapped."""
    rng = np.random.default_rng(seed)
    starts = [start for start in range(0, seconds - 2, 3) if not seconds / 2 <= start < seconds / 2 + 6]
    for number, start in enumerate(starts):
        row = {"speaker": names[number % len(names)], "start": float(start), "end": start + 2.5}
        for attribute in ("arousal", "valence"):
            value = rng.uniform(2, 6)
            row |= {f"{attribute}_calibrated": value, f"{attribute}_raw": (value + 4) / 2}
            row |= {f"{attribute}_low": max(1, value - 1), f"{attribute}_high": min(7, value + 1)}
        row |= {"overlap": 2.0 if number == 1 else 0.0, "short": int(number == 2), "file": file}
        yield row


def write(path, rows):
    pd.DataFrame(rows).to_csv(path, index=False)


def sound(path, seconds, rate=RATE):
    waveform = 0.1 * np.sin(np.arange(seconds * rate) * 2 * np.pi * 220 / rate)
    soundfile.write(path, np.stack([waveform, waveform / 2], axis=1), rate)
    return waveform * 0.75


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sound(tmp_path / "meeting.wav", 60)
    write(tmp_path / "predictions.csv", rows_of("meeting.wav", 60))
    return tmp_path


def reported(folder, *flags, table="predictions.csv", page="timeline.html"):
    assert ser("report", folder / table, *flags) == 0
    return (folder / page).read_text(encoding="utf-8")


def data_of(text, name="data"):
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_holds_the_rows_in_the_order_of_time_and_short_sound_in_mono_and_fetches_nothing(folder):
    expected = list(rows_of("meeting.wav", 60))
    write(folder / "predictions.csv", expected[::-1])
    text = reported(folder)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#34;x&#34;)" in text
    without_namespace = text.replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?:|@import|url\(|<link|<img", without_namespace) == []
    data = data_of(text)
    assert data["speakers"] == ["speaker unknown" if name == "" else name for name in NAMES]
    assert (data["attributes"], data["seconds"]) == (["arousal", "valence"], 60)
    for row, shown in zip(expected, data["rows"], strict=True):
        values = [row[f"{a}_{n}"] for a in ("arousal", "valence") for n in ("calibrated", "raw", "low", "high")]
        place = [NAMES.index(row["speaker"]), row["start"], row["end"], row["overlap"], row["short"]]
        assert shown == [*place, *(round(value, 3) for value in values)]
    source = data_of(text, "source")
    assert source.startswith("data:audio/flac;base64,")
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert (rate, waveform.shape) == (RATE, (60 * RATE,))
    np.testing.assert_allclose(waveform, sound(folder / "again.wav", 60), atol=1e-3)


def test_each_speakers_mean_spread_and_extreme_moments(folder):
    said = [(0, 2, 2, 3, 0), (70, 72, 4, 4, 0), (3700, 3701, 6, 5, 0), (9, 9.5, 7, 5, 1)]
    rows = [
        {"speaker": "a", "start": start, "end": end, "file": "x.wav", "short": short}
        | {"arousal_calibrated": value, "arousal_raw": raw, "arousal_low": "", "arousal_high": ""}
        for start, end, value, raw, short in said
    ]
    write(folder / "predictions.csv", rows)
    cells = re.sub(r"<[^>]+>", " ", reported(folder).split("<tbody>")[1])
    # the mean of 2, 4, 6 and 7, their deviation, and the highest that isn't short
    assert " ".join(cells.split()).startswith("a arousal 4.75 (4.25) 1.92 (0.83) 6.00 at 1:01:40 2.00 at 0:00")


def test_a_page_has_what_its_table_has(folder):
    text = reported(folder)
    assert 'id="band"' in text
    more = {"arousal_low": "", "valence_high": "", "dominance_calibrated": 40.0, "dominance_raw": 40.0}
    bare = [row | more for row in rows_of("meeting.wav", 60)]
    write(folder / "predictions.csv", without("arousal_high", "valence_low")(bare))
    changed = reported(folder)
    assert 'id="band"' not in changed
    assert data_of(changed)["plane"] == data_of(text)["plane"]


def test_the_page_of_a_table_is_replaced_by_its_own_alone(folder, mistake, capsys):
    (folder / "b").mkdir()
    write(folder / 'a "1".csv', rows_of("a.wav", 9))
    write(folder / "b" / "interview.csv", [*rows_of("c.wav", 9), *rows_of("d.wav", 9)])
    first = reported(folder, table='a "1".csv')
    command = ("report", "b/interview.csv", "--out", "timeline.html")
    line = mistake(*command)
    assert "timeline.html: isn't a page of interview.csv, and would be replaced. Write --out" in line
    assert reported(folder, table='a "1".csv') == first
    assert ser(*command, *re.search("--out .*(?= instead)", line)[0].split()) == 0
    assert "written: interview_timeline.html and 2 pages in interview_timeline/" in capsys.readouterr().out
    assert '"../interview_timeline.html">All' in (folder / "interview_timeline" / "001_c.html").read_text()
    assert 'href="interview_timeline/001_c.html"' in (folder / "interview_timeline.html").read_text()


def changed(**cells):
    return lambda rows: [rows[0] | cells, *rows[1:]]


def without(*columns):
    return lambda rows: pd.DataFrame(rows).drop(columns=[*columns])


def test_what_is_no_table_of_annotations_and_no_page_of_it_is_one_line(folder, mistake):
    (folder / "report.html").write_text("<p>of a test run")
    for change, flags, what in (
        (changed(start="x"), [], "row 1: start is 'x', not a finite number. Give a table that `ser annotate` wrote"),
        (changed(end=0), [], "row 1: lasts from 0 to 0 s"),
        (without("valence_raw"), [], "valence_raw"),
        (without("arousal_calibrated", "valence_calibrated"), [], "no column ATTRIBUTE_calibrated"),
        (lambda rows: [rows[0] | {"file": n} for n in range(201)], [], "holds 201 recordings, and at most 200"),
        (list, ["--audio", "nowhere"], "--audio nowhere: no such folder. Check the spelling"),
        (list, ["--out", "page"], "--out page: isn't called .html. Write --out page.html instead"),
        (list, ["--out", "report.html"], "and would be replaced. Write --out predictions_report.html instead"),
    ):
        write(folder / "predictions.csv", change(list(rows_of("meeting.wav", 60))))
        assert what in mistake("report", folder / "predictions.csv", *flags)
    assert not (folder / "timeline.html").exists()
    assert (folder / "report.html").read_text() == "<p>of a test run"


def test_long_recordings_have_a_page_each_and_are_played_from_their_file(folder, monkeypatch, capsys):
    monkeypatch.setattr("ser_personal.report.timeline.EMBEDDED_SECONDS", 13)
    here = folder / "in here"
    here.mkdir()
    sound(here / "é #1.wav", 20)
    write(folder / "predictions.csv", [*rows_of("/elsewhere/é #1.wav", 20), *rows_of("gone.wav", 20)])
    index = reported(folder, "--audio", here)
    assert "2 recordings of predictions.csv" in index
    assert re.findall(r'<a href="timeline/00([^"]+).html"', index) == ["1_%C3%A9__1", "2_gone"]
    long, gone = (path.read_text() for path in sorted((folder / "timeline").iterdir()))
    assert data_of(long, "source") == "../in%20here/%C3%A9%20%231.wav"
    assert "disabled>No sound<" in gone
    assert "no sound of gone.wav: no such file; --audio FOLDER gives" in capsys.readouterr().out


def of_categories(rows):
    for number, row in enumerate(rows):
        shares = {"angry_probability": number % 5 / 4, "sad_probability": 1 - number % 5 / 4}
        yield {name: row[name] for name in ("speaker", "start", "end")} | {"predicted": "sad", **shares} | {"file": "x"}


def test_categories_have_their_probabilities_over_time(folder):
    write(folder / "predictions.csv", of_categories(rows_of("x", 60)))
    text = reported(folder)
    data = data_of(text)
    assert (data["categories"], data["attributes"]) == (True, ["angry", "sad"])
    assert data["axes"] == [{"low": 0, "high": 1, "ticks": [0, 0.5, 1]}] * 2
    assert [row[5::4] for row in data["rows"][:2]] == [[0, 1], [0.25, 0.75]]
    assert "calibrated" not in text.split("<body>")[1].split("<script")[0]
    assert "nan" not in text.split("<body>")[1].split("<script")[0]


@pytest.fixture
def page(tmp_path):
    with chromium(tmp_path / "profile") as page:
        yield page


@needs_chromium
def test_a_recording_is_played_walked_through_and_looked_at_closely(folder, page):
    reported(folder)
    page.open(folder / "timeline.html", 390)
    page.js("get('all').open = true")
    page.settle()
    lane, (start, end) = page.box(".lane"), page.js("[lanes[0].own[1].start, lanes[0].own[1].end]")
    page.click(lane["left"] + page.js(f"x({(start + end) / 2})"), lane["top"] + lane["height"] / 2)
    page.js("new Promise(done => sound.readyState > 1 ? done() : sound.addEventListener('playing', done))")
    page.js("sound.pause()")
    assert start + 1 < page.js("sound.currentTime") < 60
    assert page.js("get('said').textContent").startswith("Anna, 0:15.0 to 0:17.5")
    place = page.js("parseFloat(get('head').style.left) + get('chart').getBoundingClientRect().left")
    assert place == pytest.approx(lane["left"] + page.js("x(now)"), abs=2)
    for what in (".planes circle", "td .moment", "#all .moment"):
        box = page.box(what)
        page.click(box["left"] + box["width"] / 2, box["top"] + box["height"] / 2)
        page.js("sound.pause()")
        assert page.js(f"chosen.number === Number(document.querySelector({what!r}).dataset.row)")
    page.open(folder / "timeline.html", 1280)
    page.js("lanes[0].svg.focus()")
    for key, chosen in [("ArrowRight", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("End", -1), ("ArrowRight", -1)]:
        page.press(key)
        assert page.js(f"chosen === lanes[0].own.at({chosen})"), key
    page.press("Enter")
    page.js("sound.pause()")
    assert page.js("now >= chosen.start && now < chosen.end")
    page.js("get('shown').value = 1; get('shown').dispatchEvent(new Event('change'))")
    page.settle()
    assert page.js("lanes[0].svg.querySelector('text').textContent") == "valence"
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith(("blob:", "file:"))] == []
