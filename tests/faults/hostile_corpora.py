"""Label files and splits."""

from fault import CHECK, FINETUNE, FIT, Fault, Make, faults, table, text

FIT_TABLE = ["fit", *FINETUNE, "--model.attributes", "[arousal]", "--data.corpus", "{here}/corpus.csv"]
MSP = ["check", "{here}"]
HEAD = "path,speaker,split\n"


def named(columns: str) -> Make:
    """A table of these columns and a row."""
    return text("corpus.csv", f"{columns}\n{columns}\n")


OF_CHECK = [
    ("an empty table", r"corpus\.csv: no column path, speaker, split", text("corpus.csv", "")),
    ("a table of a header", "holds no row", text("corpus.csv", HEAD)),
    ("a table in Latin-1", "isn't UTF-8 text", text("corpus.csv", f"{HEAD}é,s,train".encode("latin-1"))),
    ("column channel", "column channel .* each channel as a file", named("channel,path,speaker,split")),
    ("column Offset", "column Offset would say what part", named("path,speaker,split,Offset,xmax,stop")),
    ("a blank split", "line 4: blank split", table("x.wav,s,,4")),
    ("a label of infinity", "x: arousal is 'inf', not a finite number", table("x.wav,s,train,inf")),
    ("a quote that never ends", r"line \d+: broken CSV", table('"x.wav,s,train,4')),
    ("a path longer than any", "File name too long", table(f"{'x' * 5000}.wav,s,train,4")),
    ("a cell too many", "line 4: 5 cells where the header has 4", table("x.wav,s,train,4,5")),
]
TURNS = ["annotate", "{here}/turns.tsv", "--model", "{bundle}", "--out", "{here}/out.csv", "--speaker-from", "column"]
ONSETS = text("turns.tsv", "path\tspeaker\tonset\na\tb\t1\n")
OF_FIT_TABLE = [
    ("no training set", "no utterance is left", text("corpus.csv", "path,speaker,split,arousal\nx.wav,s,test,2\n")),
    ("an id twice", "lists 1 utterance ids more than once: good", table("good.flac,s,train,4")),
]
UNSPLIT = text("Labels/labels_consensus.csv", "FileName,EmoAct,SpkrID")
CORPORA = [
    *faults(CHECK, OF_CHECK),
    Fault("turns by onset", TURNS, "column onset would say what part", ONSETS),
    *faults(FIT_TABLE, OF_FIT_TABLE),
    Fault("labels without a split", MSP, "no column Split_Set, EmoV", UNSPLIT),
    Fault("attributes twice", [*FIT, "--model.attributes", "[arousal,arousal]"], "can't be arousal, arousal"),
]
