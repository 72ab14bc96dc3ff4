"""Each stage is killed twice; `make soak` does it fifty times."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from kill_stages import STAGES
from killing import survives, unbroken

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 2


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_stage_ends_as_an_unbroken_one(
    name: str, synthetic_corpus: Path, synthetic_pseudo_labels: Path, tmp_path: Path
) -> None:
    stage = STAGES[name](synthetic_corpus, synthetic_pseudo_labels)
    whole = unbroken(stage, tmp_path / "unbroken")
    rng = random.Random(name)
    for kill in range(KILLS):
        survives(stage, whole, tmp_path / f"{kill}", rng, share=(kill + rng.random()) / KILLS)
