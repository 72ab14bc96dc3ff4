"""Any corpus as one table of its recordings: reader, writer, and what `--data.corpus` accepts."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from math import isnan, nan
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import override

from ser_personal.audio import BAD_AUDIO
from ser_personal.corpus.base import SCALES, Corpus, audio_path, labels_outside
from ser_personal.corpus.msp_podcast import AUDIO_FOLDERS, MSPPodcast
from ser_personal.corpus.splits import canonical_split
from ser_personal.corpus.table import SEGMENT, Row, attribute_labels, is_table, known, read_rows, segment, write_rows
from ser_personal.errors import UserError
from ser_personal.types import ATTRIBUTES, Utterance, plain_name

TABLE = "corpus.csv"
COLUMNS = ("path", "speaker", "split", *ATTRIBUTES, "gender", "emotion", "id")


class CSVCorpus(Corpus):
    """A table with one row per recording, or a segment of one.

    Its columns, in any order, their names in any case: path (relative to the table), speaker (blank or Unknown where
    unknown) and split; and any of arousal, valence, dominance (blank where missing), gender, emotion, start and end of
    a segment (seconds or h:mm:ss, blank for those of the recording), and id (where missing, the path without its
    suffix, and the segment's start). Other columns are ignored, except that another name for a segment's times, or for
    an attribute that is missing, is refused.

    Args:
        path: the table: separated by commas, semicolons or tabs, gzipped or not, or Parquet; or a folder with such a
            table named corpus.csv, which may then name audio in this folder only.
        **kwargs: see `Corpus`.
    """

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._path = Path(path)

    @property
    @override
    def label_file(self) -> Path:
        return self._path / TABLE if self._path.is_dir() else self._path

    @override
    def scale_flags(self, listed: Sequence[Utterance], scales: Sequence[tuple[float, float]] = SCALES) -> str | None:
        for scale in scales:
            if not any(labels_outside(utterance, scale) for utterance in listed):
                path, ends = shlex.quote(str(self._path)), f"{scale[0]:g},{scale[1]:g}"
                return f"{type(self).__name__} --data.corpus.path {path} --data.corpus.scale '[{ends}]'"
        return None

    @override
    def read_labels(self) -> list[Utterance]:
        table = self.label_file
        rows = read_rows(table, required=COLUMNS[:3], filled=("path", "split"), any_case=(*COLUMNS, *SEGMENT))
        return [self._utterance(row, table) for row in rows]

    def _utterance(self, row: Row, table: Path) -> Utterance:
        relative = PurePosixPath(row["path"])
        start, end = segment(row, f"{table}, {relative}") or (None, nan)
        shown_start = f"_{start:.3f}" if start is not None else ""
        utterance_id = row.get("id") or plain_name(f"{relative.parent / relative.stem}{shown_start}")
        where = f"{table}, {utterance_id}"
        return Utterance(
            utterance_id=utterance_id,
            path=audio_path(table.parent, row["path"], where, anywhere=table == self._path),
            split=canonical_split(row["split"]),
            speaker_id=known(row["speaker"]),
            gender=known(row.get("gender", "")),
            labels=attribute_labels(row, {name: name for name in ATTRIBUTES}, where),
            emotion=known(row.get("emotion", "")),
            start=start,
            seconds=end - (start or 0.0),
        )


def write_corpus(utterances: Iterable[Utterance], path: Path) -> None:
    """Write a table that `CSVCorpus` reads; missing labels and names are blank.

    Paths are relative to the table's folder, absolute where the audio lies outside of it.
    """
    folder = Path(os.path.normpath(path.parent.absolute()))
    rows = []
    for each in utterances:
        if each.start is not None and isnan(each.seconds):
            what = "can't be read, so where this segment ends can't be written"
            raise UserError(what, where=f"{each.path}, {each.utterance_id}", remedy=BAD_AUDIO)
        file = Path(os.path.normpath(each.path.absolute()))
        row = (
            (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix(),
            each.speaker_id,
            each.split,
            *(each.labels.get(attribute) for attribute in ATTRIBUTES),
            each.gender,
            each.emotion,
            each.utterance_id,
            *((None, None) if each.start is None else (each.start, each.start + each.seconds)),
        )
        rows.append(row)
    write_rows(path, (*COLUMNS, *SEGMENT), rows)


def open_corpus(corpus: Corpus | str | os.PathLike[str]) -> Corpus:
    """Open a corpus by its path, without reading it.

    Args:
        corpus: a corpus, a folder in MSP-Podcast's layout, a table that `CSVCorpus` reads, or a folder with such a
            table named corpus.csv.
    """
    if isinstance(corpus, Corpus):
        return corpus
    corpus = os.fspath(corpus)
    path = Path(corpus)
    if is_table(path) or (path / TABLE).is_file():
        return CSVCorpus(corpus)
    if any((path / name).is_dir() for name in ("Labels", *AUDIO_FOLDERS)):
        return MSPPodcast(corpus)
    what = "holds no corpus" if path.is_dir() else "no such corpus"
    tables = f"one with {TABLE}, or a table: .csv, .tsv or .parquet"
    remedy = f"Give a folder with Labels and Audios (MSP-Podcast's layout), {tables}"
    raise UserError(what, where=path, remedy=remedy)
