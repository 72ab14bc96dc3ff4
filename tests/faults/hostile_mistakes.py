"""What is mistyped, forgotten, or of another corpus, codebook or stage."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from command_line import configs
from fault import FINETUNE, FIT, FLAGS, KMEANS, PAPT, TEST, Fault, Good, Make, labels, text

from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans

HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
HERE = ["--data.corpus", "{here}/corpus"]
LABELLED = [*PAPT, "{pseudo_labels}"]
WITHOUT_CORPUS = ["fit", *FINETUNE, "--data.corpus"]
LISTED = r"\. `ser fit --help` lists the arguments\.$"


def copied_corpus(samples: int) -> Make:
    """The corpus with silence of so many samples as its first training utterance; no file at all if 0."""

    def make(good: Good, here: Path) -> None:
        copy = shutil.copytree(good.corpus, here / "corpus")
        lines = (copy / "Labels" / "labels_consensus.csv").read_text().splitlines()
        path = copy / "Audios" / next(line.split(",")[0] for line in lines if ",Train" in line)
        path.unlink()
        if samples:
            soundfile.write(path, np.zeros(samples), 16_000)

    return make


def without_valence(good: Good, here: Path) -> None:
    (here / "corpus" / "Labels").mkdir(parents=True)
    (here / "corpus" / "Audios").symlink_to(good.corpus / "Audios")
    labelled = pd.read_csv(good.corpus / "Labels" / "labels_consensus.csv", dtype=str, keep_default_na=False)
    labelled.assign(EmoVal="").to_csv(here / "corpus" / "Labels" / "labels_consensus.csv", index=False)


def clustered(**settings: int) -> Make:
    return lambda good, here: kmeans(PseudoLabelData(str(good.corpus)), out=str(here / "o"), iterations=10, **settings)


CLEAN = ".*`ser check CORPUS --write clean.csv`"
OTHER_SOUND = [
    ("no sound to train on", [*FIT, *HERE], rf"Audios/\S+\.wav: .*missing or unreadable{CLEAN}", copied_corpus(0)),
    ("silence to train on", [*FIT, *HERE], rf"Audios/\S+\.wav: is silent{CLEAN}", copied_corpus(16_000)),
    ("a sound too short for PAPT", [*LABELLED, *HERE], rf"Audios/\S+\.wav: .*shorter{CLEAN}", copied_corpus(399)),
    (
        "pseudo-labels of other sounds",
        [*LABELLED, *HERE],
        r"audio has changed since its pseudo-labels in .* were made\. Run `ser kmeans`",
        copied_corpus(20_000),
    ),
]
OTHER_CODEBOOK = [*PAPT[1:], "{here}/o", "--ckpt_path", "{papt}"]
OF_CLASS = ["check", "CSVCorpus", "--corpus.path", "{here}/c.csv", "--corpus.adaptation_seconds"]
NO_SPLIT = "split test7: no such split.*Choose among train, validation, test1"
OTHER_CORPUS = [
    ("no corpus", [*WITHOUT_CORPUS, "{here}/nowhere"], "nowhere: no such corpus.*Give a folder with Labels and Audios"),
    ("no table", [*WITHOUT_CORPUS, "{here}/c.csv"], r"c\.csv: no such file.*Check the spelling"),
    ("fewer seconds than none", [*OF_CLASS, "-1"], "--corpus.adaptation_seconds: -1 is out of range"),
    ("no label file", [*WITHOUT_CORPUS, "{here}"], "/Labels: no label file.*Give the release", text("Labels/note", "")),
    (
        "a label beyond the scale",
        [*WITHOUT_CORPUS, "{here}"],
        r"labels_consensus\.csv, .*(EmoAct|arousal) is 8\.5, outside the scale 1 to 7.*Correct the label",
        labels("labels_consensus.csv", HEADER + "a.wav,N,8.5,4,4,1,Male,Train\n"),
    ),
    ("no such set to test", [*TEST, "--ckpt_path", "{finetune}", "--data.test_splits", "[test7]"], NO_SPLIT),
    ("an attribute that isn't", [*FIT, "--model.attributes", "[arousal,anger]"], "'arousal', .*Got value: anger"),
    ("an attribute without labels", [*FIT, *HERE], "attributes: .* label of valence.*arousal, dom", without_valence),
    ("no pseudo-labels", [*PAPT, "{here}/none"], "none: no pseudo-labels here.*`ser kmeans`"),
    ("pseudo-labels of another K", ["fit", *OTHER_CODEBOOK], "codebook|pseudo-labels", clustered(num_clusters=9)),
    ("those of another seed", ["validate", *OTHER_CODEBOOK], "codebook|pseudo", clustered(num_clusters=12, seed=1)),
]
OTHER_CHECKPOINT = [
    ("no checkpoint to resume", [*LABELLED, "--ckpt_path", "{here}/x.ckpt"], "x.ckpt: .*no such.*`ser fit`"),
    ("a checkpoint of another stage", [*FIT, "--model.papt_checkpoint", "{finetune}"], "isn't a checkpoint of PAPT"),
    *(
        (f"nothing to {stage}", [stage, *TEST[1:]], f"ser {stage}: no checkpoint to score.*Give --ckpt_path")
        for stage in ("test", "validate", "predict")
    ),
    # Lightning's words
    ("the last checkpoint to test", [*TEST, "--ckpt_path", "last"], "last: no such checkpoint.*give its path"),
    ("the best checkpoint to resume", [*LABELLED, "--ckpt_path", "best"], "best: no such checkpoint.*give its path"),
    ("embeddings that nobody learns", [*FIT, "--model.fusion", "first"], r"--model\.fusion first.*papt_checkpoint"),
]
MISTYPED = [
    ("unknown, of the model", ["--model.speed", "1"], "--model: Option 'speed' is not accepted"),
    ("unknown, of a callback", ["--trainer.callbacks.kk", "1"], "--trainer.callbacks: Option 'kk' is not accepted"),
    ("unknown", ["--speed", "1"], "unrecognized arguments: --speed 1"),
    ("no number", ["--model.learning_rate", "fast"], "--model.learning_rate: .*'fast'"),
    ("nested", ["--model.encoder.dim", "wide"], "--model.encoder.dim: .*'wide'"),
    ("no choice", ["--model.fusion", "middle"], "--model.fusion: .*'first', .* middle"),
    ("no encoder", ["--model.encoder", "Huge"], "--model.encoder: Huge is no class to choose here"),
    ("of no class", ["--model.interpreter.dropout", "0"], "--model.interpreter: .*Interpreter is abstract"),
    ("no value", ["--trainer.max_epochs"], "argument --trainer.max_epochs.*: expected one argument"),
]
HUB = ["fit", *configs("finetune.yaml"), *FLAGS, "--data.corpus", "{corpus}"]
HUB += ["--model.encoder.pretrained", "nobody/nothing"]
WORDS = [
    ("no config", [*FIT, "--config", "{here}/no.yaml"], r"no\.yaml: no such config file.*one that ships"),
    ("a config misspelt", [*FIT, "--config", "paptt.yaml"], "paptt.yaml: no such config file.*Did you mean papt.yaml"),
    ("no part's value", [*FIT, "--config", "{here}/c.yaml"], "fit' does not acc.* 'speed'", text("c.yaml", "speed: 3")),
    ("a fit of nothing", ["fit"], "the following arguments are required: --data, --model"),
    ("a hub name out of reach", HUB, "encoder nobody/nothing: can't be loaded.*--model.encoder TinyEncoder"),
    ("a check of nothing", ["check"], "the following arguments are required: corpus"),
    ("nothing to import", ["import", "nowhere.bin", "--out", "x"], "nowhere.bin: no such file"),
    ("no teacher", [*KMEANS, "--teacher", "Nobody"], "--teacher: Nobody is no class to choose here"),
    ("inside a class", [*KMEANS, "--data.num_workers", "-1"], "--data.num_workers: -1 is out.*`ser kmeans --help`"),
    ("a command misspelt", ["anotate"], "^ser: anotate: no such command. Did you mean `ser annotate`\\?$"),
    ("no command", ["sing"], "sing: no such command.*`ser --help` lists them"),
    ("a flag misspelt", [*FIT, "--model.learing_rate", "1"], r"Did you mean --model.learning_rate\?"),
    ("a flag cut off", [*FIT, "--trainer.max_epoch", "1"], r"max_epoch 1.*Did you mean --trainer.max_epochs\?"),
    ("no logger for rates", [*LABELLED, "--trainer.logger", "false"], "fit: Cannot use `LearningRateMonitor` .*logger"),
    ("a test of PAPT", ["test", *LABELLED[1:], "--ckpt_path", "{papt}"], "ser test: No `test_step"),
    ("no accelerator", [*FIT, "--trainer.accelerator", "abacus"], "ser fit: .*abacus.*--help` lists the arguments"),
    ("a folder that is a file", LABELLED, "run.*: (Not a directory|File exists).*Check the path", text("run", "")),
    ("a mask of no length", [*LABELLED, "--model.mask_length", "0"], "--model.mask_length: 0 is out of range"),
]
MISTAKES = [
    *(Fault(name, command, *rest) for name, command, *rest in (*OTHER_SOUND, *OTHER_CORPUS, *OTHER_CHECKPOINT, *WORDS)),
    *(Fault(f"an argument: {name}", [*FIT, *words], f"^ser: {says}.*{LISTED}") for name, words, says in MISTYPED),
]
