"""Label files and splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fault import CHECK, FINETUNE, Fault, Good, faults, labels, sound, table, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIT_TABLE = ["fit", *FINETUNE, "--model.attributes", "[arousal]", "--data.corpus", "{here}/corpus.csv"]
MSP = ["check", "{here}"]


HEAD = "path,speaker,split\n"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def named(columns: str) -> Callable[[Good, Path], object]:
    """A table of these columns and a row."""
    return text("corpus.csv", f"{columns}\n{columns}\n")


def segments(row: str) -> Callable[[Good, Path], object]:
    return table(f"bad.wav,s,train,4,{row}", columns="path,speaker,split,arousal,start,end", others=",,")


def with_segment(part: str) -> Callable[[Good, Path], object]:
    def make(good: Good, here: Path) -> None:
        table(f"bad.wav,s,train,4,{part}", columns="path,speaker,split,arousal,start,end", others=",,")(good, here)
        sound(here / "bad.wav")

    return make


OF_CHECK = [
    ("an empty table", r"corpus\.csv: no column path, speaker, split", text("corpus.csv", "")),
    ("a table of a header", "holds no row", text("corpus.csv", "path,speaker,split\n")),
    ("a table in Latin-1", "isn't UTF-8 text", text("corpus.csv", "path,speaker,split\né,s,train".encode("latin-1"))),
    (
        "an Excel workbook",
        "corpus.csv: is an Excel workbook",
        text("corpus.csv", b"PK\x03\x04" + bytes(range(128, 256))),
    ),
    (
        "other names of columns",
        "Did you mean file, speaker_id, set\\? Rename it to path, sp",
        named("file,speaker_id,set"),
    ),
    ("column onset", "column onset would say what part .* Rename it to start", named("path,speaker,split,onset")),
    ("column channel", "column channel .* give each channel a file", named("channel,path,speaker,split")),
    ("a segment in words", r"corpus\.csv, bad\.wav: start is 'x', no time", segments("x,2")),
    ("a segment that ends before it starts", "ends at 1 s and starts at 2 s", segments("2,1")),
    ("a quote that never ends", r"line \d+: broken CSV", table('"x.wav,s,train,4')),
    ("a cell too many", "line 4: 5 cells where the header has 4", table("x.wav,s,train,4,5")),
    ("a column twice", "column split more than once", text("corpus.csv", "path,speaker,split,split\na,b,c,d\n")),
    ("a blank path", "line 4: blank path", table(",s,train,4")),
    ("a path of zero bytes", "corpus.csv, .*", table("x\0.wav,s,train,4")),
    ("a path longer than any", "can't be a file's name", table(f"{'x' * 5000}.wav,s,train,4")),
    ("a label beyond any float", "x: arousal is '1e999', not a number", table("x.wav,s,train,1e999")),
]
OF_SEGMENTS = [
    ("a segment behind the end", "error: a segment lies outside the recording's 1.00 s: 1", with_segment("1.5,2")),
    ("a segment of a hundredth", "error: is shorter than one frame", with_segment("0.5,0.51")),
]
OF_FIT_TABLE = [
    ("a table to train on that Git LFS left", "is a pointer of Git LFS", text("corpus.csv", LFS)),
    ("an id twice", "lists 1 utterance ids more than once: good", table("good.flac,s,train,4")),
]
OF_MSP = [
    ("broken JSON labels", "broken JSON", labels("labels_consensus.json", '{"a.wav": {')),
    ("JSON labels nested without end", "broken JSON", labels("labels_consensus.json", "[" * 100_000)),
]
CORPORA = [
    *faults(CHECK, OF_CHECK),
    *faults(CHECK, OF_SEGMENTS, code=1),
    *faults(FIT_TABLE, OF_FIT_TABLE),
    Fault(
        "a scale upside down",
        [*CHECK[:1], "CSVCorpus", "--corpus.path", "{here}/corpus.csv", "--corpus.scale", "[7,1]"],
        r"scale: \(7.0, 1.0\) is an empty range",
        table(),
    ),
    Fault("a table that can't be written", [*CHECK, "--write", "{here}"], "{here}: exists already", table()),
    *faults(MSP, OF_MSP),
]
