"""What every corpus is: labelled utterances, speaker-checked splits, and the scale of the labels."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from math import isnan
from multiprocessing.pool import ThreadPool
from pathlib import Path, PureWindowsPath

from ser_personal.audio import SAMPLE_RATE, read_header
from ser_personal.corpus.splits import SpeakerSplits, canonical_split, cut_adaptation, first_few
from ser_personal.errors import UserError, require_scale
from ser_personal.files import as_on_disk, atomic_write, content_hash, file_key
from ser_personal.types import PositiveFinite, Utterance

# of emotion annotations in common corpora, the narrowest first
SCALES = ((0, 1), (-1, 1), (1, 5), (1, 7), (1, 9), (0, 10), (0, 100), (-100, 100))
ROUNDED = 0.05  # seconds that a segment may end after its recording
# More than cores: on network storage the threads wait for the disk, not for a core.
HEADER_THREADS = 16
# so few headers are read in a second, and aren't cached
FEW = 1_000
# raised when lengths are found or stored in another way
HEADERS_VERSION = 2


class Corpus(ABC):
    """Labelled recordings on disk; nothing is read before the first property is.

    Args:
        scale: lowest and highest value of a label.
        allow_overlap: names of splits that may share speakers with train.
        cut_test: a split to cut by speaker into `<name>_adaptation` and `<name>_evaluation`; none if None.
        adaptation_seconds: audio that each speaker of that split gives to adaptation, at most.
    """

    def __init__(
        self,
        *,
        scale: tuple[float, float] = (1, 7),
        allow_overlap: Sequence[str] = (),
        cut_test: str | None = None,
        adaptation_seconds: PositiveFinite = 200.0,
    ) -> None:
        require_scale(scale)
        self.scale = (float(scale[0]), float(scale[1]))
        self.allow_overlap = tuple(canonical_split(name) for name in allow_overlap)
        self._cut_test = None if cut_test is None else canonical_split(cut_test)
        self._adaptation_seconds = adaptation_seconds

    @property
    @abstractmethod
    def label_file(self) -> Path:
        """The file that lists the utterances and their labels."""

    @abstractmethod
    def read_labels(self) -> list[Utterance]:
        """Read every utterance that the label file lists, splits under canonical names, without touching audio."""

    @cached_property
    def utterances(self) -> list[Utterance]:
        """All utterances, ordered by id; `seconds` is NaN where the audio can't be read."""
        listed = self.listed()
        if twice := duplicates(listed):
            what = f"lists {len(twice)} utterance ids more than once: {first_few(twice)}"
            raise UserError(what, where=self.label_file, remedy="Keep one row of each, or give each its own id")
        for utterance in listed:
            for attribute, label in labels_outside(utterance, self.scale).items():
                what = f"{attribute} is {label:g}, outside the scale {self.scale[0]:g} to {self.scale[1]:g}"
                remedy = "Correct the label or leave it blank"
                if flags := self.scale_flags(listed):
                    remedy += f", or where that is the corpus's scale, give it as `--data.corpus {flags}`"
                raise UserError(what, where=f"{self.label_file}, {utterance.utterance_id}", remedy=remedy)
        lengths = lengths_of((utterance.path for utterance in listed), self.label_file)
        return self.cut([replace(utterance, seconds=_seconds_or_nan(utterance, lengths)) for utterance in listed])

    @cached_property
    def splits(self) -> SpeakerSplits:
        """The utterances by set."""
        return SpeakerSplits.from_utterances(self.utterances, self.allow_overlap)

    def scale_flags(self, listed: Sequence[Utterance], scales: Sequence[tuple[float, float]] = SCALES) -> str | None:
        """Write this corpus with the first scale that holds its labels; None where none does, or its own is fixed."""
        return None

    def listed(self) -> list[Utterance]:
        """Read what the label file lists, ordered by id, neither validated nor measured."""
        return sorted(self.read_labels(), key=lambda utterance: utterance.utterance_id)

    def cut(self, measured: Sequence[Utterance]) -> list[Utterance]:
        """Cut the test split, if one is to be cut, of utterances with durations."""
        cut = self._cut_test
        return list(measured) if cut is None else cut_adaptation(measured, cut, self._adaptation_seconds)


def lengths_of(paths: Iterable[Path], label_file: Path) -> dict[Path, int]:
    """Count the samples at 16 kHz of audio files, by their headers; unreadable ones are left out.

    265,000 headers take minutes, on every rank of every command. So lengths are cached by path, size and time of change
    in the user's cache folder, a file per corpus, where there are many.
    """
    unique = list(dict.fromkeys(paths))
    # a container's user may have no home
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "ser_personal"  # noqa: PTH111
    cache = folder / f"headers-{HEADERS_VERSION}-{content_hash(os.fsencode(label_file.absolute()).hex())}.json"
    cached: dict[str, int] = {}
    if len(unique) > FEW:
        with suppress(OSError, ValueError):
            cached = json.loads(cache.read_text())

    def read(path: Path) -> tuple[str, int] | None:
        try:
            key = file_key(path)
            return key, cached[key] if key in cached else read_header(path).num_samples
        except (OSError, ValueError, UserError):
            return None

    with ThreadPool(HEADER_THREADS) as threads:
        found = {path: entry for path, entry in zip(unique, threads.map(read, unique), strict=True) if entry}
    now = dict(found.values())
    if len(unique) > FEW and now != cached:
        # a disk that is full or read-only only costs time
        with suppress(OSError):
            atomic_write(cache, json.dumps(now).encode())
    return {path: length for path, (_, length) in found.items()}


def seconds_of(utterance: Utterance, num_samples: int) -> float:
    """Find an utterance's duration in a file of so many samples at 16 kHz."""
    total = num_samples / SAMPLE_RATE
    if utterance.start is None:
        return total
    end = total if isnan(utterance.seconds) else utterance.start + utterance.seconds
    if utterance.start >= total or end > total + ROUNDED:
        what = f"a segment lies outside the recording's {total:.2f} s"
        raise UserError(what, where=utterance.path, remedy="Correct its start and end, which are in seconds")
    return min(end, total) - utterance.start


def duplicates(utterances: Sequence[Utterance]) -> list[str]:
    """Find ids that are listed more than once."""
    return [id_ for id_, times in Counter(each.utterance_id for each in utterances).items() if times > 1]


def labels_outside(utterance: Utterance, scale: tuple[float, float]) -> dict[str, float]:
    """Find an utterance's labels, by attribute, that lie outside the scale; a missing label never does."""
    return {name: label for name, label in utterance.labels.items() if label < scale[0] or label > scale[1]}


def _seconds_or_nan(utterance: Utterance, lengths: dict[Path, int]) -> float:
    try:
        return seconds_of(utterance, lengths[utterance.path])
    except (KeyError, UserError):
        return float("nan")


def audio_path(folder: Path, cell: str, where: object, *, anywhere: bool = False) -> Path:
    """Find a recording, which has to lie in the table's folder or in one below, unless the user named the table.

    Otherwise, somebody else's corpus could have any file of this machine decoded and its content passed on. Links
    inside the folder are followed wherever they lead, since a table can't make them. The cell may have slashes or
    backslashes, in any of Unicode's forms; `anywhere` accepts absolute paths to elsewhere and those through `..`.
    """
    path = folder / cell
    if "\\" in cell and not path.is_file():
        path = folder / cell.replace("\\", "/")
    if not cell.isascii():
        path = Path(as_on_disk(str(path)))
    # which splits at both slashes, and has an anchor for either system's absolute paths
    named = PureWindowsPath(cell)
    leaves = ".." in named.parts or (named.anchor and not Path(cell).is_relative_to(folder.absolute()))
    if leaves and not anywhere:
        remedy = f"Move the audio into {folder}, or give the table itself in the place of its folder"
        raise UserError(f"{cell} lies outside the corpus", where=where, remedy=remedy)
    return path
