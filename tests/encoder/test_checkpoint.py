from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from ser_personal.encoder.module import DESCRIPTION, read_checkpoint, require_training_state, using
from ser_personal.errors import UserError


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
    assert message.endswith("give a checkpoint written by `ser fit`, such as papt.ckpt.")
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "papt.ckpt"


def test_a_checkpoint_comes_back(path):
    torch.save({DESCRIPTION: {"fusion": "last"}, "state_dict": {"w": torch.arange(6.0)}, "hyper_parameters": {}}, path)
    checkpoint = read_checkpoint(str(path))
    assert checkpoint[DESCRIPTION] == {"fusion": "last"}
    assert checkpoint["state_dict"]["w"].tolist() == [0, 1, 2, 3, 4, 5]


def test_missing(path):
    assert "no such checkpoint" in refusal(path)
    assert "no such checkpoint" in refusal(path.parent)


def test_truncated(path):
    torch.save({DESCRIPTION: {}, "state_dict": {"w": torch.randn(100, 10)}}, path)
    whole = path.read_bytes()
    for share in range(20):
        path.write_bytes(whole[: len(whole) * share // 20])
        assert "is truncated or no checkpoint" in refusal(path)
    path.write_bytes(whole[:-1])
    refusal(path)


@pytest.mark.parametrize("junk", [b"", b"\x80", b"hello world", b"epoch: 3\n", b"\x80\x02q", pickle.dumps({1: 2})])
def test_junk(path, junk):
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


@pytest.mark.parametrize("foreign", [{"state_dict": {}}, [1, 2], torch.ones(3)])
def test_a_foreign_checkpoint(path, foreign):
    torch.save(foreign, path)
    assert "isn't a checkpoint of ser_personal" in refusal(path)


@pytest.mark.parametrize("part", [DESCRIPTION, "state_dict", "hyper_parameters"])
def test_a_checkpoint_without_a_part(path, part):
    whole = {DESCRIPTION: {}, "state_dict": {}, "hyper_parameters": {}}
    torch.save(whole | {part: None}, path)
    if part == DESCRIPTION:
        torch.save({name: value for name, value in whole.items() if name != part}, path)
        assert "isn't a checkpoint of ser_personal" in refusal(path)
    else:
        assert f"is a checkpoint without its {part}" in refusal(path)


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
        raise UserError("holds NaN", remedy="Mend it")
    with pytest.raises(torch.OutOfMemoryError), using(path):
        raise torch.OutOfMemoryError
