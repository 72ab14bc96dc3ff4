import json
import re
import socket
from http.client import HTTPConnection
from io import StringIO
from threading import Thread
from urllib.parse import quote, urlencode

import numpy as np
import pandas as pd
import pytest
import soundfile
from browser import chromium, needs_chromium
from command_line import ser
from turn_files import VALUES, rttm, spoken_by_turns

from ser_personal import EmotionRecognizer
from ser_personal.annotation import app as module
from ser_personal.annotation.app import Desk, Server
from ser_personal.recognition.profiles import SpeakerProfiles

INSIDE = "get('timeline').contentDocument"


class Client:
    """Asks as the page does, unless told otherwise."""

    def __init__(self, server):
        self.server, self.base = server, f"/{server.secret}/"
        self.host = f"127.0.0.1:{server.server_port}"

    def __call__(self, method, path, body=None, base=None, **headers):
        given = {"Host": self.host, "Origin": f"http://{self.host}", "Content-Length": len(body or b"")} | headers
        connection = HTTPConnection("127.0.0.1", self.server.server_port, timeout=60)
        given = {name: str(value) for name, value in given.items() if value is not None}
        connection.request(method, (self.base if base is None else base) + path, body, given)
        answer = connection.getresponse()
        self.headers, content = answer.headers, answer.read()
        connection.close()
        return answer.status, content

    def upload(self, path, *, name=None, turns=None, **parameters):
        if turns is not None:
            parameters |= {"turns": turns.name, "turns_bytes": turns.stat().st_size}
        body = (turns.read_bytes() if turns else b"") + path.read_bytes()
        return self.do("recordings", body, name=name or path.name, **parameters)

    def get(self, path=""):
        status, content = self("GET", path)
        assert status == 200
        return content.decode()

    def table(self, key):
        return pd.read_csv(StringIO(self.get(f"{key}/predictions.csv")), dtype={"speaker": str})

    def do(self, what, body=b"", **parameters):
        status, content = self("POST", f"{what}?{urlencode(parameters)}", body)
        return status, json.loads(content) if status == 200 else content.decode()


@pytest.fixture
def own(bundle, tmp_path):
    """A recognizer whose profiles are in a file."""
    profiles = SpeakerProfiles(bundle.model, tmp_path / "people.safetensors")
    return EmotionRecognizer(bundle, profiles=profiles, device="cpu")


@pytest.fixture
def client(own, tmp_path):
    (tmp_path / "recordings").mkdir()
    with Server(0) as server:
        server.desk = Desk(own, tmp_path / "recordings")
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


@pytest.fixture
def files(conversation, tmp_path):
    """A conversation, its turns, and a call with the two on a channel each."""
    turns, recordings = conversation
    (tmp_path / "other name.rttm").write_text(rttm(turns))
    sound, _ = spoken_by_turns(recordings, ["anna", "Борис"])
    soundfile.write(tmp_path / "call.wav", sound, 16_000, subtype="FLOAT")
    return tmp_path


def test_the_table_is_what_the_recognizer_predicts(client, files, recognizer, conversation):
    turns, _ = conversation
    meeting, segments = files / "meeting.wav", [tuple(turn) for turn in turns]
    expected = [({"speaker": "anna"}, recognizer.predict(meeting, "anna")), ({}, recognizer.predict(meeting))]
    expected += [({"turns": files / "other name.rttm"}, recognizer.predict(meeting, segments=segments))]
    for asked, frame in expected:
        status, shown = client.upload(meeting, name="../é meeting.wav", **asked)
        assert (status, shown["name"]) == (200, ".._é meeting.wav"), shown
        found = client.table(shown["key"])
        frame["file"] = shown["name"]
        found["speaker"] = found["speaker"].astype(object).where(found["speaker"].notna(), None)
        pd.testing.assert_frame_equal(found, frame.round(6), check_dtype=False)
        assert shown["speakers"] == list(dict.fromkeys(frame["speaker"]))
        assert 'id="data">' in client.get(f"{shown['key']}/timeline.html")
    _, shown = client.upload(files / "call.wav", channel="each")
    by_channel = recognizer.predict(files / "call.wav", channel="each")
    np.testing.assert_allclose(client.table(shown["key"])[VALUES], by_channel[VALUES], atol=1e-6)
    assert shown["speakers"] == ["call/left", "call/right"]
    assert client.server.desk.people == []


def test_people_are_enrolled_with_their_consent_and_forgotten_in_the_file(client, files, own, recognizer, conversation):
    _, shown = client.upload(files / "meeting.wav", turns=files / "other name.rttm")
    who = {"key": shown["key"], "speaker": "Борис", "name": "Boris B"}
    for answer in ({}, {"agreed": "no"}):
        status, line = client.do("enroll", **who, **answer)
        assert (status, "Ask the person, and tick that they agreed." in line) == (400, True)
    assert not own.profiles.path.exists()
    people = [{"name": "Boris B", "utterances": 3, "labelled": False}]
    assert [client.do("enroll", **who, agreed="yes") for _ in range(2)] == [(200, people)] * 2
    recognizer.enroll("x", conversation[1][1::2])
    saved = SpeakerProfiles(own.bundle.model, own.profiles.path)
    np.testing.assert_allclose(saved["Boris B"].vector, recognizer.profiles["x"].vector, atol=1e-4)
    # what is said next starts from there, and looking adds nothing
    before = own.profiles["Boris B"].utterances
    _, again = client.upload(files / "meeting.wav", speaker="Boris B")
    assert client.table(again["key"])["calibration_utterances"].iloc[0] == before + 1
    assert own.profiles["Boris B"].utterances == before
    assert client.do("forget", name="Boris B") == (200, [])
    assert "Boris" not in own.profiles.path.read_bytes().decode("latin-1")
    assert client.do("forget", name="Boris B")[0] == 400


def test_whom_a_command_enrols_meanwhile_is_known(client, files, own):
    elsewhere = SpeakerProfiles(own.bundle.model, own.profiles.path)
    EmotionRecognizer(own.bundle, profiles=elsewhere, device="cpu").enroll("carla", files / "meeting.wav")
    assert "carla" in client.get()
    _, shown = client.upload(files / "meeting.wav", speaker="carla")
    assert client.table(shown["key"])["calibration_utterances"].iloc[0] == elsewhere["carla"].utterances


def test_a_bundle_without_a_bank_shows_raw_values_and_says_so(client, files, bundle):
    assert "Values are raw" not in client.get()
    client.server.desk.recognizer = EmotionRecognizer(bundle, calibration="none", device="cpu")
    _, shown = client.upload(files / "meeting.wav", speaker="anna")
    frame = client.table(shown["key"])
    np.testing.assert_array_equal(frame["arousal_raw"], frame["arousal_calibrated"])
    assert "Values are raw" in client.get()


def test_what_is_not_the_pages_own_is_refused(client, tmp_path):
    changes = [{"Host": "evil.example:80", "Origin": "http://evil.example:80"}, {"Host": ""}, {"Host": "["}]
    changes += [{"Origin": "http://evil.example"}, {"Origin": None}, {"base": "/"}, {"base": "/wrong/"}]
    for change in changes:
        status, line = client("POST", "recordings?name=a.wav", **change)
        assert (status, b"isn't asked for by this page" in line) == (400, True), change
    assert b"at most 1024 MB" in client("POST", "recordings?name=a.wav", **{"Content-Length": 2**30 + 1})[1]
    assert list((tmp_path / "recordings").iterdir()) == []
    # another tunnel may lead here
    assert client("GET", "", Host="localhost:9999")[0] == 200
    policy = "default-src 'self' 'unsafe-inline' blob: data:; frame-ancestors 'self'"
    assert (client.headers["Cache-Control"], client.headers["Content-Security-Policy"]) == ("no-store", policy)
    (tmp_path / "people.safetensors").write_bytes(b"kept")
    for path in ("../people.safetensors", "..%2f..%2fx/y", "nowhere/x"):
        assert client("GET", path)[0] == 400


def test_what_cannot_be_recognised_is_one_line(client, files, monkeypatch):
    sound, good = files / 'a "b".wav', (files / "meeting.wav").read_bytes()
    for content, name, text, line in (
        (b"no sound", None, "", 'a "b".wav: can\'t be decoded (Format not recognised)'),
        (good, "x.rttm", "SPEAKER a 1 0.5", "x.rttm, line 1: isn't RTTM"),
        (good, "x.csv", "file,start,end,speaker\na,0,1,x\nb,0,1,y\n", "has no turns in"),
    ):
        sound.write_bytes(content)
        turns = name and files / name
        if turns:
            turns.write_text(text)
        status, said = client.upload(sound, turns=turns)
        assert (status, "\n" in said, line in said, str(files) in said) == (400, False, True, False), said
    # nor does a fault of ours keep the next request from an answer
    monkeypatch.setattr(module, "read_timelines", lambda _: 1 / 0)
    assert client.upload(files / "meeting.wav") == (500, "ZeroDivisionError: division by zero")
    assert list((files / "recordings").iterdir()) == []
    monkeypatch.undo()
    assert client.upload(files / "meeting.wav")[0] == 200


def test_long_sound_is_played_from_here(client, files, monkeypatch):
    monkeypatch.setattr("ser_personal.report.timeline.EMBEDDED_SECONDS", 1)
    name = "é #1.wav"
    _, shown = client.upload(files / "meeting.wav", name=name)
    assert f'id="source">"{quote(name)}"<' in client.get(f"{shown['key']}/timeline.html")
    content = (files / "meeting.wav").read_bytes()
    assert client("GET", f"{shown['key']}/{quote(name)}") == (200, content)
    for asked, part in (("bytes=0-", content), ("bytes=10-19", content[10:20]), ("bytes=99999999-", b"")):
        assert client("GET", f"{shown['key']}/{quote(name)}", Range=asked) == (206, part)
    assert client.headers["Content-Type"].startswith("audio/")


def test_the_command_ends_with_nothing_left(bundle_folder, tmp_path, monkeypatch, capsys):
    folders = []

    def stopped(server):
        folders.append(server.desk.folder)
        assert folders[0].is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", stopped)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    people = tmp_path / "people.safetensors"
    assert ser("app", bundle_folder, "--port", 0, "--profiles", people, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert re.search(r"open http://127\.0\.0\.1:\d+/[\w-]{16}/ \(Ctrl-C ends it\)\n", said)
    assert f"are kept in {people}\n" in said
    assert not folders[0].exists()
    assert not people.exists()


def test_a_port_in_use_is_one_line(mistake):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = mistake("app", "no bundle", "--port", port)
    assert line.startswith(f"ser: port {port}: can't be listened to (Address already in use)")


@pytest.fixture
def page(tmp_path_factory, recordings):
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    sound = f"--use-file-for-fake-audio-capture={recordings[0]}"
    with chromium(tmp_path_factory.mktemp("browser"), *fake, sound) as page:
        yield page


def choose(page, selector, path):
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
    page.settle()


def wait(page, condition):
    page.js(f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 20); look(); }})")


def click(page, selector):
    box = page.box(selector)
    page.click(box["left"] + box["width"] / 2, box["top"] + box["height"] / 2)


def see(page):
    before = page.js("get('timeline').src")
    click(page, "#go")
    wait(page, f"get('status').textContent.includes(': ') || get('timeline').src !== {before!r}")
    assert page.js("get('status').textContent") == ""
    wait(page, f"{INSIDE}?.URL === get('timeline').src && {INSIDE}.querySelector('.lane path')")
    # 8 pixels of room, and what is rounded
    wait(page, f"Math.abs(get('timeline').clientHeight - {INSIDE}.body.clientHeight - 8) < 2")


@needs_chromium
def test_the_page_from_recording_to_forgetting(page, client, files, own):
    for width in (390, 1280):
        page.open(client.server.address, width)
        choose(page, "#turns", files / "other name.rttm")
        choose(page, "#file", files / "meeting.wav")
        see(page)
        assert page.js("document.documentElement.scrollWidth") <= width
    assert page.js(f"[...{INSIDE}.querySelectorAll('h3 span')].map(one => one.textContent)") == ["anna", "Борис"]
    assert page.js("[get('table').download, get('page').download]") == ["meeting.csv", "meeting.html"]
    page.js("get('as').value = 'Anna A'")
    click(page, "#enroll button")
    wait(page, "get('enrolled').textContent.includes('tick that they agreed')")
    click(page, "#agreed")
    click(page, "#enroll button")
    wait(page, "get('people').textContent.includes('3 utterances')")
    assert own.profiles.ids == ["Anna A"]
    page.js("document.querySelector('[value=one]').click()")
    page.js("get('speaker').value = 'Anna A'")
    click(page, "#record")
    wait(page, "get('what').textContent.startsWith('0:02')")
    click(page, "#record")
    wait(page, "get('what').textContent.endsWith('.wav, 0:02') && !get('go').disabled")
    see(page)
    assert page.js(f"{INSIDE}.querySelector('h3 span').textContent") == "Anna A"
    click(page, "#people button")
    assert own.profiles.ids == ["Anna A"]
    click(page, "#people button")
    wait(page, "get('people').textContent === 'Nobody is enrolled.'")
    assert own.profiles.ids == []
    assert page.errors[1:] == []  # the first is the status of the refused enrolment
    assert [url for url in page.requests if not url.startswith((client.server.address, "blob:", "data:"))] == []
