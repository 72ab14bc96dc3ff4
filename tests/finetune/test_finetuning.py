from functools import partial

import numpy as np
import pytest
import torch
from garbage import refused
from tiny_models import emotion_data, encoder, finetuning, fit, trainer

from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.encoder.base import mean_pool
from ser_personal.finetune.classification import EmotionClassification
from ser_personal.finetune.concordance import GlobalBatchLoss, MSELoss, ccc_loss
from ser_personal.finetune.interpreters import MLPInterpreter, PointwiseInterpreter, TransformerInterpreter
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.sharing.export import load_finetuned
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.unseen import Mean, Zero
from ser_personal.types import utterance_hashes

assert_same = partial(torch.testing.assert_close, atol=0, rtol=0)


@pytest.fixture
def data(synthetic_corpus):
    return emotion_data(synthetic_corpus)


def build(module, data):
    torch.manual_seed(0)
    module.build(data)
    return module


def test_papt_brings_encoder_and_speakers_who_stay_and_is_not_needed_afterwards(data, papt_checkpoint, tmp_path):
    path = tmp_path / "papt.ckpt"
    path.write_bytes(papt_checkpoint.read_bytes())
    weights = torch.load(path, weights_only=True)["state_dict"]
    pretrained = {name: weight for name, weight in weights.items() if name.startswith("personalized.")}
    module = build(finetuning(papt_checkpoint=str(path)), data)
    assert_same({name: module.state_dict()[name] for name in pretrained}, pretrained)
    assert {name.partition(".")[0] for name in module.state_dict()} == {"personalized", "interpreter"}
    assert module.personalized.fusion_name == "last"
    assert module.personalized.speakers.ids == data.train_speaker_ids
    assert module.personalized.pretrained_on == utterance_hashes(data.corpus.splits.train)
    module = finetuning(papt_checkpoint=str(path))
    fit(module, data, tmp_path, max_steps=2).save_checkpoint(tmp_path / "finetune.ckpt")
    after = module.state_dict()
    for name, weight in pretrained.items():
        assert ".speakers." not in name or torch.equal(after[name], weight), name
    projection = "personalized.encoder.network.feature_projection.projection.weight"
    assert not torch.equal(after[projection], pretrained[projection])
    path.unlink()
    fresh = finetuning(papt_checkpoint=str(path))
    trainer(tmp_path).test(fresh, datamodule=data, ckpt_path=tmp_path / "finetune.ckpt", verbose=False)
    for loaded in (fresh, EmotionFineTuning.load_from_checkpoint(tmp_path / "finetune.ckpt")):
        assert_same(loaded.state_dict(), after)
        assert loaded.personalized.fusion_name == "last"


def test_last_bias_starts_at_the_training_labels_mean(data):
    module = build(finetuning(attributes=("valence", "arousal")), data)
    labels = [data.utterances[index].labels for index in data.train_indices]
    means = [np.mean([label[attribute] for label in labels]) for attribute in ("valence", "arousal")]
    assert module.interpreter.layers[-1].bias.tolist() == pytest.approx(means)


def test_interpreter_learns_at_its_own_rate(data, papt_checkpoint):
    module = build(finetuning(papt_checkpoint=str(papt_checkpoint), learning_rate=1e-3), data)
    for rate, expected in ((None, 1e-3), (0.5, 0.5)):
        module.hparams["interpreter_learning_rate"] = rate
        groups = module.configure_optimizers().param_groups
        rate_of = {id(weight): group["lr"] for group in groups for weight in group["params"]}
        for name, weight in module.named_parameters():
            wanted = expected if name.startswith("interpreter.") else 1e-3
            assert rate_of.pop(id(weight), None) == (wanted if weight.requires_grad else None), name
        assert not rate_of


def test_rates_are_constant_unless_warm_up_is_asked_for(data, tmp_path):
    for warmup_share, expected in ((None, [2, 2, 2, 2]), (0.5, [1, 2, 2, 1])):
        module, rates = finetuning(learning_rate=2e-4, warmup_share=warmup_share), []
        module.on_train_batch_start = lambda *_, m=module, r=rates: r.append(m.optimizers().param_groups[0]["lr"])
        fit(module, data, tmp_path, max_steps=4)
        assert rates == pytest.approx([1e-4 * rate for rate in expected])


def test_the_loss_weighs_utterances_and_may_take_training_speakers_for_unseen_ones(data, finetuned_checkpoint):
    module = EmotionFineTuning.load_from_checkpoint(finetuned_checkpoint).eval()
    module.log = lambda *_args, **_options: None
    batch = next(iter(data.train_dataloader()))
    strangers = [None] * len(batch["speaker_ids"])

    def expected(speaker_ids, weights=None):
        result = module({**batch, "speaker_ids": speaker_ids})
        return ccc_loss(result["predictions"], result["labels"], weights)

    weights = torch.arange(len(strangers)) % 3.0
    weighted = expected(batch["speaker_ids"], weights)
    assert torch.equal(module.training_step({**batch, "weights": weights}, 0), weighted)
    losses = [expected(batch["speaker_ids"]), expected(strangers)]
    assert weighted != losses[0] != losses[1]
    for unseen_share, loss in enumerate(losses):
        module.hparams["unseen_share"] = unseen_share
        assert torch.equal(module.training_step(batch, 0), loss)


def test_under_autocast_the_encoder_alone_is_in_half_precision(data):
    module = build(finetuning(), data).eval()
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        result, output = module(batch), module.personalized(batch)
    assert output.frames.dtype == torch.bfloat16
    exact = output._replace(frames=output.frames.float())
    torch.testing.assert_close(result["pooled"], mean_pool(exact), rtol=0, atol=0)
    torch.testing.assert_close(result["predictions"], module.interpreter(exact), rtol=0, atol=0)


def test_all_weights_are_the_checkpoints(data, finetuned_checkpoint):
    module = build(finetuning(initial_checkpoint=str(finetuned_checkpoint), loss=MSELoss()), data)
    assert_same(module.state_dict(), torch.load(finetuned_checkpoint, weights_only=True)["state_dict"])


def test_what_can_not_be_built(data, papt_checkpoint, finetuned_checkpoint, tmp_path):
    papt, finetuned = str(papt_checkpoint), str(finetuned_checkpoint)
    refused("was trained with fusion last, not none", finetuning(papt_checkpoint=papt, fusion="none").build, data)
    refused("papt.ckpt: isn't a fine-tuned checkpoint", finetuning(initial_checkpoint=papt).build, data)
    started = partial(finetuning, initial_checkpoint=finetuned)
    refused("two checkpoints to start from", started(papt_checkpoint=papt).build, data)
    refused("was trained with fusion last, not first", started(fusion="first").build, data)
    another = started(interpreter=TransformerInterpreter(16))
    for _ in range(2):
        refused("with another interpreter", trainer(tmp_path).fit, another, datamodule=data)
    other = EmotionClassification(initial_checkpoint=finetuned)
    refused("was trained for arousal, valence, not emotions", other.build, data)
    line, swapped = "was trained for arousal, valence, not valence, arousal", {"attributes": ("valence", "arousal")}
    refused(line, finetuning(initial_checkpoint=finetuned, **swapped).build, data)
    refused(line, trainer(tmp_path).test, finetuning(**swapped), datamodule=data, ckpt_path=finetuned)


def test_labels_beyond_what_an_interpreter_can_predict_are_refused(data, tmp_path):
    rows = [f"{one.path},{one.speaker_id},{one.split},{k % 9 + 1},{k % 9 + 1}" for k, one in enumerate(data.utterances)]
    (tmp_path / "corpus.csv").write_text("\n".join(["path,speaker,split,arousal,valence", *rows]))
    to_9 = emotion_data(CSVCorpus(tmp_path / "corpus.csv", scale=(1, 9)))
    narrow, wide = (finetuning(interpreter=PointwiseInterpreter(8, scale=scale)) for scale in ((1.0, 7.0), (0.0, 9.0)))
    fit(wide, to_9, tmp_path, max_steps=1).save_checkpoint(tmp_path / "wide.ckpt")
    initial = {"initial_checkpoint": str(tmp_path / "wide.ckpt"), "interpreter": PointwiseInterpreter(8)}
    for module in (narrow, finetuning(**initial)):
        refused("scale: labels are on a scale of 1 to 9, predictions stay within 1 to 7", module.build, to_9)
        build(module, data)


def test_a_checkpoint_of_python_keeps_the_parts_that_it_was_made_of(data, tmp_path):
    speakers, interpreter = SpeakerEmbedding(8, Zero()), TransformerInterpreter(dim=8, layers=1, heads=2)
    parts = {"speakers": speakers, "interpreter": interpreter, "loss": GlobalBatchLoss(MSELoss())}
    module = finetuning(**parts, fusion="last", train_speaker_embedding=True)
    fit(module, data, tmp_path, max_steps=2).save_checkpoint(tmp_path / "own.ckpt")
    loaded = load_finetuned(str(tmp_path / "own.ckpt"))
    assert_same(loaded.state_dict(), module.state_dict())
    assert isinstance(loaded.personalized.speakers.unseen, Zero)
    assert isinstance(loaded.interpreter, TransformerInterpreter)
    assert [type(part) for part in loaded.loss.modules()] == [GlobalBatchLoss, MSELoss]
    # parts that are passed count
    other = EmotionFineTuning.load_from_checkpoint(tmp_path / "own.ckpt", speakers=SpeakerEmbedding(8, Mean()))
    assert isinstance(other.personalized.speakers.unseen, Mean)


def test_models_of_the_same_objects_share_no_weights(data, tmp_path):
    parts = {"speakers": SpeakerEmbedding(8), "interpreter": MLPInterpreter((4,))}
    options = {"fusion": "last", "train_speaker_embedding": True, **parts}
    network = encoder()
    first = finetuning(encoder=network, **options)
    fit(first, data, tmp_path, max_steps=1)
    before = {name: weight.clone() for name, weight in first.state_dict().items()}
    fit(finetuning(**options), data, tmp_path, max_steps=2)
    assert_same(first.state_dict(), before)
    trained = {"speakers": first.personalized.speakers, "interpreter": first.interpreter}
    for name, part in {"encoder": network, **trained}.items():
        refused(f"{type(part).__name__}: is part of another model. Make a new one", finetuning, **{name: part})


def test_another_fit_counts_as_well_and_goes_on_with_the_same_speakers(data, papt_checkpoint, tmp_path, monkeypatch):
    module = finetuning(papt_checkpoint=str(papt_checkpoint))
    fit(module, data, tmp_path, max_steps=1)
    first = module.trained_on
    monkeypatch.setattr(type(data), "train_hashes", frozenset({"abcdefgh"}))
    fit(module, data, tmp_path, max_steps=1)
    assert module.trained_on == first | {"abcdefgh"} > first
    monkeypatch.setattr(type(data), "hashes_of_speakers", {"1": {"of other audio"}})
    refused("1 speaker .first 1. named like speakers of the model, but with other", fit, module, data, tmp_path)


def test_loaders_alone_and_attributes_as_text_are_no_training_set(data, tmp_path):
    refused("needs the datamodule. Pass it", trainer(tmp_path).fit, finetuning(), data.train_dataloader())
    refused(r"attributes: is text. Give a list, such as \['arousal'\]", finetuning, attributes="arousal")
    refused("attributes: can't be happiness. Choose among arousal", finetuning, attributes=("happiness",))
