import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from garbage import Trap, refused
from jsonargparse.typing import PositiveInt
from lightning.pytorch.trainer.states import TrainerFn
from tiny_models import papt

from ser_personal.encoder.module import DESCRIPTION, naming_checkpoint, read_checkpoint
from ser_personal.pretrain.papt import PAPT
from ser_personal.speakers.embedding import SpeakerEmbedding


def test_a_checkpoint_describes_its_networks_and_needs_no_corpus(papt_checkpoint):
    unbuilt = papt()
    unbuilt.configure_model()
    assert not list(unbuilt.parameters())
    loaded = PAPT.load_from_checkpoint(papt_checkpoint, fusion="prefix", speakers=SpeakerEmbedding(99))
    checkpoint = read_checkpoint(papt_checkpoint)
    assert loaded.personalized.describe() | {"encoder": "TinyEncoder"} == checkpoint[DESCRIPTION]
    torch.testing.assert_close(dict(loaded.state_dict()), dict(checkpoint["state_dict"]), atol=0, rtol=0)
    refused("the checkpoint: isn't one of ser_personal", papt().on_load_checkpoint, {"state_dict": {}})


def test_settings_are_saved_as_plain_text_and_numbers(papt_checkpoint):
    settings = {"seed": np.int64(3), "rates": (np.float32(0.5), PositiveInt(2)), "corpus": Path("a")}
    checkpoint = {"hyper_parameters": settings}
    PAPT.load_from_checkpoint(papt_checkpoint).on_save_checkpoint(checkpoint)
    assert [checkpoint["hyper_parameters"][name] for name in settings] == [3, [0.5, 2], "a"]


def test_networks_are_made_in_main_memory_whatever_device_they_train_on():
    """A GPU's context would have transformers ask for `accelerate`; `meta` stands for the GPU."""
    module, devices = papt(), []
    module.build = lambda _: devices.append(torch.empty(1).device.type)
    module.trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING), datamodule="any")
    with torch.device("meta"):
        module.configure_model()
    assert devices == ["cpu"]


def refused_checkpoint(path: Path, line: str) -> None:
    refused(f"^{path}: {line}.*Give a checkpoint written by `ser fit`, such as papt.ckpt", read_checkpoint, path)


def test_missing_foreign_truncated_and_junk(tmp_path):
    path = tmp_path / "papt.ckpt"
    for missing in (path, tmp_path):
        refused_checkpoint(missing, "no such checkpoint")
    torch.save([1, 2], path)
    refused_checkpoint(path, "isn't a checkpoint of ser_personal")
    torch.save({DESCRIPTION: {}, "state_dict": {"w": torch.randn(100, 10)}}, path)
    for junk in (path.read_bytes()[:-1000], b"", b"\x80\x02q"):
        path.write_bytes(junk)
        refused_checkpoint(path, "is truncated or no checkpoint")


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    path, trace = tmp_path / "papt.ckpt", tmp_path / "trace"
    torch.save({DESCRIPTION: {}, "hyper_parameters": Trap(trace)}, path)
    refused_checkpoint(path, "is damaged, or holds more than weights and settings")
    path.write_bytes(pickle.dumps({DESCRIPTION: Trap(trace)}))
    refused_checkpoint(path, "is truncated or no checkpoint")
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the trap itself works"


def test_too_little_memory_is_not_the_checkpoints_mistake():
    with pytest.raises(torch.OutOfMemoryError), naming_checkpoint("papt.ckpt"):
        raise torch.OutOfMemoryError
