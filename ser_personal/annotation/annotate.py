"""`ser annotate`: emotion of a file, a folder or a table of recordings; `ser enroll`: a speaker's profile from them."""

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import import_module
from math import isfinite, isnan
from pathlib import Path
from typing import Any
from unicodedata import category

from rich.console import Console
from rich.progress import Progress

from ser_personal.annotation.journal import Entry, Journal, Shard, joined, journal_of, open_journals
from ser_personal.annotation.tables import check_format, check_stems, write_annotations, write_vectors
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.corpus.table import SEGMENT, attribute_labels, is_table, known, read_rows, write_rows
from ser_personal.errors import UserError, counted
from ser_personal.files import content_hash
from ser_personal.recognition.bundle import CONFIG, CalibrationName, find_bundle
from ser_personal.recognition.raw import CHUNK_RECORDINGS, CHUNK_SECONDS, Utterances
from ser_personal.recognition.recognizer import EmotionRecognizer, Row
from ser_personal.recognition.recordings import (
    Channel,
    Recording,
    SpeakerFrom,
    chunks,
    find_recordings,
    of_channels,
    with_turns,
)
from ser_personal.recognition.segmenters import CutName, has_silero
from ser_personal.recognition.turns import turn_of
from ser_personal.types import ATTRIBUTES, PositiveFinite, plain_name

DECIMALS = 6


def annotate(
    audio: str,
    model: str,
    out: str,
    speaker_from: SpeakerFrom | None = None,
    segments: str | None = None,
    channel: Channel = "mix",
    cut: CutName = "speech",
    window_seconds: PositiveFinite = 5.0,
    hop_seconds: PositiveFinite | None = None,
    calibration: CalibrationName | None = None,
    pldc: PLDCSettings | None = None,
    profiles: str | None = None,
    device: str | None = None,
    import_: str | None = None,
    vectors: str | None = None,
    shard: str | None = None,
    *,
    join: bool = False,
    training_speakers: bool = False,
    bf16: bool = False,
) -> int:
    """Predict arousal, valence and dominance of recordings, calibrated to each of their speakers, or categories.

    A run that was interrupted resumes when its command is repeated. Recordings that fail are listed in NAME.failed.csv
    beside the output; the others are done.

    Args:
        audio: a sound file, a folder (with the folders inside it or linked there, but no hidden ones), or a table with
            a column path, and with start and end (seconds or h:mm:ss) where rows are segments.
        model: a folder that `ser export` wrote, or the name of one on the Hugging Face hub.
        out: file to write, which appears once it is complete: a table (.csv, .parquet, .jsonl), a Praat .TextGrid with
            a tier for each speaker and attribute, or labels for Audacity (.txt). Of several recordings, the last two
            are folders with a file for each.
        speaker_from: who speaks: the name of the `folder` that a file lies in, the table's `column` speaker, or `none`,
            which also leaves the output's speaker column empty; if null, the segments' speakers, or none without
            --segments. A speaker's recordings count in the order of their paths, or of the table.
        segments: who speaks when: an RTTM file, a Praat TextGrid (a tier a speaker), a table with columns path, start,
            end and speaker, or a folder of the first two called as the recordings. Turns longer than the model's
            `max_samples` are split; those under a second, and overlapping ones, are marked.
        channel: `mix` is all channels mixed, `left` and `right` one, and `each` a speaker a channel, `call/left` and
            `call/right`; segments are then of the channel that RTTM names.
        cut: how long recordings are cut: by `speech` (`silero`, or `energy` where silero-vad isn't installed), or into
            `windows`, which turns are cut into as well.
        window_seconds: of a window, which counts as an utterance of its speaker.
        hop_seconds: from the beginning of a window to that of the next; `window_seconds` if null.
        calibration: `pldc`, `posterior` or `none`, raw but for speakers enrolled with labels; the bundle's if null.
        pldc: settings of PLDC, which then calibrates unless another is named; the bundle's if null.
        profiles: file of enrolled speakers, to start from and to add to.
        device: to run on; CUDA where there is one, if null.
        import_: a module of your own with classes that the model is made of, in the current folder or installed.
        vectors: file to write the utterances' vectors to, means of the personalised frames: .npz with the arrays file,
            start, end, speaker and vectors (utterances, dim), in the order of the table.
        shard: `3/64` annotates the third of 64 parts, into NAME.3-of-64.csv; a speaker's recordings are in one.
        join: make one table of all its shards, as of a run without them.
        training_speakers: speakers are those of the training corpus, whose embeddings are then used.
        bf16: compute the encoder in bfloat16, rounded: faster on GPUs that have it, far slower on most CPUs.
    """
    target, vectors_file = Path(out), None if vectors is None else Path(vectors)
    check_format(target)
    if vectors_file is not None and vectors_file.suffix != ".npz":
        raise UserError("doesn't end in .npz", where=f"--vectors {vectors}", remedy="Give a name that does")
    part = None if shard is None else Shard.parse(shard)
    if part is not None:
        if join:
            what = "makes a shard, and --join one table of all"
            raise UserError(what, where="--shard", remedy="Leave one of them out")
        target, vectors_file = part.path(target), vectors_file and part.path(vectors_file)
    for flag, file in (("--out", target), ("--vectors", vectors_file or target)):
        if file.exists() and not journal_of(target).exists():
            raise UserError("exists already", where=file, remedy=f"Delete it, or give {flag} another name")
    recordings = _find(audio, speaker_from, segments, channel)
    check_stems(target, recordings)
    import_trusted(import_)
    options: dict[str, Any] = {
        "calibration": calibration,
        "cut": cut,
        "window_seconds": window_seconds,
        "hop_seconds": hop_seconds,
        "training_speakers": training_speakers,
        "bf16": bf16,
    }
    recognizer = EmotionRecognizer.from_pretrained(model, profiles=profiles, pldc=pldc, device=device, **options)
    cutter = ("silero" if has_silero() else "energy") if cut == "speech" else cut
    columns = recognizer.columns_of(recordings)
    listed = (f"{(one.source, one.channel, one.speaker_id, one.turns)}" for one in recordings)
    settings = {
        "columns": columns,
        "model": recognizer.bundle.model,
        # its bank, posterior and intervals, too
        "bundle": content_hash(find_bundle(model) / CONFIG),
        "list of recordings": content_hash(*listed),
        **options,
        "cut": cutter,
        "pldc": asdict(pldc or recognizer.bundle.pldc),
        "use of --profiles": profiles is not None,
        "use of --vectors": vectors is not None,
    }
    with open_journals(target, recordings, settings, part, join=join) as journals:
        done = sum(journal.done for journal in journals)
        own = [recordings[place] for journal in journals for place in journal.places]
        _announce(recognizer, own, done, cutter)
        if not join:
            _run(recognizer, own, journals[0], keep_vectors=vectors is not None)
        failures = list(joined(map(Journal.failures, journals)))
        failed_table = target.with_name(f"{target.stem}.failed.csv")
        failed_table.unlink(missing_ok=True)
        if failures:
            write_rows(failed_table, ["file", "reason"], failures)
        # where every recording failed there is nothing to write, and the same command can be repeated
        if len(failures) < len(own) or not own:
            if vectors_file is not None:
                write_vectors(vectors_file, joined(map(Journal.rows, journals)), joined(map(Journal.vectors, journals)))
            rows = joined(map(Journal.rows, journals))
            write_annotations(target, rows, columns, recognizer.attributes, recordings)
    if part is None:
        recognizer.profiles.update(dict(ChainMap(*(journal.profiles for journal in journals))))
        for journal in journals:
            journal.path.unlink()
    for failure in failures:
        show(f"failed: {': '.join(failure)}")
    failed = [f"{len(failures)} failed, see {failed_table}"] if failures else []
    show("; ".join([f"written: {target}"] * target.exists() + failed))
    return int(bool(failures))


def _find(audio: str, speaker_from: SpeakerFrom | None, segments: str | None, channel: Channel) -> list[Recording]:
    if speaker_from in ("folder", "column") and (segments is not None or channel == "each"):
        what, remedy = "the segments or channels say who speaks", "Leave --speaker_from out, or give none"
        raise UserError(what, where=f"--speaker_from {speaker_from}", remedy=remedy)
    recordings = find_recordings(Path(audio), speaker_from or "none")
    named = speaker_from is None
    if segments is not None:
        recordings = with_turns(recordings, Path(segments), named=named, each_channel=channel == "each")
    return of_channels(recordings, channel, named=named)


def import_trusted(module: str | None) -> None:
    """Import a module of the user's own, for `--import`, where one is named."""
    try:
        _ = module and import_module(module)
    except ImportError as error:
        remedy = "Run the command in the folder that it lies in, or install it"
        raise UserError(f"can't be imported ({error})", where=f"--import {module}", remedy=remedy) from error


def _run(
    recognizer: EmotionRecognizer, recordings: Sequence[Recording], journal: Journal, *, keep_vectors: bool
) -> None:

    def entries_of(outcome: Utterances) -> list[Entry]:
        rows = [_rounded(row) for row in recognizer.rows(outcome, journal.profiles)]
        vectors = [one.pooled.astype("float32").tobytes() if keep_vectors else None for one in outcome.utterances]
        return list(zip(rows, vectors, strict=True))

    with Progress(transient=True) as progress:
        task = progress.add_task("annotating", total=len(recordings), completed=journal.done)
        for chunk in chunks(recordings[journal.done :], CHUNK_SECONDS, CHUNK_RECORDINGS):
            outcomes = recognizer.raw.together(chunk)
            journal.add(chunk, [one if isinstance(one, UserError) else entries_of(one) for one in outcomes])
            progress.update(task, advance=len(chunk))


def _announce(recognizer: EmotionRecognizer, recordings: Sequence[Recording], done: int, cutter: str) -> None:
    speakers = set().union(*(one.speaker_ids for one in recordings if one.fault is None))
    who = counted(len(speakers - {None}), "speaker")
    resumed = f"; resuming after {done}" if done else ""
    show(f"{counted(len(recordings), 'recording')}, {who}; long ones are cut by {cutter}{resumed}")
    if recognizer.calibrator is not None and None in speakers:
        show("utterances without a speaker stay raw (--speaker_from, --segments)")
    if recognizer.calibrator is None and not recognizer.emotions:
        show("only speakers with labels are calibrated: the bundle or the command says so (--calibration)")


def _rounded(row: Row) -> Row:
    """Float32 holds no more digits than these, and JSON no NaN."""
    return {
        name: (round(value, DECIMALS) if isfinite(value) else None) if isinstance(value, float) else value
        for name, value in row.items()
    }


def show(line: str) -> None:
    """Print one line, whatever a file's name holds: newlines, or what a terminal would obey."""
    plain = "".join(repr(sign)[1:-1] if category(sign) == "Cc" else sign for sign in " ".join(line.split()))
    Console().print(plain, markup=False, highlight=False, soft_wrap=True)


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
    show(f"{speaker}: {added}, {f'labels, as first given: {labelled}' if labelled else 'no labels'}")


def labelled_recordings(table: Path, speaker: str) -> tuple[list[Recording], dict[str, list[float]]]:
    """The rows of a table that are of a speaker, and their labels by attribute, NaN where missing."""
    found = read_rows(table, required=("path",), filled=("path",), any_case=("path", "speaker", *ATTRIBUTES, *SEGMENT))
    recordings, labels = [], []
    for row in found:
        if "speaker" not in row or known(row["speaker"]) == speaker:
            where = f"{table}, {row['path']}"
            labels.append(attribute_labels(row, {name: name for name in ATTRIBUTES}, where))
            turn = turn_of(row, where, speaker)
            recordings.append(Recording(row["path"], table.parent / row["path"], speaker, turn and (turn,)))
    if not recordings:
        raise UserError(f"no row is of speaker {speaker}", where=table, remedy="Give one of its column speaker")
    by_name = {name: [each[name] for each in labels] for name in ATTRIBUTES}
    return recordings, {name: values for name, values in by_name.items() if not all(map(isnan, values))}
