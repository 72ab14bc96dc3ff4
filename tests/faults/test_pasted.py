"""What an error tells people to type works when it is pasted."""

import shlex
from dataclasses import asdict

import pytest
from command_line import configs, ser
from fault import FIT, KMEANS, PAPT, TEST, Fault, Make, copied, text
from test_faults import filled


def case(words: str, command: list[str], make: Make = Fault.make, then: str = "") -> object:
    """A command that fails, flags that its line names, and what it says with these where it needs more than them."""
    return pytest.param(words, command, make, then, id=f"{command[0]} {words}")


FEW = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--data.num_workers", "0"]
SHORT = [*FIT, *FEW]
HUBERT = [*SHORT, "--model.encoder", "HubertEncoder"]
RAW = [*SHORT, "--model.encoder", "LogMelEncoder", "--model.fusion"]
CACHED = [*SHORT, *configs("cached.yaml", "tiny/cached.yaml")]
UNLEARNT = "speaker embeddings are neither pre-trained nor learnt here"


def nowhere(flag: str) -> list[str]:
    return [f"--{flag}", "{here}/none.safetensors"]


PASTED = [
    case("--ckpt_path finetune.ckpt", TEST, copied("finetune", "finetune.ckpt", lambda _: None)),
    case("--trainer.precision bf16-mixed", [*SHORT, "--trainer.precision", "bf16-true"]),
    case("--trainer.enable_checkpointing false", [*SHORT, "--trainer.callbacks", "LearningRateMonitor"]),
    case("--model.fusion last", [*RAW, "prefix"], then=UNLEARNT),
    case("--model.train_speaker_embedding true", [*RAW, "last"]),
    case("--model.encoder TinyEncoder", [*HUBERT, *nowhere("model.encoder.pretrained")]),
    case("--replace", SHORT, text("run/finetune.ckpt", "")),
    case("--data.augmentation null", [*CACHED, "--data.augmentation.gain", "[0,6]"], then="no cached features here"),
    case("--codebook null", [*KMEANS, *nowhere("codebook")]),
    case("--model.released_head null", [*PAPT, "{pseudo_labels}", *FEW, *nowhere("model.released_head")]),
]


@pytest.mark.parametrize(("words", "command", "make", "then"), PASTED)
def test_a_flag_works_when_it_is_pasted(words, command, make, then, good, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {**asdict(good), "here": tmp_path}
    make(good, tmp_path)
    command = [filled(word, places) for word in command]
    assert ser(*command) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    code = ser(*command, *shlex.split(words))
    shown = capsys.readouterr()
    assert (code, "") == (0, then) or (code == 2 and then and then in shown.err), shown.err
