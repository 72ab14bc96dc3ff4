import ast
import inspect
import subprocess
import sys
from functools import reduce
from pathlib import Path
from shutil import copy
from zipfile import ZipFile

import pytest
from command_line import REPOSITORY, trainer_flags
from hatchling.build import build_wheel

import ser_personal

# the beginning of each public signature, defaults behind the names that have one
SIGNATURES = {
    "ccc": "predictions, labels",
    "ccc_loss": "predictions, labels",
    "span_mask": "lengths, prob=0.8, length=10, min_masks=2, generator=None",
    "PredictionHead": "dim, num_clusters, final_dim=256, temperature=0.1",
    "masked_prediction_loss": "frames, pseudo_labels, time_mask, head",
    "num_frames": "num_samples",
    "calibrate": "predictions, speaker_ids, pooled, bank, attributes=None, k=15, shift_mean=False, scale_std=True,"
    " statistics='average', center=False, clip=False, min_labels=1",
    "PosteriorCalibrator": "bank",
    "PosteriorCalibrator.fit": "predictions, speaker_ids, pooled, labels",
    "PosteriorCalibrator.calibrate": "predictions, speaker_ids, pooled",
    "SpeakerBank.from_utterances": "speaker_ids, pooled, labels, attributes, scale=(1, 7)",
    "SpeakerBank.save": "path",
    "SpeakerBank.load": "path",
}


def test_every_public_name_has_a_home_and_no_other_name_has():
    names: dict[str, object] = {}
    exec("from ser_personal import *", names)  # noqa: S102
    assert set(ser_personal.__all__) <= set(names)
    assert dir(ser_personal) == sorted(ser_personal.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ser_personal.nonsense


def test_the_wheel_is_whole_and_its_test_imports_little(synthetic_corpus, finetuned_checkpoint, tmp_path, monkeypatch):
    """Run outside the repository, in a process that knows the wheel alone."""
    monkeypatch.chdir(REPOSITORY)
    site = tmp_path / "site"
    with ZipFile(tmp_path / build_wheel(str(tmp_path))) as wheel:
        wheel.extractall(site)
    for folder, packed in (("ser_personal", "ser_personal"), ("configs", "ser_personal/configs")):
        files = [path for path in Path(folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert [path for path in files if not (site / packed / path.relative_to(folder)).is_file()] == []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(site))
    # the bank that a test leaves beside a checkpoint isn't for the other tests of this one
    checkpoint = copy(finetuned_checkpoint, tmp_path)
    flags = ["--data.corpus", synthetic_corpus, "--ckpt_path", checkpoint, *trainer_flags(tmp_path)]
    configs = ["finetune.yaml", "configs/tiny/finetune.yaml", "pldc.yaml"]
    words = ["test", *(word for name in configs for word in ("--config", name)), *flags]
    code = f"""
import sys
from ser_personal.cli import main
code = main({[str(word) for word in words]})
print([module for module in sys.modules if module.startswith("ser_personal.")])
sys.exit(code)
"""
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert f"config finetune.yaml is {site / 'ser_personal' / 'configs' / 'finetune.yaml'}" in ran.stderr
    assert len(list(tmp_path.rglob("predictions.csv"))) == 1
    rooms = {path.parent.name for path in Path(ser_personal.__file__).parent.glob("*/__init__.py")}
    modules = ast.literal_eval(ran.stdout.splitlines()[-1])
    assert len({module.removeprefix("ser_personal.") for module in modules} - rooms) <= 60
    others = ("ser_personal.recognition", "ser_personal.sharing", "ser_personal.study")
    assert not [name for name in modules if name.startswith(others)]


def test_public_signatures():
    for name, expected in SIGNATURES.items():
        first, *rest = name.split(".")
        parameters = inspect.signature(reduce(getattr, rest, getattr(ser_personal, first))).parameters.values()
        shown = (each.name if each.default is each.empty else f"{each.name}={each.default!r}" for each in parameters)
        assert ", ".join(each for each in shown if each != "self").startswith(expected), name
