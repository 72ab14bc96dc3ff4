"""`ser enroll`: a speaker's profile from recordings, with labels where a table has some."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isnan
from pathlib import Path

from rich.console import Console

from ser_personal.annotation.annotate import import_trusted
from ser_personal.corpus.table import SEGMENT, attribute_labels, is_table, known, read_csv_rows, segment
from ser_personal.errors import UserError, counted
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.recognition.recordings import Recording, find_recordings
from ser_personal.recognition.turns import Turn
from ser_personal.types import ATTRIBUTES, plain_name


def enroll(
    speaker: str, audio: str, model: str, profiles: str, device: str | None = None, import_: str | None = None
) -> None:
    """Add recordings of a speaker to the speaker's profile, and labels of them where there are some.

    Ask the speaker first: a profile holds a voice vector, which is biometric data.

    Args:
        speaker: any name; a new one starts a profile.
        audio: a sound file, a folder (with the folders inside it), or a table with a column path, and any of: speaker,
            whose other speakers' rows are passed over; arousal, valence and dominance, the labels, blank where missing;
            start and end (seconds or h:mm:ss) where rows are segments.
        model: a folder that `ser export` wrote, or the name of one on the Hugging Face hub.
        profiles: file of the profiles, begun where there is none.
        device: to run on; a GPU where there is one, if null.
        import_: a module of your own with classes that the model is made of, in the current folder or installed.
    """
    speaker, path = plain_name(speaker), Path(audio)
    recordings, labels = labelled_recordings(path, speaker) if is_table(path) else (find_recordings(path, "none"), {})
    import_trusted(import_)
    recognizer = EmotionRecognizer.from_pretrained(model, profiles=profiles, device=device)
    recordings = [one if one.turns is not None else replace(one, speaker_id=speaker) for one in recordings]
    predicted = {name: labels[name] for name in labels if name in recognizer.attributes}
    if labels and not predicted:
        what = f"has labels of {' and '.join(labels)}, and the model predicts {', '.join(recognizer.attributes)}"
        raise UserError(what, where=audio, remedy="Leave these columns out to enrol without labels")
    before = recognizer.profiles[speaker].utterances if speaker in recognizer.profiles else 0
    profile = recognizer.enroll_recordings(speaker, recordings, predicted)
    counts = zip(recognizer.attributes, profile.labelled.count[1].tolist(), strict=True)
    labelled = ", ".join(f"{count} of {attribute}" for attribute, count in counts if count)
    added = f"{counted(profile.utterances - before, 'new utterance')} ({before} before)"
    what = f"{speaker}: {added}, {f'labels in all: {labelled}' if labelled else 'no labels'}"
    Console().print(what, markup=False, highlight=False, soft_wrap=True)


def labelled_recordings(table: Path, speaker: str) -> tuple[list[Recording], dict[str, list[float]]]:
    """The rows of a table that are of a speaker, and their labels by attribute, NaN where missing."""
    found = read_csv_rows(
        table, required=("path",), filled=("path",), any_case=("path", "speaker", *ATTRIBUTES, *SEGMENT)
    )
    rows = [row for row in found if "speaker" not in row or known(row["speaker"]) == speaker]
    if not rows:
        others = sorted({row["speaker"] for row in found if known(row["speaker"])})
        remedy = f"It has {', '.join(others[:10]) or 'no speaker at all'}{', ...' if len(others) > 10 else ''}"
        raise UserError(f"no row is of speaker {speaker}", where=table, remedy=remedy)
    columns = {name: name for name in ATTRIBUTES}
    labels = [attribute_labels(row, columns, f"{table}, {row['path']}") for row in rows]
    labelled = [name for name in ATTRIBUTES if not all(isnan(each[name]) for each in labels)]
    recordings = []
    for row in rows:
        part = segment(row, f"{table}, {row['path']}")
        turns = None if part is None else (Turn(part[0], inf if isnan(part[1]) else part[1], speaker),)
        recordings.append(Recording(row["path"], table.parent / row["path"], speaker, turns))
    return recordings, {name: [each[name] for each in labels] for name in labelled}
