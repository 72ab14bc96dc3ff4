"""What an annotation has done so far, kept in a file beside its output."""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from safetensors.numpy import load, save

from ser_personal.errors import UserError
from ser_personal.recognition.profiles import SpeakerProfile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ser_personal.recognition.recognizer import Row
    from ser_personal.recognition.recordings import Recording

_TABLES = """
    PRAGMA locking_mode = EXCLUSIVE;
    BEGIN EXCLUSIVE;
    CREATE TABLE IF NOT EXISTS progress (done INTEGER NOT NULL, rows INTEGER NOT NULL, settings TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS rows (recording INTEGER NOT NULL, content TEXT NOT NULL, vector BLOB);
    CREATE TABLE IF NOT EXISTS failures (recording INTEGER NOT NULL, file TEXT NOT NULL, reason TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS profiles (speaker TEXT PRIMARY KEY, content BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS before (speaker TEXT PRIMARY KEY, content BLOB);
    COMMIT;
"""

# a row, and its utterance's vector, float32, where the run keeps them
Entry = tuple["Row", bytes | None]


class Journal:
    """What an annotation has done so far, in an SQLite file beside the output, from which it resumes.

    Args:
        path: of the file, which no other run may have open.
        settings: name -> value of all that decides what comes out; a run with others is refused.

    Attributes:
        done: how many recordings.
        profiles: of the speakers of these recordings, and of the blocks of the next one.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path = path
        self.done = 0
        self._rows = 0
        self.profiles: dict[str, SpeakerProfile] = {}
        self._settings = json.dumps(settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # profiles are biometric data, for their owner's eyes alone
            path.touch(mode=0o600)
            with ExitStack() as opened:
                self._database = opened.enter_context(closing(sqlite3.connect(path, timeout=0)))
                self._database.executescript(_TABLES)
                self._resume()
                self._opened = opened.pop_all()
        except (OSError, sqlite3.DatabaseError, ValueError) as error:
            raise UserError(
                f"can't be resumed ({error})",
                where=path,
                remedy="Wait for the run that writes it, or delete it to start from the first recording",
            ) from error

    def _resume(self) -> None:
        for done, rows, content in self._database.execute("SELECT done, rows, settings FROM progress"):
            before = json.loads(content)
            differing = [name for name, value in json.loads(self._settings).items() if before.get(name) != value]
            if differing:
                raise UserError(
                    f"is of an interrupted run with another {differing[0]}",
                    where=self.path,
                    remedy="Repeat that run's command to resume it, or delete this file",
                )
            self.done, self._rows = done, rows
        for speaker_id, content in self._database.execute("SELECT speaker, content FROM profiles"):
            self.profiles[speaker_id] = SpeakerProfile.from_arrays(load(content))

    @property
    def begun(self) -> int:
        """How many rows of the next recording there are, of the blocks of it that are done."""
        (count,) = self._database.execute("SELECT COUNT(*) FROM rows WHERE rowid > ?", (self._rows,)).fetchone()
        return int(count)

    def add(self, recordings: Sequence[Recording], outcomes: Sequence[Sequence[Entry] | UserError]) -> None:
        """Add what became of the next recordings, and their speakers' profiles: all of it or nothing."""
        with self._database as database:
            entries = [[] if isinstance(outcome, UserError) else outcome for outcome in outcomes]
            self._insert([(self.done + place, *entry) for place, of_one in enumerate(entries) for entry in of_one])
            failures = [
                (self.done + place, recording.source, _reason(outcome))
                for place, (recording, outcome) in enumerate(zip(recordings, outcomes, strict=True))
                if isinstance(outcome, UserError)
            ]
            database.executemany("INSERT INTO failures VALUES (?, ?, ?)", failures)
            database.execute("DELETE FROM before")
            (last,) = database.execute("SELECT MAX(rowid) FROM rows").fetchone()
            self._write_progress(self.done + len(recordings), last or 0)
        self.done, self._rows = self.done + len(recordings), last or 0

    def add_block(self, entries: Sequence[Entry]) -> None:
        """Add rows of a block of the next recording, and its speakers' profiles."""
        with self._database as database:
            speakers = {row["speaker"] for row, _ in entries} - {None}
            before = "INSERT OR IGNORE INTO before SELECT ?, (SELECT content FROM profiles WHERE speaker = ?)"
            database.executemany(before, [(speaker, speaker) for speaker in speakers])
            self._insert([(self.done, *entry) for entry in entries])
            self._write_progress(self.done, self._rows)

    def fail(self, recording: Recording, error: UserError) -> None:
        """Add the failure of the next recording, and take back what its blocks have added."""
        with self._database as database:
            before = database.execute("SELECT speaker, content FROM before").fetchall()
            database.execute("DELETE FROM rows WHERE rowid > ?", (self._rows,))
            database.execute("DELETE FROM profiles WHERE speaker IN (SELECT speaker FROM before)")
            database.execute("INSERT INTO profiles SELECT * FROM before WHERE content IS NOT NULL")
            database.execute("DELETE FROM before")
            database.execute("INSERT INTO failures VALUES (?, ?, ?)", (self.done, recording.source, _reason(error)))
            self._write_progress(self.done + 1, self._rows)
        self.done += 1
        for speaker, content in before:
            self.profiles.pop(speaker, None)
            if content is not None:
                self.profiles[speaker] = SpeakerProfile.from_arrays(load(content))

    def _insert(self, rows: Sequence[tuple[int, Row, bytes | None]]) -> None:
        speakers = {row["speaker"] for _, row, _ in rows} & self.profiles.keys()
        kept = [(one, save(self.profiles[one].arrays())) for one in speakers if isinstance(one, str)]
        lines = [(n, json.dumps(row, ensure_ascii=False, allow_nan=False), vector) for n, row, vector in rows]
        self._database.executemany("INSERT INTO rows VALUES (?, ?, ?)", lines)
        self._database.executemany("INSERT OR REPLACE INTO profiles VALUES (?, ?)", kept)

    def _write_progress(self, done: int, rows: int) -> None:
        self._database.execute("DELETE FROM progress")
        self._database.execute("INSERT INTO progress VALUES (?, ?, ?)", (done, rows, self._settings))

    def rows(self) -> Iterator[Row]:
        """All rows, one after the other."""
        return (row for _, row in self.numbered_rows())

    def numbered_rows(self) -> Iterator[tuple[int, Row]]:
        """All rows, each after the number of its recording, from 0."""
        for number, content in self._database.execute("SELECT recording, content FROM rows ORDER BY rowid"):
            yield number, json.loads(content)

    def vectors(self) -> Iterator[bytes]:
        """Of each row its utterance's vector, float32, where the run keeps them."""
        return (vector for _, vector in self.numbered_vectors())

    def numbered_vectors(self) -> Iterator[tuple[int, bytes]]:
        """All vectors, each after the number of its recording."""
        yield from self._database.execute("SELECT recording, vector FROM rows ORDER BY rowid")

    def failures(self) -> list[dict[str, str]]:
        """All failures: file and reason."""
        return [failure for _, failure in self.numbered_failures()]

    def numbered_failures(self) -> list[tuple[int, dict[str, str]]]:
        """All failures, each after the number of its recording."""
        found = self._database.execute("SELECT recording, file, reason FROM failures ORDER BY rowid")
        return [(number, {"file": file, "reason": reason}) for number, file, reason in found]

    def close(self) -> None:
        """Let another run open the file."""
        self._opened.close()

    def delete(self) -> None:
        """Delete the file."""
        self.path.unlink()


def _reason(error: UserError) -> str:
    return " ".join(error.what.split())
