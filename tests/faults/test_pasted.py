"""What an error tells people to type works when it is pasted."""

import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
from command_line import configs, ser
from fault import CHECK, FIT, KMEANS, PAPT, TEST, Fault, Good, Make, copied, sound, table, text
from test_faults import filled


def case(words: str, command: list[str], make: Make = Fault.make, then: str = "") -> object:
    """A command that fails, flags that its line names, and what it says with these where it needs more than them."""
    return pytest.param(words, command, make, then, id=f"{command[0]} {words}")


FEW = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--data.num_workers", "0"]
SHORT = [*FIT, *FEW]
HUBERT = [*SHORT, "--model.encoder", "HubertEncoder"]
RAW = [*SHORT, "--model.encoder", "LogMelEncoder", "--model.fusion"]
CACHED = [*SHORT, *configs("cached.yaml", "tiny/cached.yaml")]
ANNOTATE = ["annotate", "{here}/speech", "--out", "{here}/out.csv", "--device", "cpu", "--model", "{bundle}"]
UNLEARNT = "speaker embeddings are neither pre-trained nor learnt here"


def nowhere(flag: str) -> list[str]:
    return [f"--{flag}", "{here}/none.safetensors"]


def speech(_good: Good, here: Path) -> None:
    (here / "speech" / "anna").mkdir(parents=True)
    sound(here / "speech" / "anna" / "a.wav", 48_000)


def checked(good: Good, here: Path) -> None:
    table()(good, here)
    (here / "clean.csv").touch()


def annotated(_good: Good, here: Path) -> None:
    rows = "speaker,start,end,arousal_calibrated,arousal_raw,file\na,0,1,4,3,a.wav\n"
    (here / "two.csv").write_text(rows)
    (here / "timeline.html").touch()


PASTED = [
    case("--ckpt_path finetune.ckpt", TEST, copied("finetune", "finetune.ckpt", lambda _: None)),
    case("--trainer.precision bf16-mixed", [*SHORT, "--trainer.precision", "bf16-true"]),
    case("--trainer.enable_checkpointing false", [*SHORT, "--trainer.callbacks", "LearningRateMonitor"]),
    case("--model.fusion last", [*RAW, "prefix"], then=UNLEARNT),
    case("--model.train_speaker_embedding true", [*RAW, "last"]),
    case("--model.encoder TinyEncoder", [*HUBERT, *nowhere("model.encoder.pretrained")]),
    case("--replace", SHORT, text("run/finetune.ckpt", "")),
    case("--replace", [*CHECK, "--write", "{here}/clean.csv"], checked),
    case("--data.augmentation null", [*CACHED, "--data.augmentation.gain", "[0,6]"], then="no cached features here"),
    case("--codebook null", [*KMEANS, *nowhere("codebook")]),
    case("--model.released_head null", [*PAPT, "{pseudo_labels}", *FEW, *nowhere("model.released_head")]),
    case("--calibration pldc", [*ANNOTATE, "--cut", "windows", "--calibration", "posterior"], speech),
    case("--cut windows", [*ANNOTATE, "--hop_seconds", "1"], speech),
    case("--out two_timeline.html", ["report", "two.csv"], annotated),
    case("--out page.html", ["report", "two.csv", "--out", "page"], annotated),
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
