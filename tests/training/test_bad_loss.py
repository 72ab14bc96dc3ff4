from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from tiny_models import emotion_data, encoder, fit
from torch.multiprocessing import ProcessRaisedException

from ser_personal.errors import UserError
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.training.interruption import BadLoss

if TYPE_CHECKING:
    from pathlib import Path

    from ser_personal.types import EmotionBatch

SPOILED = 2


class Spoiled(EmotionFineTuning):
    """Fine-tuning in which some batches spoil weights and running means, on one of the devices."""

    def __init__(self, batches: tuple[int, ...], value: float, rank: int = 0) -> None:
        super().__init__(encoder=encoder(), attributes=("arousal",), learning_rate=1e-2, min_utterances=3)
        self.batches, self.value, self.rank = batches, value, rank

    def training_step(self, batch: EmotionBatch, batch_idx: int) -> torch.Tensor:
        if batch_idx not in self.batches or self.global_rank != self.rank:
            return super().training_step(batch, batch_idx)
        return super().training_step({**batch, "waveforms": batch["waveforms"] * self.value}, batch_idx)


class Weights(BadLoss):
    """Keeps what a model was after each step."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.after: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        state = {name: value.clone() for name, value in pl_module.state_dict().items() if "num_batches" not in name}
        self.after.append(state)


def run(corpus: Path, folder: Path, callback: BadLoss, batches: tuple[int, ...], **options: Any) -> None:
    module = Spoiled(batches, math.nan)
    options = {"max_epochs": 1, "gradient_clip_val": 1.0} | options
    fit(module, emotion_data(corpus, max_batch=8), folder, callbacks=[callback], **options)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_fit_stops_and_names_step_and_utterances(synthetic_corpus, tmp_path, value):
    data = emotion_data(synthetic_corpus, max_batch=8)
    with pytest.raises(UserError) as caught:
        fit(Spoiled((SPOILED,), value), data, tmp_path, max_epochs=1, callbacks=[BadLoss()])
    batch = data.train_dataloader().batch_sampler.plan(0)[SPOILED]
    ids = [data.utterances[index].utterance_id for index in batch]
    assert str(caught.value).startswith(f"step {SPOILED}: the loss is nan for {', '.join(ids)}. ")
    assert "--bad_loss.action skip" in str(caught.value)


def test_a_step_that_is_left_out_changes_nothing_and_the_next_one_does(synthetic_corpus, tmp_path, capsys):
    kept = Weights(action="skip")
    run(synthetic_corpus, tmp_path, kept, (SPOILED,))
    assert same(kept.after[SPOILED - 1], kept.after[SPOILED])
    assert not same(kept.after[SPOILED], kept.after[SPOILED + 1])
    assert all(torch.isfinite(value).all() for value in kept.after[-1].values())
    assert re.fullmatch(r"ser: step 2 is left out: the loss is nan for \w.*\n", capsys.readouterr().err)


def test_one_bad_batch_leaves_out_all_that_it_is_accumulated_with(synthetic_corpus, tmp_path):
    kept = Weights(action="skip")
    run(synthetic_corpus, tmp_path, kept, (SPOILED,), accumulate_grad_batches=2)
    weights = [{name: value for name, value in state.items() if "running" not in name} for state in kept.after]
    assert same(weights[1], weights[3])
    assert not same(weights[3], weights[5])
    assert all(torch.isfinite(value).all() for value in kept.after[-1].values())


def test_a_fit_whose_weights_are_lost_stops_all_the_same(synthetic_corpus, tmp_path):
    with pytest.raises(UserError, match=r"step 3: the loss is nan .*, and 2 steps before it were left out for theirs"):
        run(synthetic_corpus, tmp_path, BadLoss(action="skip", most_in_a_row=2), (1, 2, 3))


def test_good_steps_between_them_forgive_bad_ones(synthetic_corpus, tmp_path):
    run(synthetic_corpus, tmp_path, BadLoss(action="skip", most_in_a_row=1), (1, 3, 5))


class WritesWeights(Callback):
    """Writes down what a device's weights are after each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        torch.save(dict(pl_module.named_parameters()), self.folder / f"{trainer.global_rank} {batch_idx}.pt")


def test_two_devices_leave_the_same_steps_out_and_stop_at_the_same(synthetic_corpus, tmp_path):
    """The second one alone has bad losses; a hang ends in another error."""
    strategy = DDPStrategy(start_method="spawn", timeout=timedelta(seconds=600))
    callbacks = [BadLoss(action="skip", most_in_a_row=1), WritesWeights(tmp_path)]
    module, data = Spoiled((1, 3, 4), math.nan, rank=1), emotion_data(synthetic_corpus, max_batch=4)
    told = "step 4: the loss (is nan for .*|of another device is NaN or infinite), and 1 steps before it"
    with pytest.raises(ProcessRaisedException, match=told):
        fit(module, data, tmp_path, devices=2, strategy=strategy, max_epochs=1, callbacks=callbacks)
    after = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("*.pt")}
    assert sorted(after) == [f"{rank} {step}" for rank in (0, 1) for step in range(4)]
    assert all(same(after[f"0 {step}"], after[f"1 {step}"]) for step in range(4))
    assert [same(after[f"0 {step}"], after[f"0 {step + 1}"]) for step in range(3)] == [True, False, True]
    assert all(torch.isfinite(weight).all() for weight in after["1 3"].values())
