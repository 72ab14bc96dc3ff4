"""What an error tells people to type works when it is pasted."""

import ast
import inspect
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
from command_line import REPOSITORY, configs, ser
from fault import FIT, KMEANS, PAPT, TEST, Fault, Good, Make, copied, sound, text
from lightning.pytorch import Trainer
from test_faults import filled


def case(words: str, command: list[str], make: Make = Fault.make, then: str = "") -> object:
    """A command that fails, flags that its line names, and what it says with these where it needs more than them."""
    return pytest.param(words, command, make, then, id=f"{command[0]} {words}")


FEW = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--data.num_workers", "0"]
SHORT = [*FIT, *FEW]
HUBERT = [*SHORT, "--model.encoder", "HubertEncoder"]
RAW = [*SHORT, "--model.encoder", "LogMelEncoder", "--model.fusion"]
CACHED = [*SHORT, *configs("cached.yaml", "tiny/cached.yaml")]
ANNOTATE = ["annotate", "{here}/speech.wav", "--out", "{here}/out.csv", "--device", "cpu", "--model", "{bundle}"]
UNLEARNT = "speaker embeddings are neither pre-trained nor learnt here"


def nowhere(flag: str) -> list[str]:
    return [f"--{flag}", "{here}/none.safetensors"]


def annotated(_good: Good, here: Path) -> None:
    (here / "two.csv").write_text("speaker,start,end,arousal_calibrated,arousal_raw,file\na,0,1,4,3,a.wav\n")
    (here / "timeline.html").touch()


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
    case("--cut windows", [*ANNOTATE, "--hop_seconds", "1"], lambda _, here: sound(here / "speech.wav")),
    case("--out two_timeline.html", ["report", "two.csv"], annotated),
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


OTHERS = "it is a flag of SLURM or of the hub"
# flags that remedies name and no case pastes, by why not
UNPASTED = {
    "the value, or another command, is the user's to find": """
        --add --attributes --channel --checkpoint --config --corpus --corpus.scale --data
        --data.augmentation.noise --data.cache --data.max_batch --data.speaker_features --data.test_splits
        --encoder --model --model.initial_checkpoint --model.interpreter --model.interpreter.scale
        --model.learning_rate --model.papt_checkpoint --model.speakers --model.speakers.unseen --precision
        --segments --shard --teacher --trainer.callbacks --trainer.default_root_dir""",
    "another test gives it": """
        --calibration --data.num_workers --data.speaker_selection --import --model.encoder.freeze_layers
        --model.lora.adapters_alone --public --push --single_speakers""",
    "the command runs until it is stopped, or only prints": "--port --help",
    OTHERS: "--nodes --ntasks --private",
}


def test_every_flag_that_a_remedy_names_exists_and_is_pasted_or_says_why_not():
    trees = [ast.parse(path.read_text()) for path in (REPOSITORY / "ser_personal").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assigned = [node for node in nodes if isinstance(node, ast.Assign)]
    remedies = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "remedy"]
    remedies += [node.value for node in assigned if "remedy" in ast.unparse(node.targets[0]).lower()]
    leaving_out = re.compile(r"[Ll]eave (--[\w.]+(, | and )?)+ out")
    texts = [leaving_out.sub("", ast.unparse(remedy)) for remedy in remedies]
    assert [text for text in texts if re.search(r"--[\w.]+ \[", text)] == []  # quoted for bash and zsh
    named = {flag for text in texts for flag in re.findall(r"--[a-z][\w.]*\w(?![\w.{-])", text)}
    pasted = {case.values[0].split()[0] for case in PASTED}
    assert named - pasted == set(" ".join(UNPASTED.values()).split())
    arguments = {node.arg.strip("_") for node in nodes if isinstance(node, ast.arg)}
    arguments |= {ast.unparse(node.target) for node in nodes if isinstance(node, ast.AnnAssign)}
    arguments |= {*inspect.signature(Trainer.__init__).parameters, "config", "ckpt_path", "help"}
    unknown = {flag for flag in named if flag.strip("-").rpartition(".")[2] not in arguments}
    assert unknown == set(UNPASTED[OTHERS].split())
