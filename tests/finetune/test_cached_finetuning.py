import pytest
import torch
from command_line import configs, ser, trainer_flags
from garbage import refused
from tiny_models import emotion_data, encoder, finetuning, fit

from ser_personal.data.datamodule import AllUtterancesDataModule
from ser_personal.data.emotion import CachedEmotionDataModule
from ser_personal.data.speaker_features import CachedSpeakerFeatures
from ser_personal.encoder.raw import CachedFeatures, MFCCEncoder
from ser_personal.finetune.interpreters import MLPInterpreter, TransformerInterpreter
from ser_personal.pretrain.cache import cache
from ser_personal.speakers.features import FixedSpeakerFeatures
from ser_personal.types import utterance_hash, utterance_hashes

CACHED = ["finetune.yaml", "cached.yaml", "tiny/cached.yaml"]


@pytest.fixture(scope="module")
def cache_folder(synthetic_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached") / "cache"
    cache(AllUtterancesDataModule(str(synthetic_corpus)), encoder(), stride=1, out=str(folder), accelerator="cpu")
    return folder


def one_step(network, data):
    """Frames of the whole training set as one batch, the loss of a first step, and its gradients in a row."""
    module = finetuning(encoder=network, interpreter=MLPInterpreter(dropout=0.0))
    torch.manual_seed(0)
    module.build(data)
    # the same weights, whatever was drawn before
    torch.manual_seed(1)
    module.interpreter.build(module.personalized.dim, 2)
    module.personalized.encoder.requires_grad_(requires_grad=False)
    module.log = lambda *_args, **_options: None
    batch = next(iter(data.train_dataloader()))
    loss = module.training_step(batch, 0)
    loss.backward()
    gradients = torch.cat([weight.grad.flatten() for weight in module.interpreter.parameters()])
    frames, mask = module.personalized(batch)[:2]
    return [(frames * mask[:, :, None])[batch["indices"].argsort()].detach(), loss.detach(), gradients]


def test_a_first_step_from_the_cache_is_that_of_the_live_frozen_encoder(synthetic_corpus, cache_folder):
    live = one_step(encoder(), emotion_data(synthetic_corpus, max_batch=100))
    data = CachedEmotionDataModule(str(synthetic_corpus), cache=str(cache_folder), max_batch=100, num_workers=0)
    cached = one_step(CachedFeatures(), data)
    # a half-precision number has 11 bits
    torch.testing.assert_close(cached[0], live[0], rtol=2**-11, atol=2**-11)
    torch.testing.assert_close(cached[1], live[1], rtol=0.01, atol=0)
    # batch normalisation multiplies what half precision leaves out
    assert (cached[2] - live[2]).norm() < 0.05 * live[2].norm()


def test_the_shipped_configs_of_frozen_features_go_together(synthetic_corpus, cache_folder, tmp_path, mistake):
    recipe = configs(*CACHED, "transformer.yaml", "speakers/embedder.yaml")
    features = ["--data.speaker_features.cache", cache_folder, "--model.train_speaker_embedding", "true"]
    data = ["--data.corpus", synthetic_corpus, "--data.cache", cache_folder, *features]
    flags = [*trainer_flags(tmp_path), "--trainer.limit_train_batches", "1"]
    assert ser("fit", *recipe, *data, *flags) == 0
    given = ["--ckpt_path", tmp_path / "finetune.ckpt", *flags]
    assert ser("test", *recipe, *configs("pldc.yaml"), *data, *given) == 0
    line = mistake("test", *recipe, *configs("ridge.yaml"), *data, *given)
    assert "RidgeBaselineCallback: batches hold cached features" in line
    line = mistake("export", tmp_path / "finetune.ckpt", "--out", tmp_path / "bundle")
    assert "reads cached features of TinyEncoder tiny, a bundle's model reads audio" in line
    fixed = configs(*CACHED, "transformer.yaml", "speakers/fixed.yaml", "cost.yaml")
    assert ser("fit", *fixed, *data, *flags, "--trainer.default_root_dir", tmp_path / "fixed") == 0


def test_frames_of_pretraining_speakers_arent_those_of_strangers(synthetic_corpus, papt_checkpoint, tmp_path):
    folder = tmp_path / "cache"
    cache(AllUtterancesDataModule(str(synthetic_corpus)), checkpoint=str(papt_checkpoint), out=str(folder))
    data = CachedEmotionDataModule(str(synthetic_corpus), cache=str(folder), num_workers=0)
    module = finetuning(encoder=CachedFeatures())
    fit(module, data, tmp_path, max_steps=1)
    heard = {each.speaker_id for each in data.utterances if utterance_hash(each) in module.personalized.pretrained_on}
    assert heard == {each.speaker_id for each in data.corpus.splits.train}
    assert module.trained_on == utterance_hashes(data.corpus.splits.train)


def test_who_counts_as_unseen_has_no_features_either(synthetic_corpus, cache_folder):
    options = {"speaker_features": CachedSpeakerFeatures(str(cache_folder)), "num_workers": 0}
    data = CachedEmotionDataModule(str(synthetic_corpus), cache=str(cache_folder), **options)
    module = finetuning(encoder=CachedFeatures(), speakers=FixedSpeakerFeatures(), fusion="last", unseen_share=1.0)
    module.build(data)
    module.log = lambda *_args, **_options: None
    batch = next(iter(data.train_dataloader()))
    unknown = {**batch, "speaker_features": torch.full_like(batch["speaker_features"], torch.nan)}
    with torch.no_grad():
        losses = []
        for share, each in ((1.0, batch), (0.0, unknown), (0.0, batch)):
            module.hparams["unseen_share"] = share
            torch.manual_seed(0)
            losses.append(float(module.training_step(each, 0)))
    assert losses[0] == losses[1] != losses[2]


def test_parts_that_do_not_go_together():
    for kind in (CachedFeatures, MFCCEncoder):
        what = f"--model.fusion prefix: the speaker embedding changes no frame of {kind.__name__}, .* and MLP"
        refused(what, finetuning, encoder=kind(), fusion="prefix")
        for options in ({"interpreter": TransformerInterpreter()}, {"encoder": encoder()}):
            assert finetuning(**{"encoder": kind(), "fusion": "prefix"} | options).personalized.fusion_name == "prefix"
    refused("papt_checkpoint p.ckpt: brings an encoder", finetuning, encoder=CachedFeatures(), papt_checkpoint="p.ckpt")
