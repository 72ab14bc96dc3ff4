"""`ser annotate`: the emotion of a file, a folder or a table of recordings, however many."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import ExitStack, closing
from dataclasses import asdict
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.numpy import load, save

from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.errors import UserError
from ser_personal.files import content_hash
from ser_personal.ranges import PositiveFinite
from ser_personal.recognition.bundle import CalibrationName
from ser_personal.recognition.profiles import SpeakerProfile
from ser_personal.recognition.raw import CHUNK_RECORDINGS, CHUNK_SECONDS
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.recognition.recordings import Recording, SpeakerFrom, chunks, find_recordings, with_turns
from ser_personal.recognition.segmenters import CutName, has_silero
from ser_personal.recognition.tables import check_format, check_stems, write_annotations, write_table, write_vectors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ser_personal.recognition.recognizer import Row

DECIMALS = 6
_TABLES = """
    PRAGMA locking_mode = EXCLUSIVE;
    BEGIN EXCLUSIVE;
    CREATE TABLE IF NOT EXISTS progress (done INTEGER NOT NULL, settings TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS rows (content TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS vectors (content BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS failures (file TEXT NOT NULL, reason TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS profiles (speaker TEXT PRIMARY KEY, content BLOB NOT NULL);
    COMMIT;
"""


class Journal:
    """What an annotation has done so far, in an SQLite file beside the output, from which it resumes.

    Args:
        path: of the file, which no other run may have open.
        settings: name -> value of all that decides what comes out; a run with others is refused.

    Attributes:
        done: how many recordings.
        profiles: of the speakers of these recordings.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path = path
        self.done = 0
        self.profiles: dict[str, SpeakerProfile] = {}
        self._settings = json.dumps(settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with ExitStack() as opened:
                self._database = opened.enter_context(closing(sqlite3.connect(path, timeout=0)))
                self._database.executescript(_TABLES)
                self._resume()
                self._opened = opened.pop_all()
        except (sqlite3.DatabaseError, ValueError) as error:
            raise UserError(
                f"can't be resumed ({error})",
                where=path,
                remedy="Wait for the run that writes it, or delete it to start from the first recording",
            ) from error

    def _resume(self) -> None:
        for done, content in self._database.execute("SELECT done, settings FROM progress"):
            before = json.loads(content)
            differing = [name for name, value in json.loads(self._settings).items() if before.get(name) != value]
            if differing:
                raise UserError(
                    f"is of an interrupted run with another {differing[0]}",
                    where=self.path,
                    remedy="Repeat that run's command to resume it, or delete this file",
                )
            self.done = done
        for speaker_id, content in self._database.execute("SELECT speaker, content FROM profiles"):
            self.profiles[speaker_id] = SpeakerProfile.from_arrays(load(content))

    def add(
        self,
        recordings: Sequence[Recording],
        rows: Sequence[Row],
        failures: Sequence[tuple[str, str]],
        vectors: Sequence[bytes] = (),
    ) -> None:
        """Add what became of the next recordings, and their speakers' profiles: all of it or nothing."""
        speakers = {row["speaker"] for row in rows}
        kept = [
            (one, save(self.profiles[one].arrays())) for one in speakers if one is not None and one in self.profiles
        ]
        lines = [(json.dumps(row, ensure_ascii=False, allow_nan=False),) for row in rows]
        with self._database as database:
            database.executemany("INSERT INTO rows VALUES (?)", lines)
            database.executemany("INSERT INTO vectors VALUES (?)", [(vector,) for vector in vectors])
            database.executemany("INSERT INTO failures VALUES (?, ?)", failures)
            database.executemany("INSERT OR REPLACE INTO profiles VALUES (?, ?)", kept)
            database.execute("DELETE FROM progress")
            database.execute("INSERT INTO progress VALUES (?, ?)", (self.done + len(recordings), self._settings))
        self.done += len(recordings)

    def rows(self) -> Iterator[Row]:
        """All rows, one after the other."""
        for (content,) in self._database.execute("SELECT content FROM rows ORDER BY rowid"):
            yield json.loads(content)

    def vectors(self) -> Iterator[bytes]:
        """Of each row its utterance's vector, float32, where the run keeps them."""
        for (content,) in self._database.execute("SELECT content FROM vectors ORDER BY rowid"):
            yield content

    def failures(self) -> list[dict[str, str]]:
        """All failures: file and reason."""
        found = self._database.execute("SELECT file, reason FROM failures ORDER BY rowid")
        return [{"file": file, "reason": reason} for file, reason in found]

    def close(self) -> None:
        """Let another run open the file."""
        self._opened.close()


def annotate(
    audio: str,
    model: str,
    out: str,
    speaker_from: SpeakerFrom | None = None,
    segments: str | None = None,
    cut: CutName = "speech",
    window_seconds: PositiveFinite = 5.0,
    hop_seconds: PositiveFinite | None = None,
    calibration: CalibrationName | None = None,
    pldc: PLDCSettings | None = None,
    profiles: str | None = None,
    device: str | None = None,
    import_: str | None = None,
    vectors: str | None = None,
    *,
    calibrate: bool = True,
    training_speakers: bool = False,
) -> int:
    """Predict arousal, valence and dominance of recordings, calibrated to each of their speakers.

    A run that was interrupted resumes when its command is repeated. Recordings that fail are listed in NAME.failed.csv
    beside the output; the others are done.

    Args:
        audio: a sound file, a folder (with the folders inside it), or a table with a column path, and with start and
            end (seconds or h:mm:ss) where rows are segments.
        model: a folder that `ser export` wrote, or the name of one on the Hugging Face hub.
        out: file to write, which appears once it is complete: a table (.csv, .parquet, .jsonl), a Praat .TextGrid with
            a tier for each speaker and attribute, or labels for Audacity (.txt). Of several recordings, the last two
            are folders with a file for each.
        speaker_from: who speaks: the name of the `folder` that a file lies in, the table's `column` speaker, or `none`,
            which also leaves the output's speaker column empty; if null, the segments' speakers, or none without
            --segments. A speaker's recordings count in the order of their paths, or of the table.
        segments: who speaks when: an RTTM file, a Praat TextGrid (a tier of intervals a speaker), or a folder of them
            called as the recordings. Speakers whom a diariser numbered are new ones in each recording. Turns longer
            than the training's utterances are cut; those under a second, and overlapping ones, are marked.
        cut: how long recordings are cut: by `speech` (`silero`, or `energy` where silero-vad isn't installed), or into
            `windows`, which turns are cut into as well.
        window_seconds: of a window.
        hop_seconds: from the beginning of a window to that of the next, for values at a steady rate; `window_seconds`
            if null. Each window counts as an utterance of its speaker.
        calibration: `pldc`, `posterior` or `none`; as the bundle says if null.
        pldc: settings of PLDC, which then calibrates unless another is named; the bundle's if null.
        profiles: file of enrolled speakers, to start from and to add to.
        device: to run on; a GPU where there is one, if null.
        import_: a module of your own with classes that the model is made of, in the current folder or installed.
        vectors: file to write the utterances' vectors to, which PLDC compares voices by: .npz with the arrays file,
            start, end, speaker and vectors (utterances, dim), in the order of the table.
        calibrate: false leaves all predictions raw.
        training_speakers: speakers are those of the training corpus, whose embeddings are then used.

    Returns:
        1 where a recording failed, else 0.

    Raises:
        UserError: there is nothing to annotate or to annotate with, or the output exists already.
    """
    target, console = Path(out), Console()
    check_format(target)
    if vectors is not None and Path(vectors).suffix != ".npz":
        raise UserError("doesn't end in .npz", where=f"--vectors {vectors}", remedy="Give a name that does")
    partial = target.with_name(f"{target.name}.partial")
    for flag, file in (("--out", target), ("--vectors", Path(vectors or target))):
        if file.exists() and not partial.exists():
            raise UserError("exists already", where=file, remedy=f"Delete it, or give {flag} another name")
    if segments is not None and speaker_from in ("folder", "column"):
        remedy = "Leave --speaker_from out, or give none"
        raise UserError("the segments say who speaks", where=f"--speaker_from {speaker_from}", remedy=remedy)
    recordings = find_recordings(Path(audio), speaker_from or "none")
    if segments is not None:
        recordings = with_turns(recordings, Path(segments), named=speaker_from is None)
    check_stems(target, recordings)
    if import_ is not None:
        _import(import_)
    recognizer = EmotionRecognizer.from_pretrained(
        model,
        profiles=profiles,
        calibration=calibration,
        pldc=pldc,
        cut=cut,
        window_seconds=window_seconds,
        hop_seconds=hop_seconds,
        training_speakers=training_speakers,
        device=device,
    )
    recognizer.check_calibrates(recordings, calibrate=calibrate)
    cutter = ("silero" if has_silero() else "energy") if cut == "speech" else cut
    columns = recognizer.columns_of(recordings)
    settings = {
        "columns": columns,
        "model": recognizer.bundle.model,
        "list of recordings": content_hash(
            *(f"{(recording.source, recording.speaker_id, recording.turns)}" for recording in recordings)
        ),
        "cut": [cutter, window_seconds, hop_seconds],
        "calibration": [calibrate, calibration, asdict(pldc or recognizer.bundle.pldc)],
        "training_speakers": training_speakers,
        "vectors": vectors is not None,
    }
    with closing(Journal(partial, settings)) as journal:
        _print(console, _opening(recordings, journal.done, cutter))
        if calibrate and recognizer.calibrator is None:
            _print(console, "no speaker is calibrated: the bundle or the command says so (--calibration)")
        flags = {"calibrate": calibrate, "keep_vectors": vectors is not None}
        seconds, audio_seconds = _run(recognizer, recordings, journal, console, **flags)
        if vectors is not None:
            write_vectors(Path(vectors), journal.rows(), journal.vectors())
        write_annotations(target, journal.rows(), columns, recognizer.attributes, recordings)
        failures = journal.failures()
        failed = target.with_name(f"{target.stem}.failed.csv")
        failed.unlink(missing_ok=True)
        if failures:
            write_table(failed, failures, ["file", "reason"])
        recognizer.keep(journal.profiles)
    partial.unlink()
    for failure in failures:
        _print(console, f"failed: {failure['file']}: {failure['reason']}")
    speed = f": {audio_seconds / seconds:.0f} audio-seconds a second" if audio_seconds else ""
    _print(console, f"{audio_seconds:.0f} s of audio in {seconds:.1f} s{speed}")
    failed_line = f"{len(failures)} recordings failed, see {failed}"
    lines = [f"written: {target}"] * target.exists() + [failed_line] * bool(failures)
    _print(console, "; ".join(lines))
    return int(bool(failures))


def _import(module: str) -> None:
    try:
        import_module(module)
    except ImportError as error:
        remedy = "Run the command in the folder that it lies in, or install it"
        raise UserError(f"can't be imported ({error})", where=f"--import {module}", remedy=remedy) from error


def _run(
    recognizer: EmotionRecognizer,
    recordings: Sequence[Recording],
    journal: Journal,
    console: Console,
    *,
    calibrate: bool,
    keep_vectors: bool,
) -> tuple[float, float]:
    """Annotate what the journal lacks; seconds that it took and seconds of audio."""
    started, audio_seconds = time.perf_counter(), 0.0
    columns = (
        TextColumn("annotating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(recordings), completed=journal.done)
        for chunk in chunks(recordings[journal.done :], CHUNK_SECONDS, CHUNK_RECORDINGS):
            rows: list[Row] = []
            failures: list[tuple[str, str]] = []
            vectors: list[bytes] = []
            for recording, outcome in zip(chunk, recognizer.raw.together(chunk), strict=True):
                if isinstance(outcome, UserError):
                    failures.append((recording.source, " ".join(outcome.what.split())))
                    continue
                audio_seconds += outcome.seconds
                rows += map(_rounded, recognizer.rows(outcome, journal.profiles, calibrate=calibrate))
                if keep_vectors:
                    vectors += [vector.astype("float32").tobytes() for vector in outcome.pooled]
            journal.add(chunk, rows, failures, vectors)
            speed = audio_seconds / (time.perf_counter() - started)
            progress.update(task, advance=len(chunk), description=f"{speed:.0f} audio-seconds a second")
    return time.perf_counter() - started, audio_seconds


def _opening(recordings: Sequence[Recording], done: int, cutter: str) -> str:
    speakers = len(set().union(*(recording.speaker_ids for recording in recordings)) - {None})
    who = f"{speakers} speakers" if speakers else "no speakers, so nothing is calibrated (--speaker-from)"
    resumed = f"; resuming after {done}" if done else ""
    return f"{len(recordings)} recordings, {who}; long ones are cut by {cutter}{resumed}"


def _rounded(row: Row) -> Row:
    """Float32 holds no more digits than these, and JSON no NaN."""
    return {
        name: (round(value, DECIMALS) if isfinite(value) else None) if isinstance(value, float) else value
        for name, value in row.items()
    }


def _print(console: Console, line: str) -> None:
    """Print one line, whatever a file's name holds: newlines, or what a terminal would obey."""
    plain = "".join(repr(sign)[1:-1] if category(sign) == "Cc" else sign for sign in " ".join(line.split()))
    console.print(plain, markup=False, highlight=False, soft_wrap=True)
