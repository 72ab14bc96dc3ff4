from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from command_line import REPOSITORY
from tiny_models import emotion_data, finetuning, fit, papt, pretrain_data, trainer

from ser_personal import MSPPodcast, PLDCCallback
from ser_personal.corpus.synthetic import converse
from ser_personal.sharing.export import export
from ser_personal.speakers.embedding import SpeakerEmbedding

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def after_the_quick_start(
    synthetic_corpus: Path,
    synthetic_pseudo_labels: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder in which a reader of the quick start stands at its end, and recordings of Anna."""
    folder = tmp_path_factory.mktemp("desk") / "desk"
    folder.mkdir()
    for name in ("corpus", "CORPUS", "MSP", "recordings"):
        (folder / name).symlink_to(synthetic_corpus)
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    (folder / "pseudo_labels").symlink_to(synthetic_pseudo_labels)
    # with speaker embeddings of the width that the shipped configs have
    pretrained = papt(speakers=SpeakerEmbedding())
    data = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
    fit(pretrained, data, folder / "run", max_steps=1).save_checkpoint(folder / "papt.ckpt")
    checkpoint = folder / "finetune.ckpt"
    finetuned = finetuning(speakers=SpeakerEmbedding(), papt_checkpoint=str(folder / "papt.ckpt"))
    fit(finetuned, emotion_data(synthetic_corpus), folder / "run", max_steps=1).save_checkpoint(checkpoint)
    running = trainer(folder / "run", callbacks=[PLDCCallback(k=3, draws=1)])
    running.test(finetuning(), datamodule=emotion_data(synthetic_corpus), ckpt_path=checkpoint, verbose=False)
    export(str(checkpoint), str(folder / "bundle"))
    for number, utterance in enumerate(MSPPodcast(str(synthetic_corpus)).utterances[-6:], start=1):
        shutil.copy(utterance.path, folder / f"anna_{number}.wav")
    # as `ser demo` leaves them
    (folder / "demo").mkdir()
    (folder / "demo" / "bundle").symlink_to("../bundle")
    converse(folder / "demo" / "conversation", {"ben": 1, "ada": 3}, turns=4)
    return folder


@pytest.fixture
def desk(after_the_quick_start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder to work in."""
    shutil.copytree(after_the_quick_start, tmp_path / "desk", symlinks=True)
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.syspath_prepend(str(tmp_path / "desk"))
    return tmp_path / "desk"
