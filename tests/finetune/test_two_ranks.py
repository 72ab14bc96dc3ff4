"""Two processes train and score as one."""

import json

import pytest
import torch
from command_line import on_two_ranks
from test_metrics import TOLERANCE
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ser_personal.finetune.concordance import ccc_loss, gather_rows
from ser_personal.finetune.interpreters import MLPInterpreter
from ser_personal.types import EncoderOutput

# rows of each of the two processes
DEALT = [(5, 3), (1, 7), (8, 0)]


def network():
    """The paper's interpreter over one frame an utterance."""
    torch.manual_seed(0)
    interpreter = MLPInterpreter((6, 5), dropout=0.0)
    interpreter.build(4, 2)
    return interpreter.double()


def rows_and_labels():
    torch.manual_seed(1)
    labels = torch.randn(8, 2, dtype=torch.float64)
    labels[2, 0] = labels[6:, 1] = torch.nan
    return torch.randn(8, 4, dtype=torch.float64), labels


def predict(model, features):
    return model(EncoderOutput(features[:, None], torch.ones(len(features), 1, dtype=torch.bool)))


def gradients_of(rank, folder):
    """DDP's gradients of the loss over everybody's rows, and the statistics that it leaves."""
    results = []
    for dealt in DEALT:
        model = DistributedDataParallel(network())
        features, labels = (rows.split(dealt)[rank] for rows in rows_and_labels())
        loss = ccc_loss(gather_rows(predict(model, features)), gather_rows(labels))
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters()), *model.buffers()])
    torch.save(results, f"{folder}/{rank}.pt")


UNEVEN_WITH_REPEATS = [[list(range(20)), list(range(20, 37))], [list(range(37, 60)), [0, 1]]]
ONE_WITHOUT_A_BATCH = [[list(range(60))], []]


def evaluate(rank, folder):
    for kind in TOLERANCE:
        for number, shares in enumerate((UNEVEN_WITH_REPEATS, ONE_WITHOUT_A_BATCH)):
            rows = kind()
            for indices in shares[rank]:
                rows.metric.update(rows.batch(indices))
            with open(f"{folder}/{kind.__name__}-{number}-{rank}.json", "w") as file:  # noqa: PTH123
                json.dump(rows.metric.compute(), file)


def both(rank, folder):
    """One process of two."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gradients_of(rank, folder)
    evaluate(rank, folder)
    distributed.destroy_process_group()


def test_two_processes_have_the_loss_the_gradients_the_statistics_and_the_scores_of_one(tmp_path):
    on_two_ranks(both, str(tmp_path))
    model = network()
    features, labels = rows_and_labels()
    loss = ccc_loss(predict(model, features), labels)
    loss.backward()
    expected = [loss.detach(), *(weight.grad for weight in model.parameters()), *model.buffers()]
    for rank in range(2):
        for dealt in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            for mine, one in zip(dealt, expected, strict=True):
                torch.testing.assert_close(mine, one, rtol=1e-9, atol=1e-11)
    for kind, tolerance in TOLERANCE.items():
        files = list(tmp_path.glob(f"{kind.__name__}-*.json"))
        assert len(files) == 4
        for file in files:
            assert json.loads(file.read_text()) == pytest.approx(kind().expected(), abs=tolerance)
