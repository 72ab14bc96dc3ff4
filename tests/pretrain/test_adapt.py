from __future__ import annotations

import pytest
import torch
from tiny_models import emotion_data, encoder, finetuning, fit, papt, pretrain_data

from ser_personal.encoder.module import DESCRIPTION
from ser_personal.errors import UserError
from ser_personal.pretrain.adapt import Adapted, SpeakerAdaptation
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerQuery
from ser_personal.speakers.unseen import EmbeddingTable, UnseenSpeakers, Zero
from ser_personal.types import unpack_hashes

TABLE = "personalized.speakers.embedding.weight"


def new_speakers(corpus, pseudo_labels):
    return pretrain_data(corpus, pseudo_labels, splits=["validation"], unseen_splits=[])


@pytest.fixture(scope="module")
def adapted(synthetic_corpus, synthetic_pseudo_labels, papt_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    module = SpeakerAdaptation(str(papt_checkpoint), encoder=encoder())
    # known speakers' audio is there as well
    data = pretrain_data(synthetic_corpus, synthetic_pseudo_labels, splits=["train", "validation"], unseen_splits=[])
    fit(module, data, folder, max_steps=4).save_checkpoint(folder / "adapted.ckpt")
    return folder / "adapted.ckpt"


def read(path):
    return torch.load(path, weights_only=True)


def test_nothing_changes_but_the_new_rows(papt_checkpoint, adapted):
    before, after = read(papt_checkpoint), read(adapted)
    assert before["state_dict"].keys() == after["state_dict"].keys()
    for name, weight in before["state_dict"].items():
        if name != TABLE:
            assert torch.equal(after["state_dict"][name], weight), name
    old, new = before[DESCRIPTION]["speakers"]["speaker_ids"], after[DESCRIPTION]["speakers"]["speaker_ids"]
    assert new[: len(old)] == old
    assert len(new) > len(old)
    rows = after["state_dict"][TABLE]
    assert torch.equal(rows[: len(old)], before["state_dict"][TABLE])
    assert (rows[len(old) :] != before["state_dict"][TABLE].mean(0)).any(1).all()
    assert len(unpack_hashes(after[DESCRIPTION]["pretrained_on"])) == 2 * 54
    assert Adapted(str(adapted)).speaker_audio.pretrained_on > unpack_hashes(before[DESCRIPTION]["pretrained_on"])


def test_a_row_learns_from_its_own_speaker_alone(synthetic_corpus, synthetic_pseudo_labels, papt_checkpoint):
    module = SpeakerAdaptation(str(papt_checkpoint), encoder=encoder())
    data = new_speakers(synthetic_corpus, synthetic_pseudo_labels)
    module.build(data)
    batch = next(iter(data.train_dataloader()))
    chosen = data.train_speaker_ids[0]
    prediction, _ = module._predict({**batch, "speaker_ids": [chosen] * len(batch["speaker_ids"])}, 0)
    prediction.loss.backward()
    gradient = module.personalized.speakers.embedding.weight.grad
    row = module.personalized.speakers.ids.index(chosen)
    assert gradient[row].abs().max() > 0
    gradient[row] = 0
    assert gradient.abs().max() == 0


def test_fine_tuning_takes_the_longer_table(adapted, synthetic_corpus):
    module = finetuning(papt_checkpoint=str(adapted))
    module.build(emotion_data(synthetic_corpus))
    assert module.personalized.speakers.ids == read(adapted)[DESCRIPTION]["speakers"]["speaker_ids"]


def test_the_policy_finds_the_rows_for_a_model_that_was_fine_tuned_before(papt_checkpoint, adapted):
    speakers = SpeakerEmbedding(8, Adapted(str(adapted), otherwise=Zero()))
    trained = read(papt_checkpoint)
    speakers.rebuild(trained[DESCRIPTION]["speakers"], 16)
    speakers.load_state_dict(
        {
            name.removeprefix("personalized.speakers."): w
            for name, w in trained["state_dict"].items()
            if "speakers." in name
        }
    )
    torch.nn.init.normal_(speakers.fc.weight)
    new = read(adapted)
    stranger = new[DESCRIPTION]["speakers"]["speaker_ids"][-1]
    wanted = speakers.fc(new["state_dict"][TABLE][-1])
    torch.testing.assert_close(
        speakers(SpeakerQuery([stranger, "nobody", None])), torch.stack([wanted, 0 * wanted, 0 * wanted])
    )
    known = speakers.ids[0]
    as_unseen = speakers(SpeakerQuery([known], as_unseen=[True]))
    assert as_unseen.tolist() == [[0] * 16]


def test_what_adaptation_refuses(adapted, synthetic_corpus, synthetic_pseudo_labels, papt_checkpoint, tmp_path):
    fc = torch.nn.Linear(3, 4)
    table = EmbeddingTable(["a"], fc(torch.zeros(1, 3)), fc, None)
    with pytest.raises(UserError, match=r"adapted\.ckpt: holds no rows of 3 values"):
        Adapted(str(adapted)).embed(UnseenSpeakers(["b"], [-1], None), table)
    known = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
    with pytest.raises(UserError, match=r"papt\.ckpt: all speakers are in the table already"):
        SpeakerAdaptation(str(papt_checkpoint), encoder=encoder()).build(known)
    tapt = tmp_path / "tapt.ckpt"
    fit(papt(fusion="none"), known, tmp_path, max_steps=1).save_checkpoint(tapt)
    strangers = new_speakers(synthetic_corpus, synthetic_pseudo_labels)
    with pytest.raises(UserError, match=r"tapt\.ckpt: isn't a checkpoint of PAPT"):
        SpeakerAdaptation(str(tapt), encoder=encoder()).build(strangers)
    other = read(papt_checkpoint) | {"codebook_hash": "another"}
    torch.save(other, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt: was trained on another codebook"):
        SpeakerAdaptation(str(tmp_path / "other.ckpt"), encoder=encoder()).build(strangers)
