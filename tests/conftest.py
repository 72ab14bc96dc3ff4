import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import soundfile
import torch
from command_line import ser
from filelock import FileLock
from hypothesis import settings
from tiny_models import emotion_data, finetuning, fit, papt, pretrain_data, trainer
from turn_files import spoken_by_turns

from ser_personal import EmotionRecognizer, PLDCCallback
from ser_personal.annotation.journal import Journal
from ser_personal.corpus.synthetic import synth
from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans
from ser_personal.recognition.bundle import Bundle, read_bundle
from ser_personal.sharing.export import export

# A busy machine is no failure.
settings.register_profile("steady", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
# No file of a test has to outlive a crash of the machine.
os.fsync = lambda _: None
# Models this small spend several threads' time on waiting for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder once for all of pytest-xdist's workers; each gets a copy of its own."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name: str, make: Callable[[Path], object]) -> Path:
        made = root / f"made-{name}"
        with FileLock(f"{made}.lock"):
            if not (made / "done").exists():
                # it is there if another worker failed to make it
                (made / name).mkdir(parents=True)
                make(made / name)
                (made / "done").touch()
        return shutil.copytree(made / name, tmp_path_factory.mktemp(name) / name, symlinks=True)

    return once


@pytest.fixture(scope="session")
def synthetic_corpus(make_once) -> Path:
    """Twelve speakers of six utterances each: speakers 1 to 8 for training, 9 for validation, 10 to 12 for test."""
    options = {"speakers": 12, "utterances": 6, "min_seconds": 1.0, "max_seconds": 2.0}
    return make_once("corpus", lambda folder: synth(str(folder), **options))


@pytest.fixture(scope="session")
def synthetic_pseudo_labels(make_once, synthetic_corpus: Path) -> Path:
    """Twelve clusters of MFCC."""
    data = PseudoLabelData(str(synthetic_corpus))
    return make_once("pseudo_labels", lambda folder: kmeans(data, out=str(folder), num_clusters=12, iterations=10))


@pytest.fixture(scope="session")
def papt_checkpoint(make_once, synthetic_corpus: Path, synthetic_pseudo_labels: Path) -> Path:
    """PAPT of a few steps, its speaker embeddings no longer zero."""

    def make(folder: Path) -> None:
        data = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
        fit(papt(), data, folder, max_steps=4).save_checkpoint(folder / "papt.ckpt")

    return make_once("papt", make) / "papt.ckpt"


@pytest.fixture(scope="session")
def finetuned_checkpoint(make_once, synthetic_corpus: Path, papt_checkpoint: Path) -> Path:
    """Fine-tuned from PAPT for arousal and valence, a few steps."""

    def make(folder: Path) -> None:
        module = finetuning(papt_checkpoint=str(papt_checkpoint))
        fit(module, emotion_data(synthetic_corpus), folder, max_steps=4).save_checkpoint(folder / "finetune.ckpt")

    return make_once("finetune", make) / "finetune.ckpt"


@pytest.fixture
def relabelled(synthetic_corpus: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, str]], None]], Path]:
    """Makes a corpus of the same audio whose label rows an `edit` has changed in place."""

    def relabel(edit: Callable[[dict[str, str]], None]) -> Path:
        folder = tmp_path / "relabelled"
        (folder / "Labels").mkdir(parents=True)
        (folder / "Audios").symlink_to(synthetic_corpus / "Audios")
        labels = Path("Labels", "labels_consensus.csv")
        rows = pd.read_csv(synthetic_corpus / labels, dtype=str, keep_default_na=False).to_dict("records")
        for row in rows:
            edit(row)
        pd.DataFrame(rows).to_csv(folder / labels, index=False)
        return folder

    return relabel


@pytest.fixture(scope="session")
def tested_checkpoint(synthetic_corpus: Path, finetuned_checkpoint: Path, tmp_path_factory) -> Path:
    """With its speaker bank beside it, and metrics.json of its test in the folder below."""
    path = tmp_path_factory.mktemp("tested") / "finetune.ckpt"
    shutil.copy(finetuned_checkpoint, path)
    running = trainer(path.parent / "run", callbacks=[PLDCCallback(k=3, draws=1)])
    running.test(finetuning(), datamodule=emotion_data(synthetic_corpus), ckpt_path=path, verbose=False)
    return path


@pytest.fixture(scope="session")
def bundle_folder(tested_checkpoint: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    export(str(tested_checkpoint), str(folder))
    return folder


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle_folder, tmp_path / "copy")


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return read_bundle(bundle_folder)


@pytest.fixture
def recognizer(bundle: Bundle) -> EmotionRecognizer:
    return EmotionRecognizer(bundle, device="cpu")


@pytest.fixture(scope="session")
def recordings(synthetic_corpus: Path) -> list[Path]:
    return sorted((synthetic_corpus / "Audios").glob("*.wav"))[-18:]


class Killed(BaseException):
    """Ends a run as a signal would."""


@pytest.fixture
def talk(recordings, tmp_path):
    """A folder a speaker, names in several scripts."""
    names = ["anna", "Борис", "林"]
    for number, path in enumerate(recordings):
        folder = tmp_path / "talk" / names[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"é {number:02}.wav")
    return tmp_path / "talk"


@pytest.fixture
def annotate(bundle_folder, talk, tmp_path, monkeypatch):
    monkeypatch.setattr("ser_personal.annotation.annotate.CHUNK_RECORDINGS", 4)

    def run(*flags, audio=talk, out="predictions.csv", code=0, speaker_from="folder"):
        codes = (0, 1) if code is None else (code,)
        options = {"--model": bundle_folder, "--out": tmp_path / out, "--speaker-from": speaker_from, "--device": "cpu"}
        assert ser("annotate", audio, *(word for option in options.items() for word in option), *flags) in codes
        return tmp_path / out

    return run


@pytest.fixture
def mistake(capsys):
    """Have a command refused; -> the line that says why."""

    def run(*words):
        assert ser(*words) == 2
        return capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.fixture
def refusal(annotate, capsys):
    """Have an annotation refused; -> the line that says why."""

    def run(*flags, **options):
        annotate(*flags, code=2, **options)
        return capsys.readouterr().err

    return run


@pytest.fixture
def killed_at(annotate, monkeypatch):
    """Have a run killed before or after it adds its recordings from the n-th on."""

    def run(done, *, before, out="predictions.csv", flags=()):
        add = Journal.add

        def killed(self, *arguments):
            if self.done < done:
                return add(self, *arguments)
            if not before:
                add(self, *arguments)
            raise Killed

        monkeypatch.setattr(Journal, "add", killed)
        with pytest.raises(Killed):
            annotate(*flags, out=out)
        monkeypatch.setattr(Journal, "add", add)

    return run


@pytest.fixture
def conversation(recordings, tmp_path):
    """Anna and Борис by turns, half a second of nothing before each; and the files and speakers of the turns."""
    sound, turns = spoken_by_turns(recordings[:6], ["anna", "Борис"], gap=8000)
    soundfile.write(tmp_path / "meeting.wav", sound.sum(axis=1), 16_000)
    return turns, recordings[:6]
