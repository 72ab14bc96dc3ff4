"""Two processes train and score as one."""

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
UNEVEN_WITH_REPEATS = [[list(range(20)), list(range(20, 37))], [list(range(37, 60)), [0, 1]]]
ONE_WITHOUT_A_BATCH = [[list(range(60))], []]


def network():
    """The paper's interpreter over one frame an utterance."""
    torch.manual_seed(0)
    interpreter = MLPInterpreter((6, 5), dropout=0.0)
    interpreter.build(4, 2)
    return interpreter.double()


def predict(model, features):
    return model(EncoderOutput(features[:, None], torch.ones(len(features), 1, dtype=torch.bool)))


def loss_gradients_and_statistics(model, predictions, labels):
    loss = ccc_loss(predictions, labels)
    loss.backward()
    return [loss.detach(), *(weight.grad for weight in model.parameters()), *model.buffers()]


def as_one(rank, folder):
    torch.manual_seed(1)
    labels, features = (torch.randn(8, width, dtype=torch.float64) for width in (2, 4))
    labels[2, 0] = labels[6:, 1] = torch.nan
    alone = network()
    expected = loss_gradients_and_statistics(alone, predict(alone, features), labels)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for dealt in DEALT:
        model = DistributedDataParallel(network())
        mine, its_labels = (rows.split(dealt)[rank] for rows in (features, labels))
        gathered = gather_rows(predict(model, mine)), gather_rows(its_labels)
        torch.testing.assert_close(loss_gradients_and_statistics(model, *gathered), expected, rtol=1e-9, atol=1e-11)
    for kind, tolerance in TOLERANCE.items():
        for shares in (UNEVEN_WITH_REPEATS, ONE_WITHOUT_A_BATCH):
            rows = kind()
            for indices in shares[rank]:
                rows.metric.update(rows.batch(indices))
            assert rows.metric.compute() == pytest.approx(rows.expected(), abs=tolerance)
    distributed.destroy_process_group()


def test_two_processes_have_the_loss_the_gradients_the_statistics_and_the_scores_of_one(tmp_path):
    on_two_ranks(as_one, str(tmp_path))
