"""Flags that remedies name: commands that fail, and what of their line is pasted; and why others can't be."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from command_line import configs
from fault import CHECK, FIT, KMEANS, PAPT, TEST, Good, copied, sound, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Pasted(NamedTuple):
    """A command that fails, and words of its line.

    Attributes:
        remedy: a piece of the remedy in the source, by which it is counted as pasted.
        words: flags as the line has them.
        command: as in `Fault`; the words are appended to it.
        make: makes what the command needs.
        then: what the command with the words says where it needs more than them.
    """

    remedy: str
    words: str
    command: list[str]
    make: Callable[[Good, Path], object] = lambda _good, _here: None
    then: str = ""


SHORT = [*FIT, "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--data.num_workers", "0"]
RAW = [*SHORT, "--model.encoder", "LogMelEncoder", "--model.fusion"]
ANNOTATE = ["annotate", "{here}/speech", "--out", "{here}/out.csv", "--device", "cpu", "--cut", "windows", "--model"]
UNLEARNT = "speaker embeddings are neither pre-trained nor learnt here"


def speech(_good: Good, here: Path) -> None:
    (here / "speech" / "anna").mkdir(parents=True)
    sound(here / "speech" / "anna" / "a.wav", 48_000)


def earlier_fit(_good: Good, here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "finetune.ckpt").touch()


def checked(good: Good, here: Path) -> None:
    table()(good, here)
    (here / "clean.csv").touch()


def annotated(_good: Good, here: Path) -> None:
    rows = "speaker,start,end,arousal_calibrated,arousal_raw,file\na,0,1,4,3,a.wav\n"
    (here / "two.csv").write_text(rows)
    (here / "timeline.html").touch()


PASTED = [
    Pasted(
        "such as --ckpt_path finetune.ckpt",
        "--ckpt_path finetune.ckpt",
        TEST,
        copied("finetune", "finetune.ckpt", lambda _: None),
    ),
    Pasted("Give --trainer.precision", "--trainer.precision bf16-mixed", [*SHORT, "--trainer.precision", "bf16-true"]),
    Pasted(
        "Append yours by --trainer.callbacks+",
        "--trainer.enable_checkpointing false",
        [*SHORT, "--trainer.callbacks", "LearningRateMonitor"],
    ),
    Pasted("Give --model.fusion last", "--model.fusion last", [*RAW, "prefix"], then=UNLEARNT),
    Pasted("or set --model.train_speaker_embedding true", "--model.train_speaker_embedding true", [*RAW, "last"]),
    Pasted(
        "or --model.encoder TinyEncoder",
        "--model.encoder TinyEncoder",
        [*SHORT, "--model.encoder", "HubertEncoder", "--model.encoder.pretrained", "{here}/none"],
    ),
    Pasted("replace it with --replace, or give another", "--replace", SHORT, earlier_fit),
    Pasted(
        "Give another name, or replace it with --replace",
        "--replace",
        [*CHECK, "--write", "{here}/clean.csv"],
        checked,
    ),
    Pasted(
        "Give --data.augmentation null, or",
        "--data.augmentation null",
        [*SHORT, *configs("cached.yaml", "tiny/cached.yaml"), "--data.augmentation.gain", "[0,6]"],
        then="no cached features here",
    ),
    Pasted("--codebook null fits one", "--codebook null", [*KMEANS, "--codebook", "{here}/none.safetensors"]),
    Pasted(
        "--model.released_head null makes a fresh one",
        "--model.released_head null",
        [
            *(*PAPT, "{pseudo_labels}", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"),
            *("--data.num_workers", "0", "--model.released_head", "{here}/none.safetensors"),
        ],
    ),
    Pasted(
        "or give --calibration pldc",
        "--calibration pldc",
        [*ANNOTATE, "{bundle}", "--calibration", "posterior"],
        speech,
    ),
    Pasted(
        "Give --cut windows with it",
        "--cut windows",
        [*ANNOTATE[:-3], "--hop_seconds", "1", "--model", "{bundle}"],
        speech,
    ),
    Pasted("Write --out", "--out two_timeline.html", ["report", "two.csv"], annotated),
    Pasted("Write --out", "--out page.html", ["report", "two.csv", "--out", "page"], annotated),
]
# why others aren't pasted -> pieces of their remedies
UNPASTED = {
    "the value, or the name of a file, is the user's to find": (
        "give that as --data.cache",
        "Give an --out that all machines share",
        "leave --data.speaker_features out",
        "Give --out another folder",
        "Give another --out, the same settings",
        "Give the --teacher that it was fitted on",
        "give its path to --ckpt_path",
        "Give the --model.interpreter that it was trained with",
        "or --model.papt_checkpoint",
        "Give the config, and --model.",
        "Run `ser kmeans --codebook CODEBOOK`",
        "Name other sets by --data.splits",
        "Write them by `ser kmeans --codebook`",
        "import it with its own codebook",
        "Add --codebook released/codebook.safetensors",
        "Give --out another one, or delete it",
        "Export it with --bank'",
        "Give --segments an RTTM file",
        "or other --attributes",
        "Add it, such as --attributes",
        "Write it as in --add",
        "Run --shard",
        "Make them first, with --shard",
        "Give --channel each",
        "Give --channel left, right or mix",
        "or another --channel",
        "Give --data.speaker_features, such as",
        "give --data.cache what `ser cache",
        "Give --data CachedEmotionDataModule",
        "such as --data.augmentation.noise FOLDER",
        "such as --model.interpreter.scale",
    ),
    "the command then runs until it is stopped": ("or --port 0 for any that is free",),
    "it takes a flag away": (
        "Leave --channel out",
        "Leave --layer out",
        "Give either --encoder or --checkpoint",
        "Leave --speaker_from out",
        "Leave --onnx out",
        "Leave it out; rates are",
        "Leave --revision out",
        "Leave --calibration and --pldc out",
        "or leave --corpus out",
        "Leave --model.",
        "Leave it out; rates are --model.learning_rate",
    ),
    "it lists": ("--help` list",),
    "it is for another command, which runs long": (
        "or test a model of them",
        "or fine-tune again without --model.lora.adapters_alone",
        "Give the folder of a test run",
        "Give one written by `ser fit --config",
        "Train with --model.speakers SpeakerEmbedding",
        "Test on a set with labels",
        "give --calibration pldc'",
    ),
    "another test pastes it, or has it with what is installed": (
        "or give --data.num_workers 0",  # tests/data/test_datamodule.py
        "If you trust it, give `--import",  # tests/recognition/test_bundle.py
        "Repeat them by `--replace true`",  # tests/study/test_runner.py
        "Add --push owner/name",  # tests/sharing/test_hub.py
        "or add --public",
        "Add --group_speakers 5",
        "or give --cut energy",
        "--calibration none, in Python",
        "such as CSVCorpus --corpus.path",
        "or give --cut windows'",
        "--data.speaker_selection null for everyone",
        "Give --model.lora.adapters_alone false",  # tests/stages/test_encoders_of_today.py
        "Add --model.encoder.freeze_layers 0",
    ),
    "it is SLURM's, or a number to lower": ("Ask SLURM for", "or lower --model.learning_rate"),
    "it needs another encoder, or other data": (
        "or --data EmotionDataModule",
        "Give --data EmotionDataModule",
        "Give --model.speakers ",
        "or train without embeddings",
        "or give --model.encoder HubertEncoder",
    ),
}
