import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from command_line import REPOSITORY, stage
from garbage import INPUTS, files, is_read_or_refused, refused
from hypothesis import example, given, settings

import ser_personal
from ser_personal.arguments import SHIPPED, find_config, parse, read_configs, with_found_configs
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.cli import COMMANDS, STAGES, check_before_imports
from ser_personal.data.augmentation import Augmentation
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.finetune.interpreters import MLPInterpreter, TransformerInterpreter
from ser_personal.finetune.similar_speakers import SimilarSpeakers
from ser_personal.pretrain.kmeans import kmeans
from ser_personal.pretrain.teachers import EncoderTeacher
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.features import SpeakerEmbedder

CONFIGS = sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs").rglob("*.yaml"))
CONFIG = b"trainer:\n  max_epochs: 3\nmodel:\n  class_path: PAPT\n  init_args: {fusion: last}\nckpt_path: null\n"
# where things are and how they are run, not what is computed
NO_SETTINGS = {"self", "args", "kwargs", "settings", "personalized", "encoder", "corpus", "data", "out"}
NO_SETTINGS |= {"pseudo_labels", "speaker_selection", "num_workers", "accelerator", "devices", "num_nodes", "precision"}
OWNERS = [kmeans, EncoderTeacher, HubertEncoder, MLPInterpreter, TransformerInterpreter, SpeakerEmbedding]
OWNERS += [SpeakerEmbedder, PLDCSettings, SimilarSpeakers, Augmentation, ser_personal.PAPT]
OWNERS += [ser_personal.EmotionFineTuning, ser_personal.PLDCCallback, ser_personal.PretrainDataModule]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_command_of_every_config_is_built(config, synthetic_corpus, finetuned_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    # that the YAML's own comment gives, of those that use it
    text, files = Path(config).read_text(), {"CORPUS": synthetic_corpus, "finetune.ckpt": finetuned_checkpoint}
    commands = map(shlex.split, re.findall(r"^#\s+(ser .*?)(?:\s+->.*|\s+\.\.\.)?$", text, re.MULTILINE))
    _, name, *rest = (str(files.get(word, word)) for word in next(words for words in commands if config in words))
    if name in COMMANDS:
        parse(COMMANDS[name].load(), f"ser {name}", COMMANDS[name].positional, rest)
    else:
        assert name in STAGES
        monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI._run_subcommand", lambda *_: None)
        built = stage(name, *rest, "--trainer.accelerator", "cpu", "--trainer.default_root_dir", tmp_path)
        trainer = yaml.safe_load(text).get("trainer", {})
        wanted = trainer.get("callbacks") or trainer.get("callbacks+") or []
        assert {entry["class_path"] for entry in wanted} <= {type(each).__name__ for each in built.trainer.callbacks}


def values(config: str, *keys: str) -> dict[str, object]:
    content = yaml.load((REPOSITORY / "configs" / config).read_text(), Loader=yaml.FullLoader)  # noqa: S506
    for key in keys:
        content = content[key]
    return content


def defaults_of(owner: object) -> dict[str, object]:
    owners = [cls.__init__ for cls in reversed(owner.__mro__)] if isinstance(owner, type) else [owner]
    return {name: parameter.default for o in owners for name, parameter in inspect.signature(o).parameters.items()}


def assert_are_defaults(given: dict[str, object], owner: object) -> None:
    defaults = defaults_of(owner)
    for name, value in given.items():
        expected = defaults[name]
        assert value == (list(expected) if isinstance(expected, tuple) else expected), name


@pytest.mark.parametrize(("config", "name"), [("papt.yaml", "PAPT"), ("finetune.yaml", "EmotionFineTuning")])
def test_the_papers_recipe_is_the_default_of_the_signatures(config, name):
    model = values(config, "model", "init_args")
    encoder = model.pop("encoder")["init_args"]
    assert_are_defaults(model, getattr(ser_personal, name))
    assert encoder.pop("pretrained") == defaults_of(HubertEncoder)["pretrained"]
    built = getattr(ser_personal, name)().personalized.encoder
    assert {flag: getattr(built, flag) for flag in encoder} == encoder


def test_pldc_and_batches_are_the_defaults():
    (callback,) = values("pldc.yaml", "trainer", "callbacks+")
    assert_are_defaults(callback["init_args"], PLDCSettings)
    max_batch = values("finetune.yaml", "data", "init_args")["max_batch"]
    assert max_batch == defaults_of(ser_personal.EmotionDataModule)["max_batch"]
    assert values("tiny/kmeans.yaml")["num_clusters"] == defaults_of(kmeans)["num_clusters"]


@pytest.mark.parametrize("owner", [*OWNERS, ser_personal.EmotionDataModule])
def test_the_ledger_says_of_every_setting_whose_it_is(owner):
    ledger = (REPOSITORY / "docs" / "ledger.md").read_text()
    assert [name for name in defaults_of(owner) if name not in NO_SETTINGS and f"`{name}`" not in ledger] == []


def test_a_config_is_found_by_the_name_of_one_that_ships_and_one_of_the_folder_wins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "papt.yaml").write_text("trainer: {}\n")
    assert find_config("tiny/papt.yaml") == find_config("configs/tiny/papt.yaml") == SHIPPED / "tiny" / "papt.yaml"
    found = with_found_configs(["fit", "--config", "papt.yaml", "--config=tiny/papt.yaml", "-c", "a: {}\n"])
    tiny = SHIPPED / "tiny" / "papt.yaml"
    assert found == ["fit", "--config", "papt.yaml", f"--config={tiny}", "-c", "a: {}\n"]
    said = f"config papt.yaml is {tmp_path / 'papt.yaml'}\nconfig tiny/papt.yaml is {tiny}\n"
    assert capsys.readouterr().err == said


def test_yaml_itself_is_a_config_of_any_length(tmp_path):
    (tmp_path / "finetune.ckpt").touch()
    content = {"ckpt_path": str(tmp_path / "finetune.ckpt"), "trainer": {"max_epochs": 3, "callbacks": ["x" * 300]}}
    for text in (json.dumps(content), yaml.safe_dump(content)):
        assert read_configs(["--config", text]) == {text: content}
        check_before_imports("test", ["--config", text])
    refused(r"^--config, line 1: isn't YAML", read_configs, ["--config", "{a: ["])


def test_garbage_as_a_config(tmp_path):
    # YAML is the slowest to read of all that is spoilt
    @settings(max_examples=INPUTS // 5)
    @given(content=files(CONFIG))
    @example(content=CONFIG)
    @example(content=b"ckpt_path: [a]")
    def check(content):
        (tmp_path / "config.yaml").write_bytes(content)
        is_read_or_refused(lambda: check_before_imports("test", ["--config", str(tmp_path / "config.yaml")]))

    check()
