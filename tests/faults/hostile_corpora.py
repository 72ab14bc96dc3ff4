"""Label files and splits."""

import gzip
from pathlib import Path

from fault import CHECK, FINETUNE, FIT, HEADER, KMEANS, Fault, Good, Make, faults, labels, sound, table, text

FIT_TABLE = ["fit", *FINETUNE, "--model.attributes", "[arousal]", "--data.corpus", "{here}/corpus.csv"]
MSP = ["check", "{here}"]
CONSENSUS = "labels_consensus.csv"
HEAD = "path,speaker,split\n"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def named(columns: str) -> Make:
    """A table of these columns and a row."""
    return text("corpus.csv", f"{columns}\n{columns}\n")


def segments(row: str) -> Make:
    return table(f"bad.wav,s,train,4,{row}", columns="path,speaker,split,arousal,start,end", others=",,")


def with_segment(train: str, *tests: str) -> Make:
    def make(good: Good, here: Path) -> None:
        rows = [f"bad.wav,s,train,4,{train}", *(f"bad.wav,w,test,4,{part}" for part in tests)]
        table(*rows, columns="path,speaker,split,arousal,start,end", others=",,")(good, here)
        sound(here / "bad.wav")

    return make


OF_CHECK = [
    ("an empty table", r"corpus\.csv: no column path, speaker, split", text("corpus.csv", "")),
    ("a table of a header", "holds no row", text("corpus.csv", "path,speaker,split\n")),
    ("a table in Latin-1", "isn't UTF-8 text", text("corpus.csv", "path,speaker,split\né,s,train".encode("latin-1"))),
    ("an Excel workbook", "is an Excel workbook", text("corpus.csv", b"PK\x03\x04" + bytes(range(128, 256)))),
    ("other names of columns", "mean file, speaker_id, set\\? Rename it to path, sp", named("file,speaker_id,set")),
    ("column onset", "column onset would say what part .* Rename it to start", named("path,speaker,split,onset")),
    ("column channel", "column channel .* give each channel a file", named("channel,path,speaker,split")),
    ("UTF-16 without its mark", "holds no row", text("corpus.csv", HEAD.encode("utf-16-le"))),
    ("half a gzipped table", "Compressed file ended", text("corpus.csv", gzip.compress(b"a" * 99, mtime=0)[:20])),
    ("a table separated by bars", r"no column path.*found: path\|speaker", text("corpus.csv", "path|speaker|split\n")),
    ("column Offset", "column Offset would say what part", named("path,speaker,split,Offset")),
    ("column duration", "column duration would say .* Rename it to end", named("path,speaker,split,start,duration")),
    ("a segment before the start", "start is '-1', no time", segments("-1,2")),
    ("a table that Git LFS left", "corpus.csv: .* Git LFS, whose content `git lfs pull`", text("corpus.csv", LFS)),
    ("a picture as a table", "isn't UTF-8 text", text("corpus.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)))),
    ("a blank split", "line 4: blank split", table("x.wav,s,,4")),
    ("a cell of a million letters", "line 4: broken CSV", table(f"{'x' * 1_000_000},s,train,4")),
    ("a label of infinity", "x: arousal is 'inf', not a finite number", table("x.wav,s,train,inf")),
    ("a label in words", "arousal is '3,5', not a finite number", table('x.wav,s,train,"3,5"')),
    ("a folder called a table", "corpus.csv: no such file", lambda _good, here: (here / "corpus.csv").mkdir()),
    ("a segment in words", r"corpus\.csv, bad\.wav: start is 'x', no time", segments("x,2")),
    ("a segment that ends before it starts", "ends at 1 s and starts at 2 s", segments("2,1")),
    ("a quote that never ends", r"line \d+: broken CSV", table('"x.wav,s,train,4')),
    ("a cell too many", "line 4: 5 cells where the header has 4", table("x.wav,s,train,4,5")),
    ("a column twice", "column split more than once", text("corpus.csv", "path,speaker,split,split\na,b,c,d\n")),
    ("a blank path", "line 4: blank path", table(",s,train,4")),
    ("a path of zero bytes", "corpus.csv, .*", table("x\0.wav,s,train,4")),
    ("a path longer than any", "can't be a file's name", table(f"{'x' * 5000}.wav,s,train,4")),
    ("a label beyond any float", "x: arousal is '1e999', not a finite number", table("x.wav,s,train,1e999")),
]
OF_SEGMENTS = [
    ("a segment behind the end", "error: a segment lies outside the recording's 1.00 s: 1", with_segment("1.5,2")),
    ("a segment of a hundredth", "error: is shorter than one frame", with_segment("0.5,0.51")),
    ("a segment over the end", "error: a segment lies outside the recording's 1.00 s: 1", with_segment("0.5,1.2")),
]
OVERLAP = with_segment("0,0.6", "0.4,1")
OF_FIT_TABLE = [
    ("a table to train on that Git LFS left", "is a pointer of Git LFS", text("corpus.csv", LFS)),
    ("column begin to train on", "column begin would say what part", named("path,speaker,split,begin")),
    ("a speaker on both sides", "split validation: 1 of its speakers are in train as well: s", table("x.wav,s,dev,4")),
    ("no training set", "no utterance is left", text("corpus.csv", "path,speaker,split,arousal\nx.wav,s,test,2\n")),
    ("an id twice", "lists 1 utterance ids more than once: good", table("good.flac,s,train,4")),
]
OF_MSP = [
    ("broken JSON labels", "broken JSON", labels("labels_consensus.json", '{"a.wav": {')),
    ("JSON labels in a list", "isn't a JSON object of objects", labels("labels_consensus.json", "[1, 2]")),
    ("labels without a split", "no column Split_Set, EmoVal, E", labels(CONSENSUS, "FileName,EmoAct,SpkrID\na,1,2\n")),
    ("labels of no utterance", "holds no row", labels(CONSENSUS, HEADER)),
    ("JSON labels nested without end", "broken JSON", labels("labels_consensus.json", "[" * 100_000)),
]
OF_SCALE = ["check", "CSVCorpus", "--corpus.path", "{here}/corpus.csv", "--corpus.scale"]
CORPORA = [
    *faults(CHECK, OF_CHECK),
    *faults(CHECK, OF_SEGMENTS, code=1),
    Fault("segments of train and test in one", CHECK, "the same sound in train and in another split", OVERLAP, code=0),
    *faults(FIT_TABLE, OF_FIT_TABLE),
    Fault("a scale upside down", [*OF_SCALE, "[7,1]"], r"scale: \(7.0, 1.0\) is an empty range", table()),
    Fault("a table of no ending", [*CHECK, "--write", "{here}"], "{here}: has the ending of no table. Give", table()),
    *faults(MSP, OF_MSP),
    Fault("a set to pre-train on that isn't", [*KMEANS, "--data.fit_splits", "[nope]"], "split nope: no such split"),
    Fault("attributes twice", [*FIT, "--model.attributes", "[arousal,arousal]"], "attribute twice"),
]
