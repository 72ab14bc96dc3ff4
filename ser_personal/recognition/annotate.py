"""`ser annotate`: the emotion of a file, a folder or a table of recordings, however many."""

from __future__ import annotations

import time
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ser_personal.errors import UserError
from ser_personal.pseudonyms import asked_key
from ser_personal.recognition.bundle import CalibrationName
from ser_personal.recognition.causal import PLDCSettings
from ser_personal.recognition.journal import Journal
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.recognition.recordings import Recording, SpeakerFrom, chunks, find_recordings
from ser_personal.recognition.rows import Row
from ser_personal.recognition.segments import CutName
from ser_personal.recognition.shown_names import in_order_of_names, shown_names
from ser_personal.recognition.tables import check_format, write_table
from ser_personal.recognition.utterances import CHUNK_RECORDINGS, CHUNK_SECONDS
from ser_personal.recognition.voice_activity import has_silero

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        "calibration": [calibrate, calibration, (pldc or recognizer.bundle.pldc).as_json()],
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
    state = blake2b(digest_size=16)
    for recording in recordings:
        state.update(f"{(recording.source, recording.speaker_id)}\n".encode())
    return state.hexdigest()


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
