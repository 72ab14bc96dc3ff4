import json

import pytest
from tiny_models import emotion_data, finetuning, fit, newest_run, trainer

from ser_personal.comparison.cost import CostRecorder


def seconds_of(data, *splits):
    return sum(data.utterances[index].seconds for split in splits for index in data.split_indices(split))


@pytest.fixture(scope="module")
def first(synthetic_corpus, tmp_path_factory):
    """The checkpoint of a fit of one epoch with validation."""
    folder, data = tmp_path_factory.mktemp("first"), emotion_data(synthetic_corpus)
    running = fit(finetuning(), data, folder, max_epochs=1, limit_val_batches=1.0, callbacks=[CostRecorder()])
    running.save_checkpoint(folder / "first.ckpt")
    return folder / "first.ckpt"


def test_a_resumed_fit_records_all_audio_each_time_that_it_went_through(first, synthetic_corpus, tmp_path):
    data = emotion_data(synthetic_corpus)
    running = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=1, callbacks=[CostRecorder()])
    running.fit(finetuning(), datamodule=data, ckpt_path=first)
    cost = json.loads((newest_run(tmp_path) / "fit_cost.json").read_text())
    assert cost["speech_seconds"] == pytest.approx(2 * seconds_of(data, "train", "validation"), rel=1e-4)
    assert cost["command"] == "fit"
    assert 0 < cost["trained_parameters"] <= cost["parameters"]
    before = json.loads((newest_run(first.parent) / "fit_cost.json").read_text())
    assert cost["seconds"] > before["seconds"] > 0


def test_a_test_does_not_count_its_checkpoint_s_fit(first, synthetic_corpus, tmp_path):
    data, running = emotion_data(synthetic_corpus), trainer(tmp_path, callbacks=[CostRecorder()])
    running.test(finetuning(), datamodule=data, ckpt_path=first, verbose=False)
    cost = json.loads((newest_run(tmp_path) / "test_cost.json").read_text())
    assert cost["speech_seconds"] == pytest.approx(seconds_of(data, "test1"), rel=1e-4)
    assert cost["trained_parameters"] is None
