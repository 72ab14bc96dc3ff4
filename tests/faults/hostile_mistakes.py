"""What is mistyped, forgotten, or of another corpus, codebook or stage."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from command_line import configs
from fault import FINETUNE, FIT, FLAGS, PAPT, TEST, Fault, copied, text

HERE = ["--data.corpus", "{here}/corpus"]
LABELLED = [*PAPT, "{pseudo_labels}"]
WITHOUT_CORPUS = ["fit", *FINETUNE, "--data.corpus"]
LISTED = r"\. `ser (fit|folds) --help` lists the arguments\.$"


def no_first(corpus: Path) -> None:
    min((corpus / "Audios").iterdir()).unlink()


def silent_first(corpus: Path) -> None:
    soundfile.write(min((corpus / "Audios").iterdir()), np.zeros(16_000), 16_000)


def without_valence(corpus: Path) -> None:
    labels = corpus / "Labels" / "labels_consensus.csv"
    pd.read_csv(labels, dtype=str, keep_default_na=False).assign(EmoVal="").to_csv(labels, index=False)


changed = partial(copied, "corpus", "corpus")
CLEAN = ".*`ser check CORPUS --write clean.csv`"
OTHERS = [
    ("no sound to train on", [*FIT, *HERE], rf"Audios/\S+\.wav: .*missing or unreadable{CLEAN}", changed(no_first)),
    ("silence to train on", [*FIT, *HERE], rf"Audios/\S+\.wav: is silent{CLEAN}", changed(silent_first)),
    ("no corpus", [*WITHOUT_CORPUS, "{here}/nowhere"], "nowhere: no such corpus.*Give a folder with Labels and Audios"),
    ("no label file", [*WITHOUT_CORPUS, "{here}"], "/Labels: no label file.*Give the release", text("Labels/note", "")),
    ("no label of valence", [*FIT, *HERE], "attributes: .* label of valence.*arousal, dom", changed(without_valence)),
    ("no checkpoint to resume", [*LABELLED, "--ckpt_path", "{here}/x.ckpt"], "x.ckpt: .*no such.*`ser fit`"),
    ("a checkpoint of another stage", [*FIT, "--model.papt_checkpoint", "{finetune}"], "isn't a checkpoint of PAPT"),
    # Lightning's words
    ("the last checkpoint to test", [*TEST, "--ckpt_path", "last"], "last: no such checkpoint.*give its path"),
    ("embeddings that nobody learns", [*FIT, "--model.fusion", "first"], r"--model\.fusion first.*papt_checkpoint"),
]
MISTYPED = [
    ("unknown, of the model", ["--model.speed", "1"], "--model: Option 'speed' is not accepted"),
    ("unknown", ["--speed", "1"], "unrecognized arguments: --speed 1"),
    ("no number", ["--model.learning_rate", "fast"], "--model.learning_rate: .*'fast'"),
    ("no choice", ["--model.fusion", "middle"], "--model.fusion: middle is none of .*'first'"),
    ("of no class", ["--model.interpreter.dropout", "0"], "--model.interpreter: .*Interpreter is abstract"),
    ("no value", ["--trainer.max_epochs"], "argument --trainer.max_epochs.*: expected one argument"),
]
HUB = ["fit", *configs("finetune.yaml"), *FLAGS, "--data.corpus", "{corpus}"]
HUB += ["--model.encoder.pretrained", "nobody/nothing"]
WORDS = [
    ("no config", [*FIT, "--config", "{here}/no.yaml"], r"no\.yaml: no such config file.*one that ships"),
    ("a config misspelt", [*FIT, "--config", "paptt.yaml"], "paptt.yaml: no such config file.*Did you mean papt.yaml"),
    ("a fit of nothing", ["fit"], "the following arguments are required: --data, --model"),
    ("a hub name out of reach", HUB, "encoder nobody/nothing: can't be loaded.*--model.encoder TinyEncoder"),
    ("a command of others", ["train"], "^ser: train: no such command. Did you mean `ser fit`\\?$"),
    ("a command misspelt", ["anotate"], "^ser: anotate: no such command. Did you mean `ser annotate`\\?$"),
    ("a word too many", ["folds", "c", "d", "--out", "o"], rf"unrecognized arguments: d{LISTED}"),
    ("a corpus twice", ["folds", "c", "--corpus", "d", "--out", "o"], rf"unrecognized arguments: c{LISTED}"),
    ("no truth", ["folds", "c", "--out", "o", "--replace", "perhaps"], rf"--replace: perhaps is no bool{LISTED}"),
    ("no command", ["sing"], "sing: no such command.*`ser --help` lists them"),
    ("a flag misspelt", [*FIT, "--model.learing_rate", "1"], r"Did you mean --model.learning_rate\?"),
    ("a test of PAPT", ["test", *LABELLED[1:], "--ckpt_path", "{papt}"], "ser test: No `test_step"),
    ("no accelerator", [*FIT, "--trainer.accelerator", "abacus"], "ser fit: .*abacus.*--help` lists the arguments"),
    ("a folder that is a file", LABELLED, "run.*: (Not a directory|File exists).*Check the path", text("run", "")),
]
MISTAKES = [
    *(Fault(name, command, *rest) for name, command, *rest in (*OTHERS, *WORDS)),
    *(Fault(f"an argument: {name}", [*FIT, *words], f"^ser: {says}.*{LISTED}") for name, words, says in MISTYPED),
]
