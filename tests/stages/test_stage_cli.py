import json
import re
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import configs, finetune_arguments, papt_arguments, ser, stage, trainer_flags

from ser_personal import MSPPodcast
from ser_personal.arguments import parse
from ser_personal.corpus.csv_corpus import write_corpus
from ser_personal.corpus.synthetic import synth
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.errors import UserError
from ser_personal.evaluation.pldc_callback import PLDCCallback
from ser_personal.pretrain.kmeans import kmeans
from ser_personal.speakers.unseen import Zero
from ser_personal.training.checkpoints import StageCheckpoint

INTERPRETER = ["--model.interpreter", "MLPInterpreter", "--model.interpreter.hidden_dims", "[16]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, synthetic_corpus, synthetic_pseudo_labels) -> Path:
    """PAPT and, from it, fine-tuning for valence with a small interpreter, by the command line."""
    folder = tmp_path_factory.mktemp("run")
    flags = trainer_flags(folder)
    # a number of a restricted type, which a checkpoint must not hold as such
    table = ["--model.speakers", "SpeakerEmbedding", "--model.speakers.embedding_dim", "128"]
    assert ser("fit", *papt_arguments(synthetic_corpus, synthetic_pseudo_labels), *table, *flags) == 0
    unseen = ["--model.speakers", "SpeakerEmbedding", "--model.speakers.unseen", "Zero"]
    changes = ["--model.attributes", "[valence]", "--model.min_utterances", "4", *INTERPRETER, *unseen]
    source = ["--model.papt_checkpoint", folder / "papt.ckpt"]
    assert ser("fit", *finetune_arguments(synthetic_corpus), *source, *changes, *flags) == 0
    return folder


@pytest.fixture
def build(monkeypatch, tmp_path):
    """Parses and instantiates what a stage's command line names, and runs nothing."""
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI._run_subcommand", lambda *_: None)
    return lambda *words: stage(*words, *trainer_flags(tmp_path))


def test_checkpoints_win_over_yaml_and_flags_over_both(run, build, synthetic_corpus, finetuned_checkpoint, monkeypatch):
    said = []
    monkeypatch.setattr("ser_personal.stages.stage_cli.rank_zero_info", said.append)
    checkpoint = ["--ckpt_path", run / "finetune.ckpt", "--model.min_utterances", "2"]
    cli = build("test", *configs("finetune.yaml"), "--data.corpus", synthetic_corpus, *checkpoint)
    assert cli.model.attributes == ["valence"]
    assert isinstance(cli.model.personalized.encoder, TinyEncoder)
    assert any("model.encoder = ser_personal.encoder.hubert.TinyEncoder" in line for line in said)
    assert cli.model.interpreter.hidden_dims == (16,)
    assert isinstance(cli.model.personalized.speakers.unseen, Zero)
    assert cli.model.metric.min_utterances == 2
    replaced = f"from {run / 'finetune.ckpt'}: model.attributes = ['valence'] (the config had "
    assert any(line.startswith(replaced) for line in said)
    assert not [line for line in said if "min_utterances" in line]
    # one of the library, without the command line
    cli = build("test", *finetune_arguments(synthetic_corpus), "--ckpt_path", finetuned_checkpoint)
    assert cli.model.attributes == ["arousal", "valence"]


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ([*INTERPRETER[:3], "[8]"], "hidden_dims .*Leave --model.interpreter"),
        (["--model.fusion", "first"], "fusion last, not first"),
        (["--model.speakers", "SpeakerEmbedding", "--model.speakers.embedding_dim", "16"], "embedding_dim 128, not 16"),
    ],
)
def test_the_command_line_can_not_change_what_was_trained(changed, refusal, run, build, synthetic_corpus):
    arguments = [*finetune_arguments(synthetic_corpus), "--ckpt_path", run / "finetune.ckpt"]
    with pytest.raises(UserError, match=f"finetune.ckpt: was trained with .*{refusal}"):
        build("test", *arguments, *changed)
    # which PAPT brought
    assert build("validate", *arguments, "--model.fusion", "last")


def test_predict_and_a_plain_test_write_what_is_uncalibrated_with_pldc(run, tmp_path, synthetic_corpus, capsys):
    arguments = [*finetune_arguments(synthetic_corpus), "--ckpt_path", run / "finetune.ckpt"]
    small = ["--trainer.callbacks.k", "3"]
    assert ser("predict", *arguments, *trainer_flags(tmp_path / "predict")) == 0
    assert ser("test", *arguments, *trainer_flags(tmp_path / "plain")) == 0
    assert len(re.findall(r"^raw +-?\.\d{3} ", capsys.readouterr().out, re.MULTILINE)) == 1
    cli = stage("test", *arguments, *configs("pldc.yaml"), *small, *trainer_flags(tmp_path / "test"))
    # joined, not replaced
    for kind in (StageCheckpoint, PLDCCallback):
        assert [type(callback) for callback in cli.trainer.callbacks].count(kind) == 1
    printed = capsys.readouterr().out
    assert printed.count("test1: ") == 1
    assert "overall_ccc" not in printed

    def read(name, reader=pd.read_csv):
        return [reader(*(tmp_path / folder).rglob(name)) for folder in ("plain", "test")]

    plain, tested = read("predictions.csv")
    described = ["gender", "seconds", "emotion"]
    assert list(plain) == ["utterance", "speaker", "split", "valence_label", "valence_raw", *described]
    for frame in (plain, pd.read_csv(*(tmp_path / "predict").rglob("predictions.csv"))):
        pd.testing.assert_frame_equal(frame, tested[list(plain)])
    plain, tested = read("speaker_moments.csv")
    pd.testing.assert_frame_equal(plain, tested[tested["row"] == "raw"].reset_index(drop=True))
    plain, tested = read("metrics.json", lambda path: json.loads(path.read_text())["splits"]["test1"]["rows"])
    assert plain == {"raw": tested["raw"]}
    assert ser("compare", tmp_path / "plain", tmp_path / "test", "--out", tmp_path / "compared") == 0


def test_a_corpus_is_a_table_whose_path_stays_or_a_class_with_its_arguments(synthetic_corpus, build, tmp_path):
    table = tmp_path / "corpus.csv"
    write_corpus(MSPPodcast(synthetic_corpus).utterances, table)
    cli = build("fit", *finetune_arguments(table), "--model.attributes", "[arousal]")
    assert cli.config["fit"].data.init_args.corpus == str(table)
    assert cli.datamodule.corpus.label_file == table
    arguments = [*configs("kmeans.yaml", "tiny/kmeans.yaml"), "--data.corpus", str(table)]
    assert parse(kmeans, "ser kmeans", (), arguments)["data"].corpus.label_file == table
    corpus = ["--data.corpus", "CSVCorpus", "--data.corpus.path", table, "--data.corpus.scale", "[0,10]"]
    assert build("fit", *configs("finetune.yaml", "tiny/finetune.yaml"), *corpus).datamodule.scale == (0.0, 10.0)


def test_the_log_of_an_earlier_run_is_kept(build, synthetic_corpus, tmp_path):
    folder = tmp_path / "lightning_logs" / "version_0"
    folder.mkdir(parents=True)
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", tmp_path, "--trainer.logger.version", "0"]
    for content in ("first", "second"):
        (folder / "metrics.csv").write_text(content)
        build("fit", *finetune_arguments(synthetic_corpus), *logger)
    kept = {path.name: path.read_text() for path in folder.glob("metrics*")}
    assert kept == {"metrics.1.csv": "first", "metrics.2.csv": "second"}


def test_a_fit_says_each_thing_once(tmp_path, synthetic_corpus, capsys, caplog):
    short = ["--trainer.limit_train_batches", "1"]
    flags = trainer_flags(tmp_path, max_epochs=2)[:-2]
    assert ser("fit", *finetune_arguments(synthetic_corpus), *short, *flags, "--replace") == 0
    # it isn't for the next fit with these settings
    assert "replace:" not in next(tmp_path.rglob("config.yaml")).read_text()
    printed = capsys.readouterr().out + caplog.text
    assert re.findall(r"epoch (\d) of 2: val_ccc -?\.\d{3}, \d+ s", printed) == ["1", "2"]
    assert len(re.findall(r"written: .*finetune.ckpt, val_ccc -?\.\d{3}, the best of 2 epochs", printed)) == 1
    assert not [line for line in ("Total params", "Seed set to", "GPU available") if line in printed]


def test_a_fit_that_was_complete_says_so_and_where_its_model_is(run, synthetic_corpus, capsys):
    before = (run / "finetune.ckpt").read_bytes()
    arguments = [*finetune_arguments(synthetic_corpus), "--ckpt_path", "last", *trainer_flags(run)]
    assert ser("fit", *arguments) == 0
    printed = capsys.readouterr().out
    assert "nothing was left to train after 1 epoch\n" in printed
    assert re.search(r"the best model is still .*finetune\.ckpt, val_ccc -?\.\d{3}$", printed, re.MULTILINE)
    assert "written:" not in printed
    assert (run / "finetune.ckpt").read_bytes() == before


def test_wandb_is_a_flag_for_its_logger_or_one_line(tmp_path, synthetic_corpus, mistake, monkeypatch):
    arguments = ["fit", *finetune_arguments(synthetic_corpus), *trainer_flags(tmp_path), "--wandb", "a/b"]
    monkeypatch.setattr("ser_personal.stages.stage_cli.find_spec", lambda _: None)
    assert "ser: --wandb a/b: the package wandb isn't installed. `pip install" in mistake(*arguments)
    wandb = MagicMock(run=None)
    wandb.init.side_effect = Exception("Invalid project name")
    for name in ("wandb", "wandb.sdk", "wandb.sdk.lib", "wandb.wandb_run"):
        monkeypatch.setitem(sys.modules, name, wandb)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    monkeypatch.setattr("ser_personal.stages.stage_cli.find_spec", lambda name: name)
    assert re.match(r"ser: --trainer\.logger WandbLogger: .*Invalid project name", mistake(*arguments))
    assert [call.kwargs["project"] for call in wandb.init.call_args_list] == ["a/b"]


def test_a_resumed_fit_reads_no_other_weights(run, tmp_path, monkeypatch, synthetic_corpus, synthetic_pseudo_labels):
    asked = AssertionError("pre-trained weights were asked for")
    monkeypatch.setattr(TinyEncoder, "_load", MagicMock(side_effect=asked))
    checkpoint = run / "papt-last.ckpt"
    before = torch.load(checkpoint, weights_only=True)
    resumed = [*papt_arguments(synthetic_corpus, synthetic_pseudo_labels), "--ckpt_path", checkpoint]
    stage("fit", *resumed, *trainer_flags(tmp_path, max_epochs=2))
    after = torch.load(tmp_path / "papt-last.ckpt", weights_only=True)
    assert (before["epoch"], after["epoch"]) == (0, 1)
    assert after["global_step"] == 2 * before["global_step"] > 0
    content = torch.load(run / "finetune-last.ckpt", weights_only=True)
    content["hyper_parameters"]["papt_checkpoint"] = "gone.ckpt"
    torch.save(content, tmp_path / "moved.ckpt")
    resumed = [*finetune_arguments(synthetic_corpus), "--ckpt_path", tmp_path / "moved.ckpt"]
    assert stage("fit", *resumed, *trainer_flags(tmp_path, max_epochs=2)).trainer.current_epoch == 2


def test_a_fit_that_would_replace_or_keep_no_model_is_refused(run, tmp_path, synthetic_corpus, mistake):
    arguments = ["fit", *finetune_arguments(synthetic_corpus)]
    before = (run / "finetune.ckpt").read_bytes()
    files = sorted(run.rglob("*"))
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", run / "logs"]
    said = mistake(*arguments, *logger, *trainer_flags(run))
    assert re.search(r"finetune\.ckpt: is of an earlier training run\. Resume .* --ckpt_path last", said)
    assert (run / "finetune.ckpt").read_bytes() == before
    assert sorted(run.rglob("*")) == files
    # finished, its last checkpoint gone
    torch.save(torch.load(run / "finetune.ckpt", weights_only=True) | {"epoch": 3}, tmp_path / "finetune.ckpt")
    said = mistake(*arguments, *trainer_flags(tmp_path), "--ckpt_path", "last")
    assert "finetune.ckpt: is of an earlier training run" in said


@pytest.fixture
def other(tmp_path) -> Path:
    """Another corpus, its utterances and speakers called as those of the training."""
    synth(str(tmp_path / "other"), speakers=12, utterances=2, min_seconds=1.0, max_seconds=1.2, seed=1)
    return tmp_path / "other"


def test_names_of_another_corpus_are_other_people(run, other, tmp_path, caplog):
    labels = other / "Labels" / "labels_consensus.csv"
    rows = pd.read_csv(labels, dtype=str)

    def test(name, *flags, called=lambda number: number):
        """-> predictions by utterance, the test speakers in each condition, and what was said."""
        rows.assign(SpkrID=[called(number) for number in rows["SpkrID"].astype(int)]).to_csv(labels, index=False)
        arguments = [*finetune_arguments(other), "--ckpt_path", run / "finetune.ckpt", *flags]
        caplog.clear()
        assert ser("test", *arguments, *trainer_flags(tmp_path / name)) == 0
        metrics = json.loads(next((tmp_path / name).rglob("metrics.json")).read_text())
        frame = pd.read_csv(*(tmp_path / name).rglob("predictions.csv"))
        return frame["valence_raw"].to_numpy(), metrics["splits"]["test1"]["speakers"], caplog.text

    strangers, conditions, said = test("strangers", called=lambda number: f"new{number}")
    assert conditions == {"unseen": 3}
    assert "named like" not in said
    namesakes, conditions, said = test("namesakes", called=lambda number: number % 12 + 1)
    assert conditions == {"unseen": 3}
    assert "8 speakers (first 1) named like speakers of the model, but with other audio: taken for other people" in said
    np.testing.assert_array_equal(namesakes, strangers)
    flags = re.findall(r"\((--model.* true) takes", said)[0].split()
    same, conditions, said = test("same", *flags, called=lambda number: number % 12 + 1)
    assert conditions == {"adaptation": 1, "unseen": 2}
    assert "named like" not in said
    assert not np.array_equal(same, strangers)


def test_a_fine_tuning_on_another_corpus_with_names_of_papt_is_refused(run, other, tmp_path, mistake):
    arguments = [*finetune_arguments(other), "--model.papt_checkpoint", run / "papt.ckpt"]
    line = mistake("fit", *arguments, *trainer_flags(tmp_path))
    assert "8 speakers (first 1) named like speakers of the model, but with other audio. Rename them" in line
    assert ser("fit", *arguments, *line.rpartition("give ")[2].rstrip(".").split(), *trainer_flags(tmp_path)) == 0
