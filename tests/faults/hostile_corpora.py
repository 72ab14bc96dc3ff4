"""Label files and splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fault import CHECK, FINETUNE, FIT, KMEANS, Fault, Good, table, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIT_TABLE = ["fit", *FINETUNE, "--model.attributes", "[arousal]", "--data.corpus", "{here}/corpus.csv"]
MSP = ["check", "{here}"]


def labels(name: str, content: str) -> Callable[[Good, Path], object]:
    """A release with this label file and nothing else."""

    def make(_good: Good, here: Path) -> None:
        (here / "Labels").mkdir()
        (here / "Labels" / name).write_text(content)

    return make


HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"

CORPORA = [
    Fault("an empty table", CHECK, r"corpus\.csv: no column path, speaker, split", text("corpus.csv", "")),
    Fault("a table of a header", CHECK, "lists no utterance", text("corpus.csv", "path,speaker,split\n")),
    Fault(
        "a table in Latin-1",
        CHECK,
        "isn't UTF-8 text",
        text("corpus.csv", "path,speaker,split\né,s,train".encode("latin-1")),
    ),
    Fault("a table in UTF-16", CHECK, "isn't UTF-8 text", text("corpus.csv", "path,speaker,split\n".encode("utf-16"))),
    Fault(
        "a picture as a table", CHECK, "isn't UTF-8 text", text("corpus.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    ),
    Fault("a quote that never ends", CHECK, r"line \d+: broken CSV", table('"x.wav,s,train,4')),
    Fault("a cell too many", CHECK, "line 4: 5 cells where the header has 4", table("x.wav,s,train,4,5")),
    Fault(
        "a column twice",
        CHECK,
        "column split more than once",
        text("corpus.csv", "path,speaker,split,split\na,b,c,d\n"),
    ),
    Fault("a blank path", CHECK, "line 4: blank path", table(",s,train,4")),
    Fault("a blank split", CHECK, "line 4: blank split", table("x.wav,s,,4")),
    Fault("a cell of a million letters", CHECK, "line 4: broken CSV", table(f"{'x' * 1_000_000},s,train,4")),
    Fault("a path of zero bytes", CHECK, "corpus.csv, .*", table("x\0.wav,s,train,4")),
    Fault("a path longer than any", CHECK, "can't be a file's name", table(f"{'x' * 5000}.wav,s,train,4")),
    Fault(
        "a label of infinity",
        CHECK,
        "x: arousal is 'inf', not a number",
        table("x.wav,s,train,inf"),
    ),
    Fault("a label beyond any float", CHECK, "x: arousal is '1e999', not a number", table("x.wav,s,train,1e999")),
    Fault("a label in words", CHECK, "arousal is '3,5', not a number", table('x.wav,s,train,"3,5"')),
    Fault("an id twice", FIT_TABLE, "lists 1 utterance ids more than once: good", table("good.flac,s,train,4")),
    Fault(
        "a speaker on both sides",
        FIT_TABLE,
        "split validation: 1 of its speakers stand in train as well: s",
        table("x.wav,s,dev,4"),
    ),
    Fault(
        "no training set",
        FIT_TABLE,
        "split train: no utterance is left to use",
        text("corpus.csv", "path,speaker,split,arousal\nx.wav,s,test,2\n"),
    ),
    Fault("a folder called a table", CHECK, "can't be read", lambda _good, here: (here / "corpus.csv").mkdir()),
    Fault(
        "a scale upside down",
        [*CHECK[:1], "CSVCorpus", "--corpus.path", "{here}/corpus.csv", "--corpus.scale", "[7,1]"],
        r"scale: \(7.0, 1.0\) is no scale",
        table(),
    ),
    Fault(
        "a split that isn't",
        [*CHECK[:1], "CSVCorpus", "--corpus.path", "{here}/corpus.csv", "--corpus.splits", "[nope]"],
        "split nope: no such split",
        table(),
    ),
    Fault("a result that can't be written", [*CHECK, "--json", "{here}"], "{here}: Is a directory", table()),
    Fault("broken JSON labels", MSP, "broken JSON", labels("labels_consensus.json", '{"a.wav": {')),
    Fault("JSON labels in a list", MSP, "isn't a JSON object of objects", labels("labels_consensus.json", "[1, 2]")),
    Fault("JSON labels nested without end", MSP, "broken JSON", labels("labels_consensus.json", "[" * 100_000)),
    Fault(
        "labels without a split",
        MSP,
        "no column EmoVal, EmoDom, Split_Set",
        labels("labels_consensus.csv", "FileName,EmoAct,SpkrID\na.wav,1,2\n"),
    ),
    Fault("labels of no utterance", MSP, "lists no utterance", labels("labels_consensus.csv", HEADER)),
    Fault("a set to pre-train on that isn't", [*KMEANS, "--data.fit_splits", "[nope]"], "split nope: no such split"),
    Fault("attributes twice", [*FIT, "--model.attributes", "[arousal,arousal]"], "attribute twice"),
]
