from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pandas as pd
import pytest
import torch
from command_line import configs, finetune_arguments, papt_arguments, ser, stage, trainer_flags

from ser_personal.cli import parse
from ser_personal.data.emotion import EmotionDataModule
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.errors import UserError
from ser_personal.evaluation.pldc_callback import PLDCCallback
from ser_personal.finetune.module import EmotionFineTuning
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
    changes = ["--model.attributes", "[valence]", "--model.min_utterances", "4", *INTERPRETER]
    source = ["--model.papt_checkpoint", folder / "papt.ckpt"]
    assert ser("fit", *finetune_arguments(synthetic_corpus), *source, *changes, *flags) == 0
    return folder


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What a stage tells the user of values that a checkpoint replaced."""
    lines: list[str] = []
    monkeypatch.setattr("ser_personal.stages.stage_cli.rank_zero_info", lines.append)
    return lines


def test_a_fit_leaves_the_best_and_the_newest_model(run):
    assert {"papt.ckpt", "papt-last.ckpt", "finetune.ckpt", "finetune-last.ckpt"} <= {p.name for p in run.iterdir()}


def test_the_checkpoint_wins_over_the_yaml_and_the_command_line_over_both(run, said, tmp_path, synthetic_corpus):
    checkpoint = ["--ckpt_path", run / "finetune.ckpt", "--model.min_utterances", "2"]
    cli = stage("test", *finetune_arguments(synthetic_corpus), *checkpoint, *trainer_flags(tmp_path))
    assert cli.model.attributes == ["valence"]
    assert cli.model.interpreter.hidden_dims == (16,)
    assert cli.model.test_metric.min_utterances == 2
    path = run / "finetune.ckpt"
    replaced = f"from {path}: model.attributes = ['valence'] (the config had ['arousal', 'valence', 'dominance'])"
    assert replaced in said
    assert not [line for line in said if "min_utterances" in line]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--model.attributes", "[arousal]"], r"was trained with attributes \['valence'\], not \['arousal'\]"),
        (["--model.fusion", "none"], "was trained with fusion last, not none"),
        (["--model.encoder.dim", "32"], "was trained with encoder.dim 64, not 32"),
        (["--model.speakers", "SpeakerEmbedding", "--model.speakers.embedding_dim", "8"], "embedding_dim 128, not 8"),
        (["--model.interpreter", "MLPInterpreter", "--model.interpreter.hidden_dims", "[8]"], "hidden_dims"),
    ],
)
def test_the_command_line_can_not_change_what_was_trained(run, tmp_path, synthetic_corpus, capsys, changed, told):
    arguments = [*finetune_arguments(synthetic_corpus), "--ckpt_path", run / "finetune.ckpt", *changed]
    assert ser("test", *arguments, *trainer_flags(tmp_path)) == 2
    printed = capsys.readouterr().err
    assert re.search(told, printed)
    assert "Leave --model." in printed


def test_naming_the_fusion_that_papt_brought_is_no_change(run, tmp_path, synthetic_corpus):
    arguments = [*finetune_arguments(synthetic_corpus), "--ckpt_path", run / "finetune.ckpt", "--model.fusion", "last"]
    assert ser("validate", *arguments, *trainer_flags(tmp_path)) == 0


def test_predict_and_a_test_without_pldc_write_what_is_uncalibrated_in_a_test_with_it(
    run, tmp_path, synthetic_corpus, capsys
):
    arguments = [*finetune_arguments(synthetic_corpus), "--ckpt_path", run / "finetune.ckpt"]
    small = ["--trainer.callbacks.k", "3"]
    assert ser("predict", *arguments, *trainer_flags(tmp_path / "predict")) == 0
    assert ser("test", *arguments, *trainer_flags(tmp_path / "plain")) == 0
    assert len(re.findall(r"^raw +-?\.\d{3} ", capsys.readouterr().out, re.MULTILINE)) == 1
    assert ser("test", *arguments, *configs("pldc.yaml"), *small, *trainer_flags(tmp_path / "test")) == 0

    def read(name):
        return [pd.read_csv(*(tmp_path / folder).rglob(name)) for folder in ("plain", "test")]

    plain, tested = read("predictions.csv")
    described = ["gender", "seconds", "emotion"]
    assert list(plain) == ["utterance", "speaker", "split", "valence_label", "valence_raw", *described]
    for frame in (plain, pd.read_csv(*(tmp_path / "predict").rglob("predictions.csv"))):
        pd.testing.assert_frame_equal(frame, tested[list(plain)])
    plain, tested = read("speaker_moments.csv")
    pd.testing.assert_frame_equal(plain, tested[tested["row"] == "raw"].reset_index(drop=True))
    plain, tested = (
        json.loads(next((tmp_path / name).rglob("metrics.json")).read_text()) for name in ("plain", "test")
    )
    assert list(plain["splits"]["test1"]["rows"]) == ["raw"]
    assert plain["splits"]["test1"]["rows"]["raw"] == tested["splits"]["test1"]["rows"]["raw"]
    assert ser("compare", tmp_path / "plain", tmp_path / "test", "--out", tmp_path / "compared") == 0


def test_configs_count_in_their_order_however_they_are_written(run, tmp_path, synthetic_corpus):
    finetune, tiny, pldc = (configs(name)[1] for name in ("finetune.yaml", "tiny/finetune.yaml", "pldc.yaml"))
    mixed = [f"--config={finetune}", "--config", tiny, "-c", pldc]
    arguments = [*mixed, "--data.corpus", synthetic_corpus, "--ckpt_path", run / "finetune.ckpt"]
    cli = stage("test", *arguments, "--trainer.callbacks.k", "3", *trainer_flags(tmp_path))
    assert any(isinstance(callback, PLDCCallback) for callback in cli.trainer.callbacks)


def test_a_fine_tuning_from_papt_is_not_resumed_on_other_speakers(run, tmp_path, relabelled):
    corpus = relabelled(lambda row: row.update(SpkrID=f"new{row['SpkrID']}"))
    arguments = [*finetune_arguments(corpus), "--model.papt_checkpoint", run / "papt.ckpt"]
    resumed = ["--ckpt_path", run / "finetune-last.ckpt", *trainer_flags(tmp_path, max_epochs=2)]
    with pytest.raises(UserError, match=r"was trained on other speakers than this corpus has \(16 differ, first 1\)"):
        stage("fit", *arguments, *resumed)
    assert stage("test", *arguments, "--ckpt_path", run / "finetune.ckpt", *trainer_flags(tmp_path)).trainer


def test_the_encoder_comes_from_the_checkpoint_too(run, said, tmp_path, synthetic_corpus):
    large = [*configs("finetune.yaml"), "--data.corpus", synthetic_corpus, "--trainer.precision", "32-true"]
    cli = stage("test", *large, "--ckpt_path", run / "finetune.ckpt", *trainer_flags(tmp_path))
    assert isinstance(cli.model.personalized.encoder, TinyEncoder)
    assert any("model.encoder = ser_personal.encoder.hubert.TinyEncoder" in line for line in said)


def test_what_an_unseen_speaker_gets_comes_from_the_checkpoint(run, tmp_path, synthetic_corpus):
    flags = [*finetune_arguments(synthetic_corpus), *trainer_flags(tmp_path)]
    policy = ["--model.speakers", "SpeakerEmbedding", "--model.speakers.unseen", "Zero"]
    stage("fit", *flags, *policy, "--model.papt_checkpoint", run / "papt.ckpt")
    cli = stage("test", *flags, "--ckpt_path", tmp_path / "finetune.ckpt")
    assert isinstance(cli.model.personalized.speakers.unseen, Zero)


def test_new_speakers_join_the_table_and_are_used_downstream(run, tmp_path, synthetic_corpus, synthetic_pseudo_labels):
    labels = ["--data.corpus", synthetic_corpus, "--data.pseudo_labels", synthetic_pseudo_labels]
    sets = ["--data.splits", "[validation]", "--model.papt_checkpoint", run / "papt.ckpt"]
    stage("fit", *configs("adapt.yaml", "tiny/adapt.yaml"), *labels, *sets, *trainer_flags(tmp_path))
    adapted = tmp_path / "adapted.ckpt"
    policy = ["--model.speakers", "SpeakerEmbedding", "--model.speakers.unseen", "Adapted"]
    policy += ["--model.speakers.unseen.checkpoint", adapted]
    tested = [*finetune_arguments(synthetic_corpus), "--data.test_splits", "[validation]", *trainer_flags(tmp_path)]
    cli = stage("test", *tested, *configs("pldc.yaml"), "--ckpt_path", run / "finetune.ckpt", *policy)
    written = json.loads((Path(cli.trainer.log_dir) / "metrics.json").read_text())
    assert written["splits"]["validation"]["speakers"] == {"transductive": 1}


def test_a_checkpoint_of_the_library_wins_as_well(finetuned_checkpoint, said, tmp_path, synthetic_corpus):
    arguments = finetune_arguments(synthetic_corpus)
    cli = stage("test", *arguments, "--ckpt_path", finetuned_checkpoint, *trainer_flags(tmp_path))
    assert cli.model.attributes == ["arousal", "valence"]
    assert any("model.attributes" in line for line in said)


def test_a_checkpoint_of_another_class_is_refused(run, tmp_path, synthetic_corpus):
    checkpoint = ["--ckpt_path", run / "papt.ckpt"]
    with pytest.raises(UserError, match=r"papt\.ckpt: holds PAPT, the config names EmotionFineTuning"):
        stage("test", *finetune_arguments(synthetic_corpus), *checkpoint, *trainer_flags(tmp_path))


def test_fine_tuning_takes_encoder_and_speakers_from_papt(run):
    papt, finetuned = (torch.load(run / f"{name}.ckpt", weights_only=True) for name in ("papt", "finetune"))
    assert finetuned["hyper_parameters"]["papt_checkpoint"] == str(run / "papt.ckpt")
    assert finetuned["personalized_encoder"]["fusion"] == "last"
    assert finetuned["personalized_encoder"]["speakers"] == papt["personalized_encoder"]["speakers"]
    table = "personalized.speakers.embedding.weight"
    assert torch.equal(finetuned["state_dict"][table], papt["state_dict"][table])


@pytest.fixture
def table(synthetic_corpus, tmp_path) -> Path:
    """The synthetic corpus as a corpus.csv."""
    with (synthetic_corpus / "Labels" / "labels_consensus.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "Audios").symlink_to(synthetic_corpus / "Audios")
    lines = [f"Audios/{row['FileName']},{row['SpkrID']},{row['Split_Set']},{row['EmoAct']}" for row in rows]
    (tmp_path / "corpus.csv").write_text("\n".join(["path,speaker,split,arousal", *lines]))
    return tmp_path / "corpus.csv"


def test_a_table_stays_a_path_in_a_stage(table, tmp_path):
    flags = ["--model.attributes", "[arousal]", *trainer_flags(tmp_path)]
    cli = stage("fit", *finetune_arguments(table), *flags)
    assert cli.config["fit"].data.init_args.corpus == str(table)
    assert cli.datamodule.corpus.label_file == table


def test_a_table_stays_a_path_in_kmeans(table):
    arguments = [*configs("kmeans.yaml", "tiny/kmeans.yaml"), "--data.corpus", str(table)]
    assert parse(kmeans, "ser kmeans", (), arguments)["data"].corpus.label_file == table


def test_a_corpus_can_be_a_class_with_its_arguments(table, tmp_path):
    corpus = ["--data.corpus", "CSVCorpus", "--data.corpus.path", table, "--data.corpus.scale", "[0,10]"]
    arguments = [*configs("finetune.yaml", "tiny/finetune.yaml"), *corpus, "--model.attributes", "[arousal]"]
    assert stage("fit", *arguments, *trainer_flags(tmp_path)).datamodule.scale == (0.0, 10.0)


def test_pldc_joins_the_callbacks_of_fine_tuning_and_scores_are_printed_once(run, tmp_path, synthetic_corpus, capsys):
    arguments = [*finetune_arguments(synthetic_corpus), *configs("pldc.yaml"), "--ckpt_path", run / "finetune.ckpt"]
    cli = stage("test", *arguments, "--trainer.callbacks.k", "3", *trainer_flags(tmp_path))
    for kind in (StageCheckpoint, PLDCCallback):
        assert [type(callback) for callback in cli.trainer.callbacks].count(kind) == 1
    calibration = next(callback for callback in cli.trainer.callbacks if isinstance(callback, PLDCCallback))
    assert calibration.settings.k == 3
    assert list(tmp_path.rglob("predictions.csv"))
    assert list(tmp_path.rglob("metrics.json"))
    printed = capsys.readouterr().out
    assert printed.count("test1: ") == 1
    assert "overall_ccc" not in printed


@pytest.mark.parametrize("verbose", [False, True])
def test_a_fit_says_each_thing_once(tmp_path, synthetic_corpus, capsys, caplog, verbose):
    flags = [*trainer_flags(tmp_path, max_epochs=2)[:-2], *(["--verbose"] if verbose else [])]
    assert ser("fit", *finetune_arguments(synthetic_corpus), *flags) == 0
    printed = capsys.readouterr().out + caplog.text
    assert re.findall(r"epoch (\d) of 2: val_ccc -?\.\d{3}, \d+ s", printed) == ["1", "2"]
    assert len(re.findall(r"written: .*finetune.ckpt, val_ccc -?\.\d{3}, the best of 2 epochs", printed)) == 1
    assert all((line in printed) == verbose for line in ("Total params", "Seed set to", "GPU available"))


def test_wandb_is_a_flag_for_its_logger_or_one_line(tmp_path, synthetic_corpus, capsys, monkeypatch):
    arguments = [*finetune_arguments(synthetic_corpus), *trainer_flags(tmp_path)]
    monkeypatch.setattr("ser_personal.stages.stage_cli.find_spec", lambda _: None)
    assert ser("fit", *arguments, "--wandb", "emotions") == 2
    assert capsys.readouterr().err.endswith(
        "--wandb emotions: the package wandb isn't installed. `pip install 'ser_personal[wandb]'`, or leave it out for"
        " TensorBoard.\n"
    )
    for nothing in (["--wandb"], ["--wandb="], ["--wandb", "--verbose"]):
        assert ser("fit", *arguments, *nothing) == 2
        assert capsys.readouterr().err.endswith("--wandb: names no project. Give one, such as --wandb emotions.\n")
    monkeypatch.setattr("ser_personal.stages.stage_cli.find_spec", lambda name: name)
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI.instantiate_classes", lambda _: None)
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI._run_subcommand", lambda *_: None)
    for given in (["--wandb", "emotions"], ["--wandb=emotions"]):
        logger = stage("fit", *given, *arguments).config["fit"].trainer.logger
        assert logger.class_path.endswith("WandbLogger")
        assert logger.init_args.project == "emotions"


def test_a_project_that_wandb_refuses_is_one_line(tmp_path, synthetic_corpus, capsys, monkeypatch):
    def refuse(**_):
        raise Exception("Invalid project name 'a/b'")

    fake = MagicMock(run=None, init=refuse)
    for name in ("wandb", "wandb.sdk", "wandb.sdk.lib", "wandb.wandb_run"):
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    monkeypatch.setattr("ser_personal.stages.stage_cli.find_spec", lambda name: name)
    arguments = [*finetune_arguments(synthetic_corpus), *trainer_flags(tmp_path)]
    told = r"^ser: (\S+ \S+): can't log this run \(Invalid project name 'a/b'\)\. Leave it out, or "
    for given in (["--wandb", "a/b"], ["--trainer.logger", "WandbLogger"]):
        assert ser("fit", *arguments, *given) == 2
        assert re.findall(told, capsys.readouterr().err, re.MULTILINE) == [" ".join(given)]


def test_the_same_fit_can_be_run_again_and_gives_the_same_weights(run, tmp_path, synthetic_corpus):
    arguments = ["fit", *finetune_arguments(synthetic_corpus), *trainer_flags(tmp_path)]
    weights = []
    for again in ([], ["--replace"]):
        assert ser(*arguments, *again) == 0
        weights.append(torch.load(tmp_path / "finetune-last.ckpt", weights_only=True)["state_dict"])
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["finetune-last.ckpt", "finetune.ckpt"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_resumed_papt_goes_on_without_reading_pretrained_weights(
    run, tmp_path, monkeypatch, synthetic_corpus, synthetic_pseudo_labels
):
    def unreachable(_):
        raise AssertionError("pre-trained weights were asked for")

    monkeypatch.setattr(TinyEncoder, "_load", unreachable)
    arguments = papt_arguments(synthetic_corpus, synthetic_pseudo_labels)
    checkpoint = run / "papt-last.ckpt"
    before = torch.load(checkpoint, weights_only=True)
    cli = stage("fit", *arguments, "--ckpt_path", checkpoint, *trainer_flags(tmp_path, max_epochs=2))
    after = torch.load(tmp_path / "papt-last.ckpt", weights_only=True)
    assert cli.trainer.current_epoch == 2
    assert (before["epoch"], after["epoch"]) == (0, 1)
    assert after["global_step"] == 2 * before["global_step"] > 0


def test_a_resumed_fine_tuning_needs_no_papt_checkpoint(run, tmp_path, synthetic_corpus):
    source = tmp_path / "moved.ckpt"
    shutil.copy(run / "papt.ckpt", source)
    arguments = [*finetune_arguments(synthetic_corpus), "--model.papt_checkpoint", source]
    assert ser("fit", *arguments, *trainer_flags(tmp_path)) == 0
    source.unlink()
    flags = trainer_flags(tmp_path, max_epochs=2)
    assert stage("fit", *arguments, "--ckpt_path", tmp_path / "finetune-last.ckpt", *flags).trainer.current_epoch == 2


def test_a_checkpoint_loads_without_a_trainer_to_the_same_predictions(run, tmp_path, synthetic_corpus):
    path = run / "finetune.ckpt"
    arguments = [*finetune_arguments(synthetic_corpus), "--ckpt_path", path, *trainer_flags(tmp_path)]
    tested = stage("test", *arguments).model.eval()
    loaded = EmotionFineTuning.load_from_checkpoint(path).eval()
    data = EmotionDataModule(str(synthetic_corpus), num_workers=0)
    batch = next(iter(data.split_dataloader("test1")))
    with torch.no_grad():
        assert torch.equal(loaded(batch)["predictions"], tested(batch)["predictions"])
    assert loaded.personalized.speakers.ids == tested.personalized.speakers.ids


@pytest.mark.parametrize("name", ["papt", "papt-last", "finetune", "finetune-last"])
def test_checkpoints_hold_nothing_but_weights_and_plain_values(run, name):
    assert "state_dict" in torch.load(run / f"{name}.ckpt", weights_only=True)


def test_a_fit_that_would_replace_or_keep_no_model_is_refused(run, tmp_path, synthetic_corpus, capsys):
    arguments = ["fit", *finetune_arguments(synthetic_corpus)]
    before = (run / "finetune.ckpt").read_bytes()
    files = sorted(run.rglob("*"))
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", run / "logs"]
    assert ser(*arguments, *logger, *trainer_flags(run)) == 2
    assert re.search(
        r"finetune\.ckpt: is of an earlier training run\. Resume .* --ckpt_path last", capsys.readouterr().err
    )
    assert (run / "finetune.ckpt").read_bytes() == before
    assert sorted(run.rglob("*")) == files
    assert ser(*arguments, "--trainer.callbacks", "LearningRateMonitor", *trainer_flags(tmp_path)) == 2
    assert "Append yours by --trainer.callbacks+" in capsys.readouterr().err
    # saves where a fit fails, and no model of one that ends
    saver = f"[{{class_path: OnExceptionCheckpoint, init_args: {{dirpath: {tmp_path}}}}}]"
    assert ser(*arguments, "--trainer.callbacks", saver, *trainer_flags(tmp_path)) == 2
    assert "Append yours by --trainer.callbacks+" in capsys.readouterr().err
    assert ser(*arguments, "--trainer.callbacks+", "LearningRateMonitor", *trainer_flags(tmp_path)) == 0
    assert (tmp_path / "finetune.ckpt").is_file()
    assert "replace:" not in next(tmp_path.rglob("config.yaml")).read_text()


def test_a_finished_model_whose_last_checkpoint_is_gone_is_not_replaced(run, tmp_path, synthetic_corpus, capsys):
    finished = torch.load(run / "finetune.ckpt", weights_only=True) | {"epoch": 3}
    torch.save(finished, tmp_path / "finetune.ckpt")
    arguments = ["fit", *finetune_arguments(synthetic_corpus), *trainer_flags(tmp_path), "--ckpt_path", "last"]
    assert ser(*arguments) == 2
    assert "finetune.ckpt: is of an earlier training run" in capsys.readouterr().err
