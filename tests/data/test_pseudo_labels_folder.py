from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ser_personal.data.frame_store import PseudoLabels, PseudoLabelSource, PseudoLabelWriter
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = PseudoLabelSource(num_clusters=300, teacher="mfcc", codebook_hash="abc")
IDS = {"a": np.array([0, 299, 7]), "ü b": np.arange(10), "c": np.array([1])}


def write(folder: Path, ids: dict[str, np.ndarray], source: PseudoLabelSource = SOURCE) -> None:
    with PseudoLabelWriter(folder, source) as writer:
        for utterance_id, labels in ids.items():
            if utterance_id not in writer:
                writer.write(utterance_id, labels)
        writer.finish()


def assert_holds(folder: Path, ids: dict[str, np.ndarray]) -> None:
    labels = PseudoLabels.load(folder)
    assert len(labels) == len(ids)
    for utterance_id, expected in ids.items():
        np.testing.assert_array_equal(labels[utterance_id], expected)
        assert labels[utterance_id].dtype == np.uint16


def test_reads_what_was_written_at_two_bytes_a_frame(tmp_path: Path) -> None:
    write(tmp_path, IDS)
    assert_holds(tmp_path, IDS)
    labels = PseudoLabels.load(tmp_path)
    assert "a" in labels
    assert "b" not in labels
    assert labels.num_clusters == 300
    assert labels.source == SOURCE
    assert (tmp_path / "ids.uint16").stat().st_size == 2 * (3 + 10 + 1)


def test_a_worker_maps_the_file_instead_of_copying_it(tmp_path: Path) -> None:
    write(tmp_path, {"long": np.zeros(100_000, dtype=int)})
    pickled = pickle.dumps(PseudoLabels.load(tmp_path))
    assert len(pickled) < 1_000
    assert len(pickle.loads(pickled)["long"]) == 100_000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(ids_bytes=st.integers(0, 28), line_bytes=st.integers(0, 45))
def test_goes_on_after_being_killed_at_any_byte(
    tmp_path_factory: pytest.TempPathFactory, ids_bytes: int, line_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    with PseudoLabelWriter(folder, SOURCE) as writer:
        for utterance_id, labels in IDS.items():
            writer.write(utterance_id, labels)
    for name, size in (("ids.uint16", ids_bytes), ("utterances.jsonl", line_bytes)):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:size])
    with pytest.raises(UserError, match=r"half written.*ser kmeans"):
        PseudoLabels.load(folder)
    write(folder, IDS)
    assert_holds(folder, IDS)


def test_a_finished_folder_takes_new_utterances(tmp_path: Path) -> None:
    write(tmp_path, IDS)
    more = {**IDS, "d": np.array([5, 5])}
    write(tmp_path, more)
    assert_holds(tmp_path, more)


def test_another_codebook_never_mixes_in(tmp_path: Path) -> None:
    write(tmp_path, IDS)
    with pytest.raises(UserError, match="another teacher or codebook"):
        PseudoLabelWriter(tmp_path, PseudoLabelSource(num_clusters=300, teacher="mfcc", codebook_hash="other"))
    assert_holds(tmp_path, IDS)


def test_writer_refuses_ids_out_of_range_and_repeats(tmp_path: Path) -> None:
    with PseudoLabelWriter(tmp_path, SOURCE) as writer:
        for wrong in ([300], [-1]):
            with pytest.raises(ValueError, match="outside"):
                writer.write("a", np.array(wrong))
        writer.write("a", np.array([1]))
        with pytest.raises(ValueError, match="already"):
            writer.write("a", np.array([1]))


def change_meta(folder: Path, **source: object) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    meta["source"].update(source)
    (folder / "meta.json").write_text(json.dumps(meta))


def test_what_load_refuses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pseudo-labels here"):
        PseudoLabels.load(tmp_path / "nowhere")
    write(tmp_path, IDS)
    change_meta(tmp_path, frame_rate=100)
    with pytest.raises(UserError, match="100 frames a second"):
        PseudoLabels.load(tmp_path)
    change_meta(tmp_path, frame_rate=50)
    (tmp_path / "ids.uint16").write_bytes(b"\0\0")
    with pytest.raises(UserError, match="damaged"):
        PseudoLabels.load(tmp_path)
    (tmp_path / "meta.json").write_text('{"format_version": 2}')
    with pytest.raises(UserError, match="format 1"):
        PseudoLabels.load(tmp_path)
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(UserError, match="valid JSON"):
        PseudoLabels.load(tmp_path)


def test_more_clusters_than_two_bytes_hold() -> None:
    with pytest.raises(UserError, match="two bytes"):
        PseudoLabelSource(num_clusters=65_537, teacher="mfcc", codebook_hash="abc")


@pytest.mark.parametrize("line", ["rubbish", "[]", '["a"]', '["a", "b"]', '["a", -1]', '{"a": 3}', "\x00"])
def test_a_damaged_list_of_utterances(tmp_path: Path, line: str) -> None:
    write(tmp_path, IDS)
    path = tmp_path / "utterances.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *others]) + "\n")
    for read in (PseudoLabels.load, lambda folder: PseudoLabelWriter(folder, SOURCE)):
        with pytest.raises(UserError, match=r"jsonl, line 2: pseudo-labels are damaged: .*again into a new one"):
            read(tmp_path)


@pytest.mark.parametrize(
    "meta",
    [
        {"format_version": 1},
        {"format_version": 1, "finished": True},
        {"format_version": 1, "finished": True, "source": {"num_clusters": 3}},
        {"format_version": 1, "finished": "yes", "source": asdict(SOURCE)},
        {"format_version": 1, "finished": True, "source": asdict(SOURCE) | {"num_clusters": "many"}},
        {"format_version": 1, "finished": True, "source": asdict(SOURCE) | {"more": 1}},
    ],
)
def test_a_damaged_description(tmp_path: Path, meta: dict[str, object]) -> None:
    write(tmp_path, IDS)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    for read in (PseudoLabels.load, lambda folder: PseudoLabelWriter(folder, SOURCE)):
        with pytest.raises(UserError, match=r"meta\.json: pseudo-labels are damaged"):
            read(tmp_path)


FULL_DISK = """
import resource, sys
import numpy as np
from ser_personal.cli import file_error_behind
from ser_personal.data.frame_store import PseudoLabelSource, PseudoLabelWriter

# no file grows beyond 300 bytes: a full disk as a process without special rights can have it
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
source = PseudoLabelSource(num_clusters=300, teacher="mfcc", codebook_hash="abc")
try:
    with PseudoLabelWriter(sys.argv[1], source) as writer:
        for number in range(9):
            writer.write(f"u{number}", np.full(40, number))
except OSError as error:
    print(file_error_behind(error))
"""


def test_a_full_disk_is_named_and_leaves_only_whole_utterances(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, folder], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{folder}: File too large. Check the path, its permissions and the space left")
    assert PseudoLabels.load_part(folder, SOURCE).utterance_ids == ["u0", "u1", "u2"]
    with pytest.raises(UserError, match="half written"):
        PseudoLabels.load(folder)
    ids = {f"u{number}": np.full(40, number) for number in range(9)}
    write(folder, ids)
    assert_holds(folder, ids)
