from __future__ import annotations

import json

import pytest
from tiny_models import emotion_data, finetuning, fit, trainer

from ser_personal.errors import UserError
from ser_personal.report.cost import CostRecorder


def seconds_of(data, *splits):
    return sum(data.utterances[index].seconds for split in splits for index in data.split_indices(split))


@pytest.fixture(scope="module")
def recorded(synthetic_corpus, tmp_path_factory):
    """A fit of two epochs with validation, its checkpoint of the first epoch, and its record."""
    folder = tmp_path_factory.mktemp("recorded")
    data, module = emotion_data(synthetic_corpus), finetuning()
    options = {"limit_val_batches": 1.0, "callbacks": [CostRecorder()]}
    fit(module, data, folder, max_epochs=1, **options).save_checkpoint(folder / "first.ckpt")
    fit(finetuning(), data, folder, max_epochs=2, **options | {"callbacks": [CostRecorder()]})
    return folder, data, json.loads((folder / "fit_cost.json").read_text())


def test_audio_counts_every_time_that_it_goes_through(recorded):
    _, data, cost = recorded
    expected = 2 * seconds_of(data, "train", "validation")
    assert cost["speech_seconds"] == pytest.approx(expected, rel=1e-4)
    assert cost["command"] == "fit"
    assert 0 < cost["trained_parameters"] <= cost["parameters"]
    assert cost["seconds"] > 0


def test_counting_changes_no_weight(recorded, synthetic_corpus, tmp_path):
    with_count, without = finetuning(), finetuning()
    fit(with_count, emotion_data(synthetic_corpus), tmp_path, max_epochs=1, callbacks=[CostRecorder()])
    fit(without, emotion_data(synthetic_corpus), tmp_path, max_epochs=1)
    for one, other in zip(with_count.parameters(), without.parameters(), strict=True):
        assert one.equal(other)


def test_a_few_counted_batches_tell_the_operations_of_all(synthetic_corpus, tmp_path):
    def flops(counted):
        folder = tmp_path / str(counted)
        data = emotion_data(synthetic_corpus, max_batch=8)
        fit(finetuning(), data, folder, max_epochs=2, callbacks=[CostRecorder(counted)])
        return json.loads((folder / "fit_cost.json").read_text())["flops"]

    assert flops(2) == pytest.approx(flops(1000), rel=0.2)


def test_a_resumed_fit_records_the_whole(recorded, synthetic_corpus, tmp_path):
    folder, _, whole = recorded
    running = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0, callbacks=[CostRecorder()])
    running.fit(finetuning(), datamodule=emotion_data(synthetic_corpus), ckpt_path=folder / "first.ckpt")
    resumed = json.loads((tmp_path / "fit_cost.json").read_text())
    assert resumed["speech_seconds"] == pytest.approx(whole["speech_seconds"], rel=1e-4)
    assert resumed["flops"] == pytest.approx(whole["flops"], rel=0.01)


def test_a_test_does_not_count_its_checkpoint_s_fit(recorded, tmp_path):
    folder, data, _ = recorded
    running = trainer(tmp_path, callbacks=[CostRecorder()])
    running.test(finetuning(), datamodule=data, ckpt_path=folder / "first.ckpt", verbose=False)
    cost = json.loads((tmp_path / "test_cost.json").read_text())
    assert cost["speech_seconds"] == pytest.approx(seconds_of(data, "test1"), rel=1e-4)
    assert cost["flops"] > 0
    assert cost["trained_parameters"] is None


def test_some_batch_is_counted():
    with pytest.raises(UserError, match="counted_batches: 0 is out of range"):
        CostRecorder(0)
