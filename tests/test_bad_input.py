"""Each mistake of a user's ends in one line: what is wrong, where, and what to do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from command_line import configs, finetune_arguments, papt_arguments, ser, trainer_flags

from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans


@pytest.fixture
def given(synthetic_corpus, synthetic_pseudo_labels, papt_checkpoint, finetuned_checkpoint, tmp_path):
    """What is right, for a test to break one thing of it."""
    flags = trainer_flags(tmp_path)
    return SimpleNamespace(
        folder=tmp_path,
        corpus=synthetic_corpus,
        pseudo_labels=synthetic_pseudo_labels,
        papt_checkpoint=papt_checkpoint,
        finetuned_checkpoint=finetuned_checkpoint,
        papt=["fit", *papt_arguments(synthetic_corpus, synthetic_pseudo_labels), *flags],
        finetune=["fit", *finetune_arguments(synthetic_corpus), *flags],
        test=["test", *finetune_arguments(synthetic_corpus), *configs("pldc.yaml"), *flags],
        kmeans=["kmeans", *configs("kmeans.yaml", "tiny/kmeans.yaml"), "--out", tmp_path / "pseudo_labels"],
    )


@pytest.fixture
def refused(capsys):
    """Runs `ser` on a mistake and demands one line like this of it."""

    def run(arguments, *parts):
        capsys.readouterr()
        assert ser(*arguments) == 2
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        assert "usage:" not in shown.out + shown.err
        lines = [line for line in shown.err.splitlines() if line.startswith("ser: ")]
        assert len(lines) == 1
        assert shown.err.endswith(f"{lines[0]}\n")
        for part in parts:
            assert re.search(part, lines[0]), lines[0]

    return run


def with_file(corpus: Path, folder: Path, content: bytes | None, samples: int = 0) -> Path:
    """The same corpus, but for one recording of the training set."""
    copy = folder / "broken"
    shutil.copytree(corpus, copy)
    label_file = copy / "Labels" / "labels_consensus.csv"
    name = next(line.split(",")[0] for line in label_file.read_text().splitlines() if ",Train" in line)
    path = copy / "Audios" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    elif samples:
        soundfile.write(path, np.zeros(samples), 16_000)
    return copy


@pytest.mark.parametrize(
    ("content", "samples", "what"),
    [(None, 0, "missing or unreadable"), (b"noise", 0, "unreadable"), (b"", 0, "unreadable"), (None, 399, "shorter")],
    ids=["missing", "unreadable", "empty", "too short"],
)
def test_unusable_audio(given, refused, content, samples, what):
    corpus = ["--data.corpus", with_file(given.corpus, given.folder, content, samples)]
    told = (r"Audios/\S+\.wav: ", what, "`ser check CORPUS --write clean.csv`")
    refused([*given.finetune, *corpus], *told)
    refused([*given.papt, *corpus], *told)
    refused(
        [*given.kmeans, *corpus],
        r"\.wav: audio is (missing or unreadable|shorter than 400 samples), the first of 1 such utterances",
        "`ser check CORPUS --write clean.csv`",
    )


def test_no_corpus(given, refused):
    nowhere = ["--data.corpus", given.folder / "nowhere"]
    for command in (given.finetune, given.papt, given.kmeans):
        refused([*command, *nowhere], "nowhere: no such corpus", "Give a folder with Labels and Audios")
    refused(["check", given.folder / "nowhere"], "no such corpus")
    refused([*given.finetune, "--data.corpus", given.folder / "c.csv"], r"c\.csv: no such file", "Check the spelling")
    arguments = ["check", given.folder / "c.csv", "--corpus.scale", "[1,5]"]
    refused(arguments, "no corpus class has this name", "such as CSVCorpus --corpus.path")
    arguments = ["check", "CSVCorpus", "--corpus.path", given.folder / "c.csv", "--corpus.adaptation_seconds"]
    refused([*arguments, "-1"], "--corpus.adaptation_seconds: -1 is out of range")


def test_no_label_file(given, refused):
    (given.folder / "empty" / "Labels").mkdir(parents=True)
    refused(
        [*given.finetune, "--data.corpus", given.folder / "empty"], "empty/Labels: no label file", "Give the release"
    )


def test_wrong_columns(given, refused):
    (given.folder / "c.csv").write_text("path,talker,split\na.wav,a,train\n")
    refused(
        [*given.finetune, "--data.corpus", given.folder / "c.csv"], "c.csv: no column speaker", "found: path, talker"
    )


@pytest.mark.parametrize(
    ("label", "what"), [("8.5", "EmoAct|arousal is 8.5, outside the scale 1 to 7"), ("high", "'high', not a number")]
)
def test_impossible_labels(given, refused, relabelled, label, what):
    corpus = relabelled(lambda row: row.update(EmoAct=label))
    refused(
        [*given.finetune, "--data.corpus", corpus], "labels_consensus.csv, ", what, "Correct the label|Write a number"
    )


def test_no_such_split(given, refused):
    told = ("split test7: no such split", "Choose among train, validation, test1")
    checkpoint = ["--ckpt_path", given.finetuned_checkpoint]
    refused([*given.test, *checkpoint, "--data.test_splits", "[test7]"], *told)
    refused([*given.papt, "--data.splits", "[test7]"], *told)
    refused([*given.kmeans, "--data.corpus", given.corpus, "--data.splits", "[test7]"], *told)


def test_unknown_attributes(given, refused, relabelled):
    anger = [*given.finetune, "--model.attributes", "[arousal,anger]"]
    refused(anger, "--model.attributes: anger is none of 'arousal', 'valence', 'dominance'")
    corpus = relabelled(lambda row: row.update(EmoVal=""))
    refused([*given.finetune, "--data.corpus", corpus], "--model.attributes: .* label of valence", "arousal, dominance")


def test_pseudo_labels_of_another_corpus(given, refused, relabelled):
    refused([*given.papt, "--data.pseudo_labels", given.folder / "none"], "none: no pseudo-labels here", "`ser kmeans`")
    corpus = relabelled(dict.copy)
    (corpus / "Audios").unlink()
    shutil.copytree(given.corpus / "Audios", corpus / "Audios")
    for path in (corpus / "Audios").iterdir():
        soundfile.write(path, np.zeros(20_000), 16_000)
    refused([*given.papt, "--data.corpus", corpus], r"pseudo-labels for the \d+ frames of", "Run `ser kmeans`")


@pytest.mark.parametrize("change", [{"num_clusters": 9}, {"num_clusters": 12, "seed": 1}], ids=["K", "codebook"])
def test_pseudo_labels_of_another_codebook_than_the_checkpoints(given, refused, change):
    other = given.folder / "other"
    kmeans(PseudoLabelData(str(given.corpus)), out=str(other), iterations=10, **change)
    arguments = [*given.papt[1:], "--data.pseudo_labels", other, "--ckpt_path", given.papt_checkpoint]
    for command in ("fit", "validate"):
        refused([command, *arguments], "codebook|pseudo-labels")


def test_kmeans_with_other_settings_in_the_same_folder(given, refused):
    shutil.copytree(given.pseudo_labels, given.folder / "pseudo_labels")
    command = [*given.kmeans, "--data.corpus", given.corpus]
    refused(command, "pseudo_labels: was made with other settings", "num_clusters 12, now 100", "another --out")


def foreign(given) -> Path:
    torch.save({"state_dict": {}, "hyper_parameters": {}}, given.folder / "foreign.ckpt")
    return given.folder / "foreign.ckpt"


def truncated(given) -> Path:
    (given.folder / "half.ckpt").write_bytes(given.papt_checkpoint.read_bytes()[:10_000])
    return given.folder / "half.ckpt"


def a_table(given) -> Path:
    return given.corpus / "Labels" / "labels_consensus.csv"


def missing(given) -> Path:
    return given.folder / "missing.ckpt"


NO_CHECKPOINTS = {foreign: "isn't a checkpoint", truncated: "truncated", a_table: "no checkpoint", missing: "no such"}


@pytest.mark.parametrize("make", NO_CHECKPOINTS)
def test_what_is_no_checkpoint(given, refused, make):
    path = make(given)
    told = (f"{path}: .*{NO_CHECKPOINTS[make]}", "`ser fit`")
    refused([*given.finetune, "--model.papt_checkpoint", path], *told)
    refused([*given.test, "--ckpt_path", path], *told)
    refused([*given.papt, "--ckpt_path", path], *told)


def test_a_checkpoint_of_another_stage(given, refused):
    refused(
        [*given.finetune, "--model.papt_checkpoint", given.finetuned_checkpoint],
        "finetune.ckpt: isn't a checkpoint of PAPT or TAPT",
        "configs/papt.yaml",
    )


@pytest.mark.parametrize("stage", ["test", "validate", "predict"])
def test_no_checkpoint_to_score(given, refused, stage):
    told = (f"ser {stage}: no checkpoint to score", "Give --ckpt_path")
    refused([stage, *given.test[1:]], *told)
    refused([stage, *given.test[1:], "--ckpt_path", "null"], *told)


@pytest.mark.parametrize("word", ["last", "best"])
def test_lightnings_words_for_checkpoints_are_no_files(given, refused, word):
    refused([*given.test, "--ckpt_path", word], f"{word}: no such checkpoint", "give its path")


def test_a_fit_knows_no_best_checkpoint_to_go_on_from(given, refused):
    refused([*given.papt, "--ckpt_path", "best"], "best: no such checkpoint", "give its path")


def test_a_checkpoint_to_resume_with_other_speakers(given, refused, relabelled):
    corpus = relabelled(lambda row: row.update(SpkrID=f"new{row['SpkrID']}"))
    resume = ["--data.corpus", corpus, "--ckpt_path", given.papt_checkpoint]
    refused([*given.papt, *resume], "other speakers than this corpus has", "start a fresh fit")


def test_speaker_embeddings_that_nobody_learns(given, refused):
    refused([*given.finetune, "--model.fusion", "first"], "--model.fusion first", "papt_checkpoint")


@pytest.mark.parametrize("command", ["finetune", "test", "kmeans"])
def test_configs_that_are_none(given, refused, command):
    arguments = getattr(given, command)
    refused([*arguments, "--config", given.folder / "no.yaml"], r"no\.yaml: no such config file", "one that ships")
    (given.folder / "bad.yaml").write_text("trainer:\n  max_epochs: [1\nmodel: PAPT\n")
    refused([*arguments, "--config", given.folder / "bad.yaml"], r"bad\.yaml, line 3: isn't YAML", "Correct the file")
    (given.folder / "text.yaml").write_text("just words\n")
    refused([*arguments, f"--config={given.folder / 'text.yaml'}"], r"text\.yaml: holds no values by name")


ARGUMENTS = {
    "unknown, of the model": (["--model.speed", "1"], "--model: Option 'speed' is not accepted"),
    "unknown, of a callback": (["--trainer.callbacks.kk", "1"], "--trainer.callbacks: Option 'kk' is not accepted"),
    "unknown": (["--speed", "1"], "unrecognized arguments: --speed 1"),
    "no number": (["--model.learning_rate", "fast"], "--model.learning_rate: fast is no float"),
    "no integer": (["--trainer.max_epochs", "ten"], "--trainer.max_epochs: ten is no int"),
    "nested": (["--model.encoder.dim", "wide"], "--model.encoder.dim: wide is no int"),
    "no choice": (["--model.fusion", "middle"], "--model.fusion: middle is none of 'none', 'first', 'prefix'"),
    "no model": (["--model", "EmotionFinetuning"], "--model: EmotionFinetuning is no class to choose here"),
    "no encoder": (["--model.encoder", "Huge"], "--model.encoder: Huge is no class to choose here"),
    "no data": (["--data", "Nothing"], "--data: Nothing is no class to choose here"),
    "no value": (["--trainer.max_epochs"], "argument --trainer.max_epochs.*: expected one argument"),
}


@pytest.mark.parametrize("mistake", ARGUMENTS)
def test_wrong_arguments_of_a_stage(given, refused, mistake):
    arguments, what = ARGUMENTS[mistake]
    refused([*given.finetune, *arguments], f"^ser: {what}", r"\. `ser fit --help` lists the arguments\.$")


def test_an_unknown_value_in_a_config(given, refused):
    path = given.folder / "c.yaml"
    path.write_text("model:\n  class_path: EmotionFineTuning\n  init_args: {speed: 3}\n")
    refused([*given.finetune, "--config", path], "--model: Option 'speed' is not accepted")
    path.write_text("speed: 3\n")
    refused([*given.finetune, "--config", path], "Subcommand 'fit' does not accept option 'speed'")
    refused([*given.kmeans, "--config", path], "Option 'speed' is not accepted")


def test_left_out_arguments(refused):
    refused(["fit"], "the following arguments are required: --data, --model")
    refused(["kmeans"], "the following arguments are required: data", "`ser kmeans --help`")
    refused(["check"], "the following arguments are required: corpus")
    refused(["import", "nowhere.bin", "--out", "x"], "nowhere.bin: no such file")


def test_wrong_arguments_of_a_command(given, refused):
    refused([*given.kmeans, "--num-clusters", "many"], "--num_clusters: many is no int", "`ser kmeans --help`")
    refused([*given.kmeans, "--teacher", "Nobody"], "--teacher: Nobody is no class to choose here")
    refused(["synth", "--out", given.folder / "s", "--speakers", "-3"], "--speakers: -3 is out of range")
    refused(["sing"], "sing: no such command", "`ser --help` lists them")
    refused(
        [*given.finetune, "--model.learing_rate", "1"], "'learing_rate' is not", r"Did you mean --model.learning_rate\?"
    )
    refused(
        [*given.finetune, "--trainer.max_epoch", "1"], "--trainer.max_epoch 1", r"Did you mean --trainer.max_epochs\?"
    )


def test_an_unreachable_hub_name(given, refused, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub = ["--data.corpus", given.corpus, "--model.encoder.pretrained", "nobody/nothing"]
    arguments = ["fit", *configs("finetune.yaml"), *hub, *trainer_flags(given.folder)]
    refused(arguments, "encoder nobody/nothing: can't be loaded", "--model.encoder TinyEncoder")


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        ("finetune", "--model.learning_rate", "0"),
        ("finetune", "--model.learning_rate", "inf"),
        ("finetune", "--model.encoder.layers", "0"),
        ("finetune", "--data.batch_seconds", "0"),
        ("papt", "--model.mask_length", "0"),
        ("papt", "--data.max_samples", "0"),
        ("test", "--trainer.callbacks.k", "0"),
        ("kmeans", "--iterations", "0"),
        ("kmeans", "--num_clusters", "0"),
        ("kmeans", "--num_clusters", "65537"),
        ("kmeans", "--data.batch_seconds", "0"),
        ("kmeans", "--data.batch_seconds", "inf"),
    ],
)
def test_numbers_out_of_range(given, refused, command, flag, value):
    corpus = ["--data.corpus", given.corpus] if command == "kmeans" else []
    checkpoint = ["--ckpt_path", given.finetuned_checkpoint] if command == "test" else []
    name = flag.rpartition(".")[2].removeprefix("--")
    refused(
        [*getattr(given, command), *corpus, *checkpoint, flag, value], rf"{name}\b.* {value}(\.0)? .*is out of range"
    )


def test_an_accelerator_that_is_none(given, refused):
    command = [*given.kmeans, "--data.corpus", given.corpus, "--accelerator", "quantum"]
    refused(command, "accelerator quantum, .*precision 32-true: You selected an invalid accelerator name")


def test_damaged_pseudo_labels(given, refused):
    folder = shutil.copytree(given.pseudo_labels, given.folder / "damaged")
    next(folder.glob("batch-*")).write_bytes(b"rubbish")
    command = [*given.papt, "--data.pseudo_labels", folder]
    refused(command, r"batch-\w+\.safetensors: pseudo-labels are damaged", "`ser kmeans` again into a new one")


def test_what_lightning_refuses(given, refused):
    logger = [*given.papt, "--trainer.logger", "false"]
    refused(logger, "ser fit: Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger")
    papt = ["test", *given.papt[1:], "--ckpt_path", given.papt_checkpoint]
    refused(papt, "ser test: No `test_step")
    refused([*given.papt, "--trainer.accelerator", "abacus"], "ser fit: .*abacus", "--help` lists the arguments")


def test_a_folder_that_is_a_file(given, refused):
    (given.folder / "taken").write_text("")
    folder = ["--trainer.default_root_dir", given.folder / "taken"]
    refused([*given.papt, *folder], "taken.*: (Not a directory|File exists)", "Check the path")
