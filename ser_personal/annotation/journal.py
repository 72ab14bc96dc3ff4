"""The journal of `ser annotate`, from which an interrupted run resumes, and how recordings are dealt to shards."""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from heapq import merge
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from safetensors.numpy import load, save

from ser_personal.errors import UserError
from ser_personal.files import content_hash
from ser_personal.recognition.profiles import SpeakerProfile
from ser_personal.recognition.recognizer import Row
from ser_personal.recognition.recordings import Recording

FORMAT_VERSION = 3
_TABLES = """
    PRAGMA locking_mode = EXCLUSIVE;
    BEGIN EXCLUSIVE;
    CREATE TABLE IF NOT EXISTS progress (done INTEGER NOT NULL, settings TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS rows (recording INTEGER NOT NULL, content TEXT NOT NULL, vector BLOB);
    CREATE TABLE IF NOT EXISTS failures (recording INTEGER NOT NULL, file TEXT NOT NULL, reason TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS profiles (speaker TEXT PRIMARY KEY, content BLOB NOT NULL);
    COMMIT;
"""

# a row, and its utterance's vector, float32, where the run keeps them
Entry = tuple["Row", bytes | None]
Part = TypeVar("Part")


class Journal:
    """The rows, failures and profiles of an annotation so far, in an SQLite file that no other run may have open.

    Args:
        path: of the file, beside the output.
        settings: name -> value of all that decides the output; a run with other settings is refused.
        places: indices of this journal's recordings in the list of all, of which `done` are annotated or failed.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], places: Sequence[int]) -> None:
        self.path, self.places, self.done = path, places, 0
        self._settings = json.dumps({"format": FORMAT_VERSION, **settings})
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # profiles are biometric data, for their owner's eyes alone
            path.touch(mode=0o600)
            with ExitStack() as opened:
                self._database = opened.enter_context(closing(sqlite3.connect(path, timeout=0)))
                self._database.executescript(_TABLES)
                self._resume()
                self._opened = opened.pop_all()
        except (OSError, sqlite3.DatabaseError, KeyError, ValueError) as error:
            remedy = "Wait for the run that writes it, or delete it to start from the first recording"
            raise UserError(f"can't be resumed ({error})", where=path, remedy=remedy) from error

    def _resume(self) -> None:
        for done, content in self._database.execute("SELECT done, settings FROM progress"):
            before = json.loads(content)
            differing = [name for name, value in json.loads(self._settings).items() if before.get(name) != value]
            if differing:
                remedy = "Repeat that run's command to resume it, or delete this file"
                raise UserError(f"is of an interrupted run with another {differing[0]}", where=self.path, remedy=remedy)
            self.done = done
        found = self._database.execute("SELECT * FROM profiles")
        self.profiles = {speaker: SpeakerProfile.from_arrays(load(content)) for speaker, content in found}

    def add(self, recordings: Sequence[Recording], outcomes: Sequence[Sequence[Entry] | UserError]) -> None:
        """Add the rows or the failure of the next recordings, and their speakers' profiles: all of it or nothing."""
        done = self.done + len(recordings)
        with self._database as database:
            speakers = set()
            for place, recording, outcome in zip(self.places[self.done : done], recordings, outcomes, strict=True):
                if isinstance(outcome, UserError):
                    database.execute("INSERT INTO failures VALUES (?, ?, ?)", (place, recording.source, outcome.reason))
                    continue
                for row, vector in outcome:
                    line = (place, json.dumps(row, ensure_ascii=False, allow_nan=False), vector)
                    database.execute("INSERT INTO rows VALUES (?, ?, ?)", line)
                    speakers.add(row["speaker"])
            kept = [(one, save(self.profiles[one].arrays())) for one in self.profiles if one in speakers]
            database.executemany("INSERT OR REPLACE INTO profiles VALUES (?, ?)", kept)
            database.execute("DELETE FROM progress")
            database.execute("INSERT INTO progress VALUES (?, ?)", (done, self._settings))
        self.done = done

    def rows(self) -> Iterator[tuple[int, Row]]:
        """All rows, as (recording index, row)."""
        for place, content in self._database.execute("SELECT recording, content FROM rows ORDER BY rowid"):
            yield place, json.loads(content)

    def vectors(self) -> Iterator[tuple[int, bytes]]:
        """All rows' utterance vectors, float32, where the run keeps them, as (recording index, vector)."""
        yield from self._database.execute("SELECT recording, vector FROM rows ORDER BY rowid")

    def failures(self) -> Iterator[tuple[int, tuple[str, str]]]:
        """All failures, as (recording index, file and reason)."""
        for place, *failure in self._database.execute("SELECT recording, file, reason FROM failures ORDER BY rowid"):
            yield place, tuple(failure)

    def close(self) -> None:
        """Let another run open the file."""
        self._opened.close()


def joined(parts: Iterable[Iterable[tuple[int, Part]]]) -> Iterator[Part]:
    """Merge the entries of several journals, in the order of the recordings."""
    return map(itemgetter(1), merge(*parts, key=itemgetter(0)))


class Shard(NamedTuple):
    """The `number`th, from 1, of `total` shards."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it from `3/64`."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"{text} isn't a shard", where="--shard", remedy="Give one such as 3/64")
        return cls(int(found[1]), int(found[2]))

    def path(self, target: Path) -> Path:
        """The shard's file, named after the file of all shards."""
        return target.with_name(f"{target.stem}.{self.number}-of-{self.total}{target.suffix}")


def journal_of(target: Path) -> Path:
    """Where the journal of an output lies."""
    return target.with_name(f"{target.name}.partial")


def deal(recordings: Sequence[Recording], count: int) -> list[list[int]]:
    """Deal recordings to shards by a hash of the speaker, or of the file where unknown; -> each shard's list indices.

    A speaker's recordings are in one shard, and so are those of speakers who share a recording.
    """
    from scipy.cluster.hierarchy import DisjointSet

    speakers = [[name for name in recording.speaker_ids if name is not None] for recording in recordings]
    groups = DisjointSet(set(chain(*speakers)))
    for first, *others in filter(None, speakers):
        for other in others:
            groups.merge(first, other)
    leader = {name: least for group in groups.subsets() for least in [min(group)] for name in group}
    dealt: list[list[int]] = [[] for _ in range(count)]
    for place, (recording, names) in enumerate(zip(recordings, speakers, strict=True)):
        key = content_hash("speaker", leader[names[0]]) if names else content_hash("recording", recording.source)
        dealt[int(key, 16) % count].append(place)
    return dealt


@contextmanager
def open_journals(
    target: Path,
    recordings: Sequence[Recording],
    settings: Mapping[str, object],
    shard: Shard | None = None,
    *,
    join: bool = False,
) -> Iterator[list[Journal]]:
    """The journal of a run, or of a shard of it, or those of all shards that are to be joined."""
    with ExitStack() as opened:
        if not join:
            places = range(len(recordings)) if shard is None else deal(recordings, shard.total)[shard.number - 1]
            settings = settings if shard is None else {**settings, "shard": shard}
            yield [opened.enter_context(closing(Journal(journal_of(target), settings, places)))]
            return
        total = _count_shards(target)
        journals, lacking = [], []
        for number, places in enumerate(deal(recordings, total), 1):
            part, done = Shard(number, total), 0
            path = journal_of(part.path(target))
            # opening one that is missing would make it
            if path.exists():
                journals.append(opened.enter_context(closing(Journal(path, {**settings, "shard": part}, places))))
                done = journals[-1].done
            if done < len(places):
                lacking.append(f"{number}/{total}")
        if lacking:
            what = f"lacks {len(lacking)} of its {total} shards, or they aren't done: {', '.join(lacking[:5])}"
            raise UserError(what, where=target, remedy=f"Run --shard {lacking[0]} and so on first")
        yield journals


def _count_shards(target: Path) -> int:
    form = re.compile(rf"{re.escape(target.stem)}\.\d+-of-(\d+){re.escape(target.suffix)}\.partial")
    counts = {int(found[1]) for path in target.parent.glob("*.partial") if (found := form.fullmatch(path.name))}
    if len(counts) != 1:
        what = f"has shards of {' and of '.join(map(str, sorted(counts)))}" if counts else "has no shards"
        raise UserError(what, where=target, remedy="Make one set of them, with --shard 1/64 and so on")
    return counts.pop()
