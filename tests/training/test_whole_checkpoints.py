from __future__ import annotations

import pytest
import torch

from ser_personal.training.checkpoints import WholeCheckpoints


class Unsaveable:
    """Fails when half of the checkpoint is written."""

    def __reduce__(self) -> str:
        raise OSError("no space left on device")


def test_a_checkpoint_that_fails_midway_leaves_the_former(tmp_path):
    path = tmp_path / "papt.ckpt"
    WholeCheckpoints().save_checkpoint({"step": 1}, path)
    with pytest.raises(OSError, match="no space"):
        WholeCheckpoints().save_checkpoint({"step": 2, "weights": torch.zeros(1000), "rest": Unsaveable()}, path)
    assert WholeCheckpoints().load_checkpoint(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_fit_left_half_written_is_removed(tmp_path):
    (tmp_path / ".papt.ckpt.123.tmp").write_bytes(b"half")
    (tmp_path / ".finetune.ckpt.123.tmp").write_bytes(b"another fit's")
    WholeCheckpoints().save_checkpoint({"step": 1}, tmp_path / "papt.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".finetune.ckpt.123.tmp", "papt.ckpt"]
