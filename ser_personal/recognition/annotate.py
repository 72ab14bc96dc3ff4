"""`ser annotate`: the emotion of a file, a folder or a table of recordings, however many."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from dataclasses import asdict
from hashlib import blake2b
from importlib.util import find_spec
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from unicodedata import category

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.errors import UserError
from ser_personal.files import atomic_write, content_hash
from ser_personal.pseudonyms import asked_key, pseudonym
from ser_personal.recognition.bundle import CalibrationName
from ser_personal.recognition.profiles import SpeakerProfiles
from ser_personal.recognition.recognizer import CHUNK_RECORDINGS, CHUNK_SECONDS, EmotionRecognizer, Row
from ser_personal.recognition.recordings import CutName, Recording, SpeakerFrom, chunks, find_recordings, has_silero

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ser_personal.recognition.profiles import SpeakerProfile
    from ser_personal.recognition.recognizer import Row
    from ser_personal.recognition.recordings import Recording

LINES = "lines.jsonl"
PROGRESS = "progress.json"


class Journal:
    """Rows and failures so far, in a folder beside the output, and the speakers' profiles as they were after them.

    Lines count once progress.json says so, which is replaced in one go after them: whatever a killed run wrote beyond
    is cut off.

    Args:
        folder: beside the output.
        model: names the model that the profiles are of.
        settings: what the run was asked for.
    """

    def __init__(self, folder: Path, model: str, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.model = model
        self.settings = settings
        self.done = 0
        self.profiles: dict[str, SpeakerProfile] = {}
        self._bytes = 0

    @classmethod
    def open(cls, folder: Path, model: str, settings: dict[str, Any]) -> Self:
        """Start a journal, or go on with the one that lies there.

        Raises:
            UserError: the one there was asked for something else.
        """
        journal = cls(folder, model, settings)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / PROGRESS).is_file():
            journal._go_on()
        with (folder / LINES).open("ab") as file:
            file.truncate(journal._bytes)
        return journal

    def _go_on(self) -> None:
        progress = _progress(self.folder / PROGRESS)
        differing = [name for name, value in self.settings.items() if progress["settings"].get(name) != value]
        if differing:
            raise UserError(
                f"is of a run that was broken off with another {differing[0]}",
                where=self.folder,
                remedy="Repeat that run's command to go on with it, or delete this folder",
            )
        if (self.folder / LINES).stat().st_size < progress["bytes"]:
            return
        self.done, self._bytes = progress["done"], progress["bytes"]
        kept = SpeakerProfiles.open(self.model, self._profiles_path(self.done))
        self.profiles = {speaker_id: kept[speaker_id] for speaker_id in kept}

    def add(self, rows: Sequence[Row], failures: Sequence[tuple[str, str]], recordings: int) -> None:
        """Add what became of some recordings, rows and (source, reason) of failures, and `profiles` as they are now."""
        lines: list[dict[str, Any]] = [{"row": row} for row in rows]
        lines += [{"failed": {"source": source, "reason": reason}} for source, reason in failures]
        content = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines).encode()
        with (self.folder / LINES).open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        before = self._profiles_path(self.done)
        self.done += recordings
        self._bytes += len(content)
        profiles = SpeakerProfiles(self.model)
        profiles.update(self.profiles)
        profiles.save(self._profiles_path(self.done))
        progress = {"settings": self.settings, "done": self.done, "bytes": self._bytes}
        atomic_write(self.folder / PROGRESS, json.dumps(progress, ensure_ascii=False).encode())
        before.unlink(missing_ok=True)

    def rows(self) -> Iterator[Row]:
        """All rows so far, one after the other."""
        return (line["row"] for line in self._lines() if "row" in line)

    def failures(self) -> list[dict[str, str]]:
        """All failures so far: source and reason."""
        return [line["failed"] for line in self._lines() if "failed" in line]

    def delete(self) -> None:
        """Remove the folder, once its content stands in the output."""
        shutil.rmtree(self.folder)

    def _lines(self) -> Iterator[dict[str, Any]]:
        with (self.folder / LINES).open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield json.loads(line)

    def _profiles_path(self, done: int) -> Path:
        return self.folder / f"profiles.{done}.safetensors"


def _progress(path: Path) -> dict[str, Any]:
    try:
        match json.loads(path.read_text(encoding="utf-8")):
            case {"settings": dict(settings), "done": int(done), "bytes": int(size)}:
                return {"settings": settings, "done": done, "bytes": size}
    except ValueError as error:
        raise _damaged(path) from error
    raise _damaged(path)


def _damaged(path: Path) -> UserError:
    remedy = "Delete its folder, and the recordings are annotated from the first again"
    return UserError("doesn't say how far an annotation has come", where=path, remedy=remedy)


ROWS_AT_ONCE = 10_000
_TEXT = ("source", "speaker")
_COUNTS = ("calibration_utterances",)


def check_format(path: Path) -> None:
    """Refuse a name that says no format, or one whose library is missing.

    Raises:
        UserError: so it is.
    """
    if path.suffix.lower() not in _WRITERS:
        raise UserError(
            f"ends in {path.suffix!r}", where=path, remedy=f"Choose a name that ends in {', '.join(_WRITERS)}"
        )
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise UserError(
            "needs the package pyarrow", where=path, remedy="`pip install pyarrow`, or choose .csv or .jsonl"
        )


def write_table(path: Path, rows: Iterable[Row | dict[str, str]], columns: Sequence[str]) -> None:
    """Write rows one after the other, the whole file or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _WRITERS[path.suffix.lower()](temporary, rows, columns)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_csv(path: Path, rows: Iterable[Row | dict[str, str]], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _write_json_lines(path: Path, rows: Iterable[Row | dict[str, str]], _columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _write_parquet(path: Path, rows: Iterable[Row | dict[str, str]], columns: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def kind(column: str) -> Any:
        if column in _TEXT:
            return pa.string()
        return pa.int64() if column in _COUNTS else pa.float64()

    schema = pa.schema([(column, kind(column)) for column in columns])
    remaining = iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(remaining, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


_WRITERS: dict[str, Callable[[Path, Iterable[Row | dict[str, str]], Sequence[str]], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}


class ShownNames(NamedTuple):
    """Names of one recording.

    Attributes:
        source: of the recording.
        speaker: None where unknown.
    """

    source: str
    speaker: str | None


def shown_names(recording: Recording, key: bytes | None) -> ShownNames:
    """Name a recording and its speaker: as they are called, or where there is a key by pseudonyms.

    All of a path is hashed: a speaker's name may stand in any folder of it, and in the file's own name.
    """
    if key is None:
        return ShownNames(recording.source, recording.speaker_id)
    speaker = None if recording.speaker_id is None else pseudonym(key, recording.speaker_id)
    return ShownNames(pseudonym(key, recording.source, "recording"), speaker)


def in_order_of_names(recordings: Sequence[Recording], key: bytes) -> list[Recording]:
    """Sort recordings by pseudonym, for the order of paths gives speakers away; a speaker's own stay in theirs."""

    def place(recording: Recording) -> str:
        shown = shown_names(recording, key)
        return shown.speaker or shown.source

    return sorted(recordings, key=place)


DECIMALS = 6


def annotate(
    audio: str,
    model: str,
    out: str,
    speaker_from: SpeakerFrom = "none",
    cut: CutName = "speech",
    window_seconds: float = 5.0,
    calibration: CalibrationName | None = None,
    pldc: PLDCSettings | None = None,
    profiles: str | None = None,
    device: str | None = None,
    key: str | None = None,
    *,
    calibrate: bool = True,
    training_speakers: bool = False,
    anonymise: bool = False,
) -> int:
    """Predict arousal, valence and dominance of recordings, calibrated to each of their speakers.

    A run that was broken off goes on where it was when its command is repeated. Recordings that fail are listed in
    NAME.failed.csv beside the output; the others are done.

    Args:
        audio: a sound file, a folder (with the folders inside it), or a .csv table with a column path.
        model: a folder that `ser export` wrote, or the name of one on the Hugging Face hub.
        out: file to write, .csv, .jsonl or .parquet; it appears once it is whole.
        speaker_from: who speaks: the name of the `folder` that a file lies in, the table's `column` speaker, or `none`.
            A speaker's recordings count in the order of their paths, or of the table.
        cut: how long recordings are cut: by `speech` (`silero`, or `energy` where silero-vad isn't installed), or into
            `windows`.
        window_seconds: of a window.
        calibration: `pldc`, `posterior` or `none`; as the bundle says if null.
        pldc: settings of PLDC, which then calibrates unless another is named; the bundle's if null.
        profiles: file of enrolled speakers, to go on from and to add to.
        device: to run on; a GPU where there is one, if null.
        key: file of the secret behind the pseudonyms, made where it is missing: NAME.key beside the output if null.
            Keep it back: whoever has it can tell who is who. Give the one of another table or of `ser report` and a
            speaker has the same name in both.
        calibrate: false leaves all predictions raw.
        training_speakers: speakers are those of the training corpus, whose embeddings are then used.
        anonymise: put pseudonyms in the place of names in the output and in the list of failures, in the order of the
            pseudonyms. A source is `recording_` and a hash, for its folders and its own name may tell who speaks.
            Profiles, and NAME.partial of a run that was broken off, have the real names, to go on by: keep them back.
            So has the screen, which names the recordings that failed.

    Returns:
        1 where a recording failed, else 0.

    Raises:
        UserError: there is nothing to annotate or to annotate with, the output is there already, or the file holds no
            key.
    """
    target, console = Path(out), Console()
    check_format(target)
    partial = target.with_name(f"{target.name}.partial")
    if target.exists() and not partial.exists():
        raise UserError("is there already", where=target, remedy="Delete it, or give --out another name")
    recordings = find_recordings(Path(audio), speaker_from)
    recognizer = EmotionRecognizer.from_pretrained(
        model,
        profiles=profiles,
        calibration=calibration,
        pldc=pldc,
        cut=cut,
        window_seconds=window_seconds,
        training_speakers=training_speakers,
        device=device,
    )
    recognizer.check_calibrates(recordings, calibrate=calibrate)
    key_file = target.with_name(f"{target.stem}.key")
    secret = asked_key(key, key_file, anonymise=anonymise)
    if secret is not None:
        recordings = in_order_of_names(recordings, secret)
    cutter = ("silero" if has_silero() else "energy") if cut == "speech" else cut
    settings = {
        "model": recognizer.bundle.model,
        "--anonymise or --key": None if secret is None else blake2b(secret, digest_size=16).hexdigest(),
        "list of recordings": _hash(recordings),
        "cut": [cutter, window_seconds],
        "calibration": [calibrate, calibration, asdict(pldc or recognizer.bundle.pldc)],
        "training_speakers": training_speakers,
    }
    journal = Journal.open(partial, recognizer.bundle.model, settings)
    _say(console, _opening(recordings, journal.done, cutter))
    if calibrate and recognizer.calibrator is None:
        _say(console, "nobody is calibrated: the bundle or the command says so (--calibration)")
    seconds, audio_seconds = _run(recognizer, recordings, journal, console, secret, calibrate=calibrate)
    write_table(target, journal.rows(), recognizer.columns)
    failures = journal.failures()
    failed = target.with_name(f"{target.stem}.failed.csv")
    failed.unlink(missing_ok=True)
    if failures:
        write_table(failed, failures, ["source", "reason"])
    recognizer.keep(journal.profiles)
    journal.delete()
    source_of = {shown_names(recording, secret).source: recording.source for recording in recordings}
    for failure in failures:
        _say(console, f"failed: {source_of[failure['source']]}: {failure['reason']}")
    speed = f": {audio_seconds / seconds:.0f} audio-seconds a second" if audio_seconds else ""
    _say(console, f"{audio_seconds:.0f} s of audio in {seconds:.1f} s{speed}")
    _say(console, f"written: {target}" + (f"; {len(failures)} recordings failed, see {failed}" if failures else ""))
    if secret is not None:
        _say(console, f"keep back the key, {key or key_file}")
    return int(bool(failures))


def _run(
    recognizer: EmotionRecognizer,
    recordings: Sequence[Recording],
    journal: Journal,
    console: Console,
    key: bytes | None,
    *,
    calibrate: bool,
) -> tuple[float, float]:
    """Annotate what the journal lacks; seconds that it took and seconds of audio."""
    started, heard = time.perf_counter(), 0.0
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
            for recording, outcome in zip(chunk, recognizer.raw.together(chunk), strict=True):
                shown = shown_names(recording, key)
                if isinstance(outcome, UserError):
                    failures.append((shown.source, " ".join(outcome.what.split())))
                    continue
                heard += outcome.seconds
                found = recognizer.rows(outcome, journal.profiles, calibrate=calibrate)
                rows += [_rounded({**row, **shown._asdict()}) for row in found]
            journal.add(rows, failures, len(chunk))
            speed = heard / (time.perf_counter() - started)
            progress.update(task, advance=len(chunk), description=f"{speed:.0f} audio-seconds a second")
    return time.perf_counter() - started, heard


def _hash(recordings: Sequence[Recording]) -> str:
    return content_hash(*(f"{(recording.source, recording.speaker_id)}" for recording in recordings))


def _opening(recordings: Sequence[Recording], done: int, cutter: str) -> str:
    speakers = len({recording.speaker_id for recording in recordings} - {None})
    who = f"{speakers} speakers" if speakers else "no speakers, so nothing is calibrated (--speaker-from)"
    goes_on = f"; going on after {done}" if done else ""
    return f"{len(recordings)} recordings, {who}; long ones are cut by {cutter}{goes_on}"


def _rounded(row: Row) -> Row:
    """Float32 holds no more digits than these, and JSON no NaN."""
    return {
        name: (round(value, DECIMALS) if isfinite(value) else None) if isinstance(value, float) else value
        for name, value in row.items()
    }


def _say(console: Console, line: str) -> None:
    """Print one line, whatever a file's name holds: newlines, or what a terminal would obey."""
    plain = "".join(repr(sign)[1:-1] if category(sign) == "Cc" else sign for sign in " ".join(line.split()))
    console.print(plain, markup=False, highlight=False, soft_wrap=True)
