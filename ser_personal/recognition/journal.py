"""How far an annotation has come, kept so that a killed run can be gone on with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ser_personal.errors import UserError
from ser_personal.files import write_whole
from ser_personal.recognition.profiles import SpeakerProfiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ser_personal.recognition.profiles import SpeakerProfile
    from ser_personal.recognition.rows import Row

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
        write_whole(self.folder / PROGRESS, json.dumps(progress, ensure_ascii=False).encode())
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
