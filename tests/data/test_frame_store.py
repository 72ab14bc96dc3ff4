import pickle
from dataclasses import replace

import numpy as np
import pytest
from garbage import files, is_read_or_refused, many_inputs, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import contents

from ser_personal.data.frame_store import BATCHES, FeatureCache, PseudoLabels, PseudoLabelSource, audio_key
from ser_personal.types import FeatureSource, Utterance

SOURCE = PseudoLabelSource(num_clusters=300, teacher="mfcc", codebook_hash="abc")
FEATURES = FeatureSource(encoder="test", dim=3, frame_seconds=0.2)
IDS = {f"ü {k}": np.arange(k + 1) for k in range(8)}
FRAMES = {"a": np.linspace(-1, 1, 6).reshape(2, 3), "b": np.ones((5, 3)), "c": np.zeros((1, 3))}


def write(folder, batches):
    store = PseudoLabels.create(folder, SOURCE)
    names = list(IDS)
    for batch in batches:
        store.write({names[k]: IDS[names[k]] for k in batch})
    store.finish()
    return store


@pytest.fixture
def labels(tmp_path):
    write(tmp_path / "labels", [[0, 1, 2], [3, 4], [5, 6, 7]])
    return tmp_path / "labels"


def test_pseudo_labels_are_read_as_they_were_written_in_this_process_and_another(labels):
    pickled = pickle.dumps(PseudoLabels.load(labels))
    assert len(pickled) < 1_000
    for store in (PseudoLabels.load(labels), pickle.loads(pickled)):
        assert (store.source, set(store), len(store)) == (SOURCE, set(IDS), 8)
        assert "a" not in store
        assert sum(map(store.num_frames, store)) == sum(range(1, 9))
        for utterance_id, expected in IDS.items():
            np.testing.assert_array_equal(store[utterance_id], expected)
            assert (store[utterance_id].dtype, store.num_frames(utterance_id)) == (np.uint16, len(expected))


@settings(max_examples=12)
@given(done=st.lists(st.sampled_from([0, 1, 2]), unique=True), half=st.booleans())
def test_what_a_killed_writer_left_is_refused_and_completed_to_the_same_bytes(tmp_path_factory, done, *, half):
    batches = [[0, 1, 2], [3, 4], [5, 6, 7]]
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    write(whole, batches)
    killed = PseudoLabels.create(broken, SOURCE)
    for number in done:
        killed.write({utterance_id: IDS[utterance_id] for utterance_id in [list(IDS)[k] for k in batches[number]]})
    leftover = broken / ".batch-0.safetensors.17.tmp"
    if half:
        leftover.write_bytes(b"half")
    refused(r"only half written\. Run the same `ser kmeans` again", PseudoLabels.load, broken)
    assert len(PseudoLabels.create(broken, SOURCE)) == sum(len(batches[number]) for number in done)
    write(broken, batches)
    PseudoLabels.load(broken)
    leftover.unlink(missing_ok=True)
    assert contents(broken) == contents(whole)


def test_a_complete_folder_takes_new_utterances_and_keeps_what_it_has(labels):
    before = PseudoLabels.create(labels, SOURCE)
    before.write({"ü 0": np.array([7]), "new": np.array([5, 5])})
    refused("half written", PseudoLabels.load, labels)
    before.finish()
    after = PseudoLabels.load(labels)
    assert (after["ü 0"].tolist(), after["new"].tolist(), len(after)) == ([0], [5, 5], 9)
    refused(r"no process wrote the pseudo-labels of other.* all machines share", before.finish, [*IDS, "other"])


def test_arrays_of_another_source_or_type_never_mix_in(labels, tmp_path):
    before = contents(labels)
    other = replace(SOURCE, codebook_hash="other")
    refused("holds pseudo-labels of another teacher or codebook", PseudoLabels.create, labels, other)
    assert contents(labels) == before
    FeatureCache.create(tmp_path, FEATURES).write(FRAMES)
    (path,) = tmp_path.glob(BATCHES)
    path.rename(labels / path.name)
    refused(r"batch-\w+\.safetensors: pseudo-labels are damaged: array a has another type", PseudoLabels.load, labels)


def test_arrays_that_cannot_be_stored_are_refused(tmp_path):
    cache = FeatureCache.create(tmp_path, FEATURES)
    for value in (np.nan, 70_000.0):
        refused("features of a: a value is NaN, infinite or above 65504", cache.write, {"a": np.full((2, 3), value)})
    for shape in ((0, 3), (3,), (2, 4)):
        with pytest.raises(ValueError, match="is not"):
            cache.write({"a": np.zeros(shape)})
    assert not [*cache]
    refused("dim: 0 is out of range", FeatureCache.create, tmp_path / "other", replace(FEATURES, dim=0))


@pytest.mark.parametrize("which", ["meta.json", BATCHES])
def test_garbage_is_read_or_refused(tmp_path, which):
    write(tmp_path, [[1, 2]])
    (path,) = tmp_path.glob(which)

    @many_inputs
    @given(content=files(path.read_bytes()))
    def check(content):
        path.write_bytes(content)
        if is_read_or_refused(lambda: PseudoLabels.load(tmp_path)):
            store = PseudoLabels.load(tmp_path)
            assert [len(store[name]) for name in store] == [*map(store.num_frames, store)]

    check()


def test_audio_is_told_apart_by_its_content_and_part_and_not_by_its_date(tmp_path):
    audio, copied, louder, gone = (Utterance("a", tmp_path / f"{name}.wav", "train") for name in "abcd")
    content = bytes(range(256)) * 100
    audio.path.write_bytes(content)
    copied.path.write_bytes(content)
    louder.path.write_bytes(content[:100] + bytes(byte ^ 1 for byte in content[100:]))
    segment = replace(audio, start=0.0, seconds=3.0)
    keys = [audio_key(each) for each in (louder, segment, replace(segment, seconds=1.5), replace(segment, start=0.5))]
    assert len({audio_key(audio), audio_key(copied), *keys}) == 5
    # a large one is hashed at some places
    large = bytearray(np.random.default_rng(0).bytes(3 << 20))
    for changed in (0, 1 << 20, len(large) - 13_000):
        large[changed : changed + 13_000] = bytes(13_000)
        gone.path.write_bytes(large)
        keys.append(audio_key(gone))
    gone.path.unlink()
    assert len({*keys}) == 7
    store = FeatureCache.create(tmp_path / "cache", FEATURES)
    store.write({"a": FRAMES["a"]}, {"a": audio})
    store.refuse_changed([copied, gone, replace(louder, utterance_id="b")])
    refused(r"c\.wav: audio has changed since its cached features in .*cache were made", store.refuse_changed, [louder])
