from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from tiny_models import finetuning, fit
from tiny_networks import padded_noise
from torch.utils.data import DataLoader

from ser_personal.data.emotion import EmotionDataModule
from ser_personal.encoder import module as module_file
from ser_personal.encoder.base import mean_pool
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.encoder.module import (
    DESCRIPTION,
    PersonalizedModule,
    read_checkpoint,
    require_training_state,
    speaker_set,
    using,
)
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.errors import UserError
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.types import SpeechBatch

LENGTHS = torch.tensor([4000, 2000])


def batch() -> SpeechBatch:
    return SpeechBatch(
        waveforms=padded_noise(LENGTHS), num_samples=LENGTHS, speaker_ids=["anna", "bela"], indices=torch.arange(2)
    )


class Speech(LightningDataModule):
    """One batch, and the training speakers it is told."""

    def __init__(self, *speaker_ids: str) -> None:
        super().__init__()
        self.train_speaker_ids = list(speaker_ids)

    def speaker_features_of(self, speaker_ids: list[str]) -> None:
        return None

    def training_audio(self, limit: int) -> Iterator[np.ndarray]:
        return iter([padded_noise(LENGTHS)[0].numpy()])

    def train_dataloader(self) -> DataLoader:
        return DataLoader([batch()], batch_size=None)

    def test_dataloader(self) -> DataLoader:
        return self.train_dataloader()


class Energy(PersonalizedModule):
    """The smallest stage: pulls the pooled frames through a head towards one."""

    def __init__(self, fusion: str = "last", head_dim: int = 3) -> None:
        encoder = TinyEncoder(dim=16, layers=1, heads=2, feed_forward_dim=32)
        super().__init__(PersonalizedEncoder(encoder, SpeakerEmbedding(8), fusion))
        self.save_hyperparameters()
        self.head_dim = head_dim
        self.builds = 0

    def build(self, training_set: Speech) -> None:
        self.builds += 1
        self.personalized.build(speaker_set(training_set, training_set.train_speaker_ids))
        self.personalized.encoder.fit_front_end(training_set.training_audio)
        self.head = torch.nn.Linear(self.personalized.dim, self.head_dim)

    def rebuild(self, checkpoint: dict) -> None:
        self.head = torch.nn.Linear(self.personalized.dim, len(checkpoint["state_dict"]["head.bias"]))

    def forward(self, speech: SpeechBatch) -> torch.Tensor:
        return self.head(mean_pool(self.personalized(speech)))

    def training_step(self, speech: SpeechBatch, batch_idx: int) -> torch.Tensor:
        return (self(speech) - 1).square().mean()

    def test_step(self, speech: SpeechBatch, batch_idx: int) -> None:
        self.log("score", self(speech).mean(), batch_size=2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, max_steps: int = 1) -> Trainer:
    return Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


@pytest.fixture
def fitted(tmp_path: Path) -> tuple[Energy, Path]:
    # a number as the command line gives it, which weights_only wouldn't load
    module, running = Energy(head_dim=PositiveInt(3)), trainer(tmp_path)
    running.fit(module, datamodule=Speech("anna", "bela"))
    running.save_checkpoint(tmp_path / "energy.ckpt")
    return module, tmp_path / "energy.ckpt"


def test_nothing_is_built_before_a_fit(tmp_path):
    module = Energy()
    module.configure_model()
    assert not list(module.parameters())
    trainer(tmp_path).fit(module, datamodule=Speech("anna", "bela"))
    assert module.builds == 1
    assert module.personalized.speakers.ids == ["anna", "bela"]
    assert module.personalized.encoder.front_end.std.ne(1).all()


def test_a_checkpoint_describes_its_networks(fitted):
    module, path = fitted
    description = read_checkpoint(path)[DESCRIPTION]
    assert description == module.personalized.describe()
    assert description["speakers"]["speaker_ids"] == ["anna", "bela"]
    assert description["encoder"] == "TinyEncoder"


def test_a_checkpoint_loads_without_trainer_or_corpus(fitted):
    module, path = fitted
    loaded = Energy.load_from_checkpoint(path, fusion="prefix", head_dim=7)
    assert loaded.builds == 0
    torch.testing.assert_close(loaded(batch()), module(batch()), atol=0, rtol=0)


def test_a_test_keeps_the_speakers_of_the_checkpoint(fitted, tmp_path):
    module, path = fitted
    tested = Energy("none")
    (scores,) = trainer(tmp_path).test(tested, datamodule=Speech("carl"), ckpt_path=path, verbose=False)
    assert tested.personalized.speakers.ids == ["anna", "bela"]
    assert scores["score"] == pytest.approx(module(batch()).mean().item(), abs=1e-6)


def test_a_fit_resumes_on_the_same_speakers(fitted, tmp_path):
    uninterrupted = Energy.load_from_checkpoint(fitted[1])
    trainer(tmp_path).fit(uninterrupted, datamodule=Speech("anna", "bela"))
    resumed = Energy()
    resumed.starts_from_checkpoint = True
    running = trainer(tmp_path, max_steps=2)
    running.fit(resumed, datamodule=Speech("bela", "anna"), ckpt_path=fitted[1])
    assert (resumed.builds, running.global_step) == (0, 2)
    torch.testing.assert_close(resumed(batch()), uninterrupted(batch()))


def test_resuming_on_other_speakers_or_from_a_foreign_checkpoint_is_refused(fitted, tmp_path):
    message = "the checkpoint to resume: was trained on other speakers than this corpus has (2 differ, first bela)"
    with pytest.raises(UserError, match=re.escape(message)):
        trainer(tmp_path, 2).fit(Energy(), datamodule=Speech("anna", "carl"), ckpt_path=fitted[1])
    with pytest.raises(UserError, match="the checkpoint: isn't one of ser_personal"):
        Energy().on_load_checkpoint({"state_dict": {}})


def test_a_table_that_came_from_elsewhere_may_differ(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(Energy, "keeps_other_speakers", True)
    resumed = Energy()
    trainer(tmp_path, 2).fit(resumed, datamodule=Speech("anna", "carl"), ckpt_path=fitted[1])
    assert resumed.personalized.speakers.ids == ["anna", "bela"]


def test_networks_are_made_in_main_memory_whatever_device_they_train_on():
    """A GPU's context would have transformers ask for `accelerate`; `meta` stands for the GPU."""
    module, devices = Energy(), []
    module.build = lambda _: devices.append(torch.empty(1).device.type)
    module.trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING), datamodule=Speech("anna"))
    with torch.device("meta"):
        module.configure_model()
    assert devices == ["cpu"]


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith("Give a checkpoint written by `ser fit`, such as papt.ckpt.")
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "papt.ckpt"


def test_truncated(path):
    torch.save({DESCRIPTION: {}, "state_dict": {"w": torch.randn(100, 10)}}, path)
    whole = path.read_bytes()
    for share in range(20):
        path.write_bytes(whole[: len(whole) * share // 20])
        assert "is truncated or no checkpoint" in refusal(path)
    path.write_bytes(whole[:-1])
    refusal(path)


@pytest.mark.parametrize("junk", [b"", b"\x80", b"hello world", b"epoch: 3\n", b"\x80\x02q", pickle.dumps({1: 2})])
def test_missing_and_junk(path, junk):
    assert "no such checkpoint" in refusal(path)
    assert "no such checkpoint" in refusal(path.parent)
    path.write_bytes(junk)
    assert "is truncated or no checkpoint" in refusal(path)


def test_nothing_in_a_checkpoint_is_run(path, tmp_path):
    trace = tmp_path / "trace"
    torch.save({DESCRIPTION: {}, "hyper_parameters": Touch(trace)}, path)
    assert "holds more than weights and settings" in refusal(path)
    path.write_bytes(pickle.dumps({DESCRIPTION: Touch(trace)}))
    refusal(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the trap itself works"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "isn't a checkpoint of ser_personal"),
        ([1, 2], "isn't a checkpoint of ser_personal"),
        (torch.ones(3), "isn't a checkpoint of ser_personal"),
        ({DESCRIPTION: {}, "hyper_parameters": {}}, "is a checkpoint without its state_dict"),
        ({DESCRIPTION: {}, "state_dict": {}, "hyper_parameters": None}, "is a checkpoint without its hyper_parameters"),
        ({DESCRIPTION: None, "state_dict": {}, "hyper_parameters": {}}, f"is a checkpoint without its {DESCRIPTION}"),
    ],
)
def test_foreign_and_incomplete_checkpoints(path, content, message):
    torch.save(content, path)
    assert message in refusal(path)


def test_weights_alone_are_no_state_to_resume(path):
    whole = {"optimizer_states": [{}], "lr_schedulers": [], "loops": {}}
    require_training_state(whole, path)
    for part in whole:
        with pytest.raises(UserError, match=f"papt.ckpt: holds no {part}, so no fit can be resumed from it"):
            require_training_state({name: value for name, value in whole.items() if name != part}, path)
    with pytest.raises(UserError, match="holds no optimizer_states"):
        require_training_state(whole | {"optimizer_states": []}, path)


def test_what_does_not_fit_is_the_checkpoints_mistake(path):
    with pytest.raises(UserError, match=r"papt.ckpt: is damaged, .* \(RuntimeError: .*size mismatch"), using(path):
        torch.nn.Linear(2, 2).load_state_dict({"weight": torch.ones(3, 3), "bias": torch.ones(2)})
    with pytest.raises(UserError, match="holds NaN"), using(path):
        raise UserError("holds NaN", remedy="Fix it")
    with pytest.raises(torch.OutOfMemoryError), using(path):
        raise torch.OutOfMemoryError


def placed(device, scaler=None):
    return SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)), precision_plugin=SimpleNamespace(scaler=scaler)
    )


def test_the_optimizer_is_fused_on_a_gpu_where_nothing_scales_gradients():
    module = finetuning()
    for where, fused in ((placed("cuda"), True), (placed("cpu"), None), (placed("cuda", scaler=object()), None)):
        module.trainer = where
        optimizer = module.adamw([torch.nn.Parameter(torch.zeros(2))], None, lr=1.0)
        assert optimizer.defaults["fused"] is fused


class Norms(Callback):
    """Keeps how long gradients are when the optimizer takes them."""

    def __init__(self):
        self.norms = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        if gradients:
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimizer_clips_and_learns_as_another(precision, synthetic_corpus, tmp_path, monkeypatch):
    weights = []
    for fused in (False, True):
        if fused:
            monkeypatch.setattr(
                module_file, "AdamW", lambda *args, **kwargs: torch.optim.AdamW(*args, **kwargs | {"fused": True})
            )
        data = EmotionDataModule(str(synthetic_corpus), max_batch=16, num_workers=0)
        norms, module = Norms(), finetuning()
        running = fit(
            module, data, tmp_path, max_steps=3, precision=precision, gradient_clip_val=0.01, callbacks=[norms]
        )
        assert bool(running.optimizers[0].defaults["fused"]) is fused
        assert max(norms.norms) <= 0.0101
        weights.append([weight.detach().clone() for weight in module.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
