"""MSP-Podcast on disk, every release from 1.6 on."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import override

from ser_personal.corpus.base import Corpus, audio_path
from ser_personal.corpus.splits import canonical_split, first_few
from ser_personal.corpus.table import attribute_labels, known, read_rows, read_text
from ser_personal.errors import UserError
from ser_personal.types import Utterance

logger = logging.getLogger(__name__)

# Releases 1.6 and 1.8 spell it "concensus".
LABEL_FILES = ("labels_consensus.csv", "labels_concensus.csv", "labels_consensus.json", "labels_concensus.json")
AUDIO_FOLDERS = ("Audios", "Audio")

ATTRIBUTE_COLUMNS = {"arousal": "EmoAct", "valence": "EmoVal", "dominance": "EmoDom"}

EMOTIONS: dict[str, str | None] = {
    "A": "anger",
    "S": "sadness",
    "H": "happiness",
    "U": "surprise",
    "F": "fear",
    "D": "disgust",
    "C": "contempt",
    "N": "neutral",
    "O": "other",
    "X": None,
}


class MSPPodcast(Corpus):
    """A release of MSP-Podcast: a folder with `Labels/` and `Audios/` (or `Audio/`).

    Labels come from `labels_consensus` or `labels_concensus`, CSV before JSON, and lie on a scale from 1 to 7; hidden
    ones (Test3) are NaN. `Development` is validation and `Test` is test1. An utterance's id is its file name without
    suffix. The class letters become words (anger, sadness, ...); X, no agreement, is no emotion.

    Args:
        root: the release's folder.
        partitions: a split file in the form of `Partitions.txt` that replaces the release's own splits. Utterances must
            be in both it and the label file, so an older release can be rebuilt from a newer one's audio.
        **kwargs: see `Corpus`.
    """

    def __init__(self, root: str, *, partitions: str | None = None, **kwargs: Any) -> None:
        super().__init__(scale=(1, 7), **kwargs)
        self._root = Path(root)
        self._partitions = None if partitions is None else Path(partitions)

    @property
    @override
    def label_file(self) -> Path:
        folder = self._root / "Labels"
        for name in LABEL_FILES:
            if (folder / name).is_file():
                return folder / name
        what = f"no label file (looked for {', '.join(LABEL_FILES)})"
        raise UserError(what, where=folder, remedy="Give the release's folder, the one that holds Labels and Audios")

    @override
    def read_labels(self) -> list[Utterance]:
        label_file = self.label_file
        folders = [self._root / name for name in AUDIO_FOLDERS]
        audio_folder = next((folder for folder in folders if folder.is_dir()), folders[0])
        named = ("FileName", "Split_Set") if self._partitions is None else ("FileName",)
        rows = read_rows(label_file, (*named, *ATTRIBUTE_COLUMNS.values(), "SpkrID"), filled=named)
        if self._partitions is None:
            splits = {_id(row["FileName"]): row["Split_Set"] for row in rows}
        else:
            splits = read_partitions(self._partitions)
            unlabelled = sorted(splits.keys() - {_id(row["FileName"]) for row in rows})
            if len(unlabelled) == len(splits):
                what, remedy = f"names no utterance of {label_file}", "Give a split file of this corpus"
                raise UserError(what, where=self._partitions, remedy=remedy)
            if unlabelled:
                told = "%s: %d utterances have no labels in %s, left out: %s"
                logger.warning(told, self._partitions, len(unlabelled), label_file.name, first_few(unlabelled))
        utterances = []
        for row in rows:
            name, emotion = row["FileName"], row.get("EmoClass", "")
            where = f"{label_file}, {name}"
            if (utterance_id := _id(name)) in splits:
                utterance = Utterance(
                    utterance_id=utterance_id,
                    path=audio_path(audio_folder, name, where),
                    split=canonical_split(splits[utterance_id]),
                    speaker_id=known(row["SpkrID"]),
                    gender=known(row.get("Gender", "")),
                    labels=attribute_labels(row, ATTRIBUTE_COLUMNS, where),
                    emotion=EMOTIONS.get(emotion, known(emotion)),
                )
                utterances.append(utterance)
        return utterances


def read_partitions(path: Path) -> dict[str, str]:
    """Read a split file, lines of `Train; NAME.wav`, as utterance id -> split as the file spells it."""
    splits: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        split, _, name = (part.strip() for part in line.partition(";"))
        where = f"{path}, line {number}"
        if not (split and name):
            what = f"{line!r} names no split or no file"
            raise UserError(what, where=where, remedy="Write lines like `Train; NAME.wav`")
        if splits.setdefault(_id(name), split) != split:
            what = f"{name} is in {splits[_id(name)]} and in {split}"
            raise UserError(what, where=where, remedy="Keep one of the lines")
    return splits


def _id(file_name: str) -> str:
    return PurePosixPath(file_name).stem
