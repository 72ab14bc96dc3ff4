from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from shutil import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tiny_models import emotion_data, finetuning, threaded_trainers, trainer

from ser_personal.evaluation.pldc_callback import PLDCCallback
from ser_personal.evaluation.prediction_collector import PredictionWriter, run_folder
from ser_personal.types import Utterance

UTTERANCES = [Utterance(f"u{i}", Path(), "test1", speaker_id=None if i % 4 == 3 else f"s{i % 4}") for i in range(40)]
ALONE = SimpleNamespace(world_size=1, is_global_zero=True)


def batch(indices):
    """A batch whose every value identifies its utterance."""
    rows = torch.tensor(indices)
    return {
        "indices": rows,
        "speaker_ids": [UTTERANCES[index].speaker_id for index in indices],
        "pooled": rows[:, None] + torch.arange(3) / 4,
        "predictions": (rows[:, None] + torch.arange(2) / 2).bfloat16().float(),
        "labels": torch.where(rows[:, None] % 5 == 0, torch.nan, rows[:, None].double()),
    }


def joined(batches, trainer_, writer=None):
    writer = writer or PredictionWriter()
    trainer_.datamodule = SimpleNamespace(utterances=UTTERANCES)
    for indices in batches:
        writer.keep(trainer_, None, batch(indices))
    return writer.take_collected(trainer_)


def check(collected, indices):
    expected = batch(sorted(indices))
    assert collected.utterances == tuple(UTTERANCES[index] for index in sorted(indices))
    assert collected.predicted.speaker_ids == tuple(expected["speaker_ids"])
    for name in ("pooled", "predictions", "labels"):
        array = getattr(collected.predicted, name)
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, expected[name].double().numpy())


@given(order=st.permutations(range(10)), cut=st.integers(1, 9), repeated=st.lists(st.integers(0, 9), min_size=1))
def test_one_device_gives_each_utterance_once_in_order_and_keeps_none(order, cut, repeated):
    writer = PredictionWriter()
    check(joined([order[:cut], order[cut:], repeated], ALONE, writer), range(10))
    check(joined([[2]], ALONE, writer), [2])


def test_a_test_begins_without_what_an_interrupted_one_kept(tmp_path):
    writer = PredictionWriter()
    writer.keep(None, None, batch([3]))
    writer.setup(ready(tmp_path), None, "test")
    check(joined([[2]], ALONE, writer), [2])


def test_several_devices_are_joined_on_the_first(tmp_path):
    # the last device has nothing
    dealt = [[[39, 2], [7, 30]], [[0, 1], [39, 2]], [[20]], []]
    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(joined, dealt, threaded_trainers(4, tmp_path))
    check(first, [0, 1, 2, 7, 20, 30, 39])
    assert others == [None, None, None]
    assert not list(tmp_path.iterdir())


class SavesHere(Logger):
    """As those of W&B and MLflow: every run has the same folder."""

    name, version, save_dir = "run", "some/id", "."

    def log_metrics(self, metrics, step=None):
        pass

    log_hyperparams = log_metrics


def ready(folder, **options):
    running = trainer(folder, **options)
    running.datamodule = SimpleNamespace(utterances=[])
    return running


LOGGERS = [lambda _: False, lambda _: SavesHere(), TensorBoardLogger, CSVLogger, partial(CSVLogger, version=0)]


@pytest.mark.parametrize("logger", [*LOGGERS, lambda folder: TensorBoardLogger(folder / "boards")])
def test_each_run_has_a_folder_of_its_own_whatever_logs_it(tmp_path, logger):
    running = [ready(tmp_path, logger=logger(tmp_path)) for _ in range(2)]
    # the last one tests twice
    for each in (*running, running[-1]):
        writer = PredictionWriter()
        writer.setup(each, None, "test")
        (run_folder(each) / "predictions.csv").touch(exist_ok=False)
        writer.teardown(each, None, "test")
    found = sorted(path.parent.name for path in (tmp_path / "lightning_logs").glob("*/predictions.csv"))
    assert found in (["version_0", "version_1", "version_2"], ["id", "version_0", "version_1"])


def test_a_test_of_a_part_of_a_set_says_so(synthetic_corpus, finetuned_checkpoint, tmp_path, capsys):
    data, module = emotion_data(synthetic_corpus, max_batch=4), finetuning()
    checkpoint = copy(finetuned_checkpoint, tmp_path / "finetune.ckpt")
    for callback, limit in ((PredictionWriter(), 2), (PLDCCallback(k=3, draws=1), 2), (PredictionWriter(), 1.0)):
        running = trainer(tmp_path, callbacks=[callback], limit_test_batches=limit, limit_predict_batches=1)
        running.test(module, datamodule=data, ckpt_path=checkpoint, verbose=False)
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("only ")]
        assert said == ["only 8 of 18 utterances of test1 were predicted"] * (limit == 2)
    running.predict(module, datamodule=data)
    assert "only 4 of 18 utterances of test1 were predicted" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_is_found_before_the_test(tmp_path):
    (tmp_path / "lightning_logs").touch()
    with pytest.raises(OSError, match="lightning_logs"):
        PredictionWriter().setup(ready(tmp_path), None, "test")
