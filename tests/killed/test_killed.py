from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kill_stages import stages
from killing import finish, moments, output, unbroken

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 6


@pytest.mark.parametrize("name", ["kmeans", "papt", "finetune"])
def test_a_killed_stage_ends_as_an_unbroken_one(name, synthetic_corpus, synthetic_pseudo_labels, tmp_path):
    stage = stages(synthetic_corpus, synthetic_pseudo_labels)[name]
    whole = unbroken(stage, tmp_path / "unbroken")
    broken = tmp_path / "broken"
    for moment in moments(whole, KILLS, seed=0):
        c = finish(stage, broken, moment); print(moment, c)
    assert finish(stage, broken) == 0, output(broken)
    assert stage.same(stage.result(broken), whole.result), output(broken)
