"""`ser app`: a page of this machine alone, to record or upload, see values over time, and enrol and forget people."""

import json
import os
import re
import secrets
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from typing_extensions import override

from ser_personal.annotation.annotate import DECIMALS, import_trusted, show
from ser_personal.errors import UserError
from ser_personal.files import BYTES_AT_ONCE
from ser_personal.recognition.profiles import SpeakerProfile
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.recognition.recordings import Recording, of_channels, with_turns
from ser_personal.recognition.turns import read_turns
from ser_personal.report.timeline import TEMPLATE as TIMELINE
from ser_personal.report.timeline import describe, find_sound, read_timelines, render
from ser_personal.types import Port, plain_name

TEMPLATE = Path(__file__).with_name("app.html.j2")
# a tunnel that leads here may have another port
LOOPBACK = "127.0.0.1"
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?", re.ASCII)
LARGEST_UPLOAD = 2**30
TURNS = (".rttm", ".textgrid", ".csv", ".tsv")
PAGE, TABLE, RECORDING = "timeline.html", "predictions.csv", "recording"
TEXT = "text/plain; charset=utf-8"
# nothing is fetched from elsewhere or framed by others, and no browser keeps a recording
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' blob: data:; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def app(
    bundle: str, profiles: str | None = None, port: Port = 8765, device: str | None = None, import_: str | None = None
) -> None:
    """Open a page that records or takes a recording, shows its values over time, and enrols and forgets people.

    Only this machine reaches the page (127.0.0.1), and only by the address that is printed. Recordings lie in a
    temporary folder until the command ends, by Ctrl-C.

    Args:
        bundle: a folder that `ser export` wrote, or the name of one on the Hugging Face hub.
        profiles: file of enrolled people, begun where there is none; if null, they are forgotten when the command ends.
        port: of the page's address; 0 is any that is free.
        device: to run on; a GPU where there is one, if null.
        import_: a module of your own with classes that the model is made of, in the current folder or installed.
    """
    import_trusted(import_)
    with Server(port) as server, TemporaryDirectory(prefix="ser-app-", ignore_cleanup_errors=True) as folder:
        recognizer = EmotionRecognizer.from_pretrained(bundle, profiles=profiles, device=device)
        if recognizer.bundle.emotions:
            what = f"predicts {', '.join(recognizer.bundle.emotions)}, which aren't calibrated to people"
            raise UserError(what, where=bundle, remedy="Use `ser annotate`, then `ser report` of its table")
        server.desk = Desk(recognizer, Path(folder))
        for ending in {"SIGTERM", "SIGHUP"} & set(dir(signal)):
            signal.signal(getattr(signal, ending), signal.default_int_handler)
        for line in (*server.desk.notes, f"open {server.address} (Ctrl-C ends it)"):
            show(line)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write("\nended; its recordings are deleted\n")


class Desk:
    """What the page can do, one thing at a time; recordings lie in `folder` while they are looked at."""

    def __init__(self, recognizer: EmotionRecognizer, folder: Path) -> None:
        self.recognizer, self.folder = recognizer, folder
        self._recordings: dict[str, list[Recording]] = {}
        self._lock = Lock()

    @property
    def notes(self) -> list[str]:
        """Notes on the bundle and the profiles, for the page and the terminal."""
        path = self.recognizer.profiles.path
        kept = f"kept in {path}" if path else "forgotten when this ends: --profiles FILE keeps them"
        notes = [f"people who are enrolled are {kept}"]
        if self.recognizer.calibrator is None:
            notes.append("values are raw: the bundle calibrates only people enrolled with labels")
        if self.recognizer.bundle.conformal is None:
            notes.append("there are no intervals: the bundle was exported without --corpus, which measures them")
        return notes

    @property
    def people(self) -> list[dict[str, Any]]:
        """The enrolled, as the page lists them, also by `ser enroll` meanwhile."""
        self.recognizer.profiles.reload()
        profiles = self.recognizer.profiles
        return [
            {"name": one, "utterances": profiles[one].utterances, "labelled": bool(profiles[one].labelled.count.any())}
            for one in profiles.ids
        ]

    def page(self) -> bytes:
        """The page itself."""
        state = {"people": self.people, "largest": LARGEST_UPLOAD, "turns": TURNS}
        return render(TEMPLATE, state=state, bundle=self.recognizer.bundle, notes=self.notes)

    def recognise(self, key: str, name: str, speaker: str | None, turns: Path | None, *, each: bool) -> dict[str, Any]:
        """Write the table and the page of the recording in the folder `key`, called `name`; profiles stay as they are.

        Speakers come from a file of turns, from `each` channel one, or all of it is of `speaker`, None where unknown.
        """
        import pandas as pd

        folder = self.folder / key
        sound = folder / RECORDING
        recordings = [Recording(name, sound, speaker)]
        if turns is not None:
            recordings = _with_turns(name, sound, turns)
        elif each:
            recordings = of_channels([Recording(name, sound)], "each")
        with self._lock:
            self.recognizer.profiles.reload()
            profiles: dict[str, SpeakerProfile] = {}
            found = self.recognizer.raw.each(recordings)
            rows = [row for outcome in found for row in self.recognizer.rows(outcome, profiles)]
        frame = pd.DataFrame(rows, columns=self.recognizer.columns_of(recordings))
        frame.round(DECIMALS).to_csv(folder / TABLE, index=False)
        (timeline,) = read_timelines(folder / TABLE)
        source, seconds, _ = find_sound(sound, folder / PAGE)
        # sound that isn't embedded is beside the page, here as where both were downloaded to
        playable = source if source.startswith("data:") else quote(name)
        table = f"{Path(name).stem}.csv"
        named = {"table": table, "source": quote(table), "index": ""}
        (folder / PAGE).write_bytes(render(TIMELINE, timeline=describe(timeline, seconds), sound=playable, **named))
        self._recordings[key] = recordings
        return {"key": key, "name": name, "speakers": list(dict.fromkeys(row["speaker"] for row in rows))}

    def enroll(self, key: str, speaker: str | None, name: str, *, agreed: bool) -> list[dict[str, Any]]:
        """Add what a speaker of a recording says to the profile of this name, if the person agreed."""
        if not agreed:
            what = "a profile holds a voice vector, which is biometric data"
            raise UserError(what, remedy="Ask the person, and tick that they agreed")
        with self._lock:
            own = []
            for recording in self._recordings.get(key, []):
                if speaker in recording.speaker_ids:
                    of_speaker = (turn for turn in recording.turns or () if turn.speaker_id == speaker)
                    turns = recording.turns and tuple(turn._replace(speaker_id=name) for turn in of_speaker)
                    own.append(replace(recording, speaker_id=name, turns=turns))
            if not own:
                raise UserError("nothing of this speaker is here", remedy="Show the recording again")
            self.recognizer.profiles.reload()
            self.recognizer.enroll_recordings(name, own)
            return self.people

    def forget(self, name: str) -> list[dict[str, Any]]:
        """Delete a profile, in the file as well."""
        with self._lock:
            self.recognizer.profiles.delete(name)
            return self.people


def _with_turns(name: str, sound: Path, turns: Path) -> list[Recording]:
    """The recording with the turns of a file, whatever they call it where they are of one alone."""
    found = read_turns(turns)
    called = name if len(found) > 1 else next(iter(found))
    (recording, *_) = with_turns([Recording(called, Path(called))], turns, named=True, each_channel=True)
    each = len({turn.channel for turn in recording.turns or ()} - {None}) > 1
    return of_channels([replace(recording, source=name, audio=sound)], "each" if each else "mix")


class Server(ThreadingHTTPServer):
    """Listens on this machine alone; `secret` in every path keeps its other users and web pages out."""

    # elsewhere it lets two programs have one port
    allow_reuse_address = os.name == "posix"
    desk: Desk

    def __init__(self, port: int) -> None:
        try:
            super().__init__((LOOPBACK, port), Handler)
        except OSError as error:
            what, remedy = f"can't be listened to ({error.strerror})", "Give another, or --port 0 for any that is free"
            raise UserError(what, where=f"port {port}", remedy=remedy) from error
        self.secret = secrets.token_urlsafe(12)

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.secret}/"

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers the page's requests, and no other page's."""

    server: Server
    timeout = 60
    # where the turns lie meanwhile, and what they were uploaded as
    _turns = ("", "")

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Keep the terminal quiet."""

    def do_GET(self) -> None:
        """Send the page, or a table, a timeline or the sound of a recording; of a POST, do what the page asks for."""
        try:
            respond = self._get if self.command == "GET" else self._post
            respond(self._path())
        except UserError as error:
            self._send(f"{error}".replace(*self._turns).encode(), TEXT, HTTPStatus.BAD_REQUEST)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001  the page shows the fault, and the next request is served
            line = " ".join(f"{type(error).__name__}: {error}".split())
            self._send(line.encode(), TEXT, HTTPStatus.INTERNAL_SERVER_ERROR)

    do_POST = do_GET  # noqa: N815  (as http.server calls it)

    def _path(self) -> str:
        """The path after the secret, of a request that this page made.

        A web site whose name was made to point here is found by the header Host, and its requests by their Origin.
        """
        host = self.headers.get("Host", "")
        another_page = self.command == "POST" and self.headers.get("Origin") != f"http://{host}"
        secret, _, path = urlsplit(self.path).path.removeprefix("/").partition("/")
        known = secrets.compare_digest(secret.encode(), self.server.secret.encode())
        if another_page or not known or not OWN_HOST.fullmatch(host):
            raise UserError("isn't asked for by this page", remedy="Open the address that `ser app` printed")
        return path

    def _get(self, path: str) -> None:
        if not path:
            self._send(self.server.desk.page(), "text/html; charset=utf-8")
            return
        key, _, name = path.partition("/")
        # no part of a path comes from the request
        folder = next((one for one in self.server.desk.folder.iterdir() if one.name == key), None)
        file = folder and folder / (name if name in {PAGE, TABLE} else RECORDING)
        if file is None or not file.is_file():
            raise UserError("no such page", remedy="Show the recording again, which is gone when `ser app` ends")
        kind = guess_type(name)[0] or "application/octet-stream"
        # of sound, a browser asks for the part to play
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(file.read_bytes(), kind)
            return
        size = file.stat().st_size
        first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
        with file.open("rb") as content:
            content.seek(first)
            part = content.read(max(0, last - first + 1))
        self._send(part, kind, HTTPStatus.PARTIAL_CONTENT, {"Content-Range": f"bytes {first}-{last}/{size}"})

    def _post(self, path: str) -> None:
        query = parse_qsl(urlsplit(self.path).query)
        asked = {name: plain_name(" ".join(value.split())) for name, value in query}
        if path == "recordings":
            answer: Any = self._recognise(asked)
        elif path == "enroll":
            named, agreed = asked.get("name", ""), asked.get("agreed") == "yes"
            answer = self.server.desk.enroll(asked.get("key", ""), asked.get("speaker"), named, agreed=agreed)
        elif path == "forget":
            answer = self.server.desk.forget(asked.get("name", ""))
        else:
            raise UserError(f"there is no {path!r}", remedy="Open the page again")
        self._send(json.dumps(answer).encode(), "application/json")

    def _recognise(self, asked: dict[str, str]) -> dict[str, Any]:
        size, of_turns = int(self.headers["Content-Length"]), int(asked.get("turns_bytes", 0))
        if size > LARGEST_UPLOAD:
            what = f"{size / 2**20:.0f} MB, and at most {LARGEST_UPLOAD / 2**20:.0f} MB are taken"
            raise UserError(what, remedy="Use `ser annotate`")
        key = secrets.token_urlsafe(12)
        folder = self.server.desk.folder / key
        folder.mkdir()
        try:
            ending = next((one for one in TURNS if asked.get("turns", "").lower().endswith(one)), ".txt")
            turns = folder / f"turns{ending}" if of_turns else None
            if turns is not None:
                self._turns = str(turns), asked.get("turns", "")
                self._keep(turns, of_turns)
            self._keep(folder / RECORDING, size - of_turns)
            # in a page's address, slashes would make a path of it
            name = re.sub(r"[/\\\0]", "_", asked.get("name", "")) or RECORDING
            each = asked.get("channel") == "each"
            return self.server.desk.recognise(key, name, asked.get("speaker"), turns, each=each)
        except BaseException:
            rmtree(folder)
            raise

    def _keep(self, file: Path, left: int) -> None:
        with file.open("wb") as content:
            while left > 0 and (block := self.rfile.read(min(left, BYTES_AT_ONCE))):
                content.write(block)
                left -= len(block)
        if left > 0:
            raise ConnectionAbortedError

    def _send(
        self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, more: Mapping[str, str] = HEADERS
    ) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **more, "Content-Type": kind, "Content-Length": f"{len(content)}"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
