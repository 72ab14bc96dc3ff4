from __future__ import annotations

import json

import pytest
from command_line import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_cells_run_in_their_order(notebook, tmp_path, monkeypatch):
    """By a loop and not by a Jupyter kernel, which the package doesn't need."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)  # noqa: S102
    assert (tmp_path / "timeline.html").is_file()
    assert {"Anna", "Bert"} == set(names["predicted"]["speaker"])
