import math
from types import SimpleNamespace

import pytest
import torch
from garbage import refused
from safetensors.torch import save_file
from tiny_models import encoder, fit, papt, pretrain_data, tiny_network, trainer

from ser_personal.audio import num_frames
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.module import linear_warmup_and_decay
from ser_personal.encoder.raw import MFCCEncoder
from ser_personal.encoder.whisper import WhisperEncoder
from ser_personal.pretrain.masked_prediction import PredictionHead, masked_prediction_loss, span_mask
from ser_personal.pretrain.papt import PAPT
from ser_personal.speakers.embedding import SpeakerEmbedding


@pytest.fixture
def data(synthetic_corpus, synthetic_pseudo_labels):
    return pretrain_data(synthetic_corpus, synthetic_pseudo_labels)


@pytest.fixture
def batch(data):
    return next(iter(data.train_dataloader()))


def build(module, data):
    """The module as a fit begins it, but with speaker embeddings that aren't zero."""
    torch.manual_seed(0)
    module.build(data)
    if module.personalized.speakers.ids:
        torch.nn.init.normal_(module.personalized.speakers.fc.weight)
    return module


def step(module, batch, *, number=0, rank=0, world_size=1, masked_of_others=0.0):
    """The loss of a training step on one of several ranks, what it logs, and the mask that it draws."""
    strategy = SimpleNamespace(reduce=lambda masked, reduce_op: {"sum": masked + masked_of_others}[reduce_op])
    epoch, batch_idx = divmod(number, 2)
    standing = {"current_epoch": epoch, "num_training_batches": 2, "global_rank": rank, "world_size": world_size}
    module.trainer = SimpleNamespace(**standing, strategy=strategy)
    logged, drawn = {}, []
    module.log = lambda name, value, **_: logged.update({name: torch.as_tensor(value).item()})
    hook = module.personalized.register_forward_hook(lambda _module, _inputs, output: drawn.append(output.time_mask))
    loss = module.training_step(batch, batch_idx)
    hook.remove()
    return loss, logged, drawn[0]


def mean_loss(module, *masked_batches):
    """Nats a masked frame of batches and their masks, all devices' together."""
    inputs = ((module.personalized(batch, mask).frames, batch["pseudo_labels"], mask) for batch, mask in masked_batches)
    outcomes = [masked_prediction_loss(*each, module.head) for each in inputs]
    return sum(outcome.loss for outcome in outcomes) / sum(outcome.masked for outcome in outcomes)


def test_masks_are_told_by_seed_step_and_rank(data, batch):
    def drawn(number, rank, seed, noise):
        module = build(papt(seed=seed), data)
        torch.manual_seed(noise)
        return step(module, batch, number=number, rank=rank, world_size=2)[2]

    where = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 1)]
    masks = [drawn(*place, noise=0) for place in where]
    for i, place in enumerate(where):
        assert torch.equal(masks[i], drawn(*place, noise=i))
        assert not any(torch.equal(masks[i], other) for other in masks[:i])


def test_averaged_gradients_of_two_ranks_are_those_of_the_global_mean(data):
    module = build(papt(), data)
    batches = [batch for _, batch in zip(range(2), data.train_dataloader(), strict=False)]
    masks = [step(module, batch, rank=rank, world_size=2)[2] for rank, batch in enumerate(batches)]
    masked = [int(time_mask.sum()) for time_mask in masks]
    assert masked[0] != masked[1]
    weights, gradients = [weight for weight in module.parameters() if weight.requires_grad], []
    for rank, batch in enumerate(batches):
        loss, _, _ = step(module, batch, rank=rank, world_size=2, masked_of_others=masked[1 - rank])
        gradients.append(torch.autograd.grad(loss, weights))
    expected = torch.autograd.grad(mean_loss(module, *zip(batches, masks, strict=True)), weights)
    for first, second, whole in zip(*gradients, expected, strict=True):
        torch.testing.assert_close((first + second) / 2, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("freeze_cnn", [False, True])
def test_feature_penalty_enters_where_the_convolutions_are_trained(data, batch, freeze_cnn, tmp_path):
    tiny_network("hubert", "group").save_pretrained(tmp_path)
    module = build(papt(encoder=HubertEncoder(str(tmp_path), freeze_cnn=freeze_cnn), feature_penalty=7.0), data)
    loss, logged, _ = step(module.eval(), batch)
    penalty = 0
    if not freeze_cnn:
        features = module.personalized.encoder.front_end(batch["waveforms"], batch["num_samples"])
        real = torch.cat([row[:n] for row, n in zip(features, num_frames(batch["num_samples"]), strict=True)])
        penalty = real.square().mean().item()
    assert logged.get("feature_penalty", 0) == pytest.approx(penalty, rel=1e-4)
    assert loss.item() == pytest.approx(logged["train_loss"] + 7 * penalty, rel=1e-4)


def test_rate_climbs_to_the_peak_and_falls_to_0_and_needs_an_end():
    def rates(steps, warmup_share):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 2.0)
        schedule, used = linear_warmup_and_decay(optimizer, steps, warmup_share), []
        for _ in range(steps + 1):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return used

    by_hand = [0.2, 0.4, 0.6, 0.8, 1, *[step / 15 for step in range(15, 0, -1)], 0]
    assert rates(20, 0.25) == pytest.approx([2 * rate for rate in by_hand])
    assert rates(1, 0.05) == [2, 0]
    refused("Give max_epochs or max_steps", linear_warmup_and_decay, None, math.inf, 0.25)


def test_head_and_speakers_have_rates_of_their_own(data, tmp_path):
    def peaks(**options):
        module = build(PAPT(encoder(), SpeakerEmbedding(8), final_dim=8, **options), data)
        module.trainer = SimpleNamespace(estimated_stepping_batches=2)
        return {group["name"]: group["initial_lr"] for group in module.configure_optimizers()["optimizer"].param_groups}

    assert peaks() == {"encoder": 1e-5, "head": 1e-3, "speakers": 1e-3}
    assert peaks(fusion="concat")["fusion"] == 1e-3
    assert peaks(fusion="none") == {"encoder": 1e-5, "head": 1e-3}
    assert peaks(head_learning_rate=3.0, speaker_learning_rate=2.0) == {"encoder": 1e-5, "head": 3.0, "speakers": 2.0}
    write_head(tmp_path / "head.safetensors", data.codebook_hash)
    assert peaks(released_head=str(tmp_path / "head.safetensors"))["head"] == 1e-5


def write_head(path, codebook_hash, dim=16, order="known"):
    torch.manual_seed(1)
    head = PredictionHead(dim, 12, 5)
    save_file(head.state_dict(), path, {"order": order, "codebook_hash": codebook_hash})
    return head


def test_released_head_is_kept_and_found_again_in_the_checkpoint(data, tmp_path):
    path = tmp_path / "head.safetensors"
    for other in ({"dim": 1024}, {"codebook_hash": "another"}):
        write_head(path, **{"codebook_hash": data.codebook_hash} | other)
        refused("is for frames of width .* and codebook .*, not for 16 and", papt(released_head=str(path)).build, data)
    released = write_head(path, data.codebook_hash)
    running = fit(papt(released_head=str(path), head_learning_rate=1e-30), data, tmp_path, max_steps=1)
    running.save_checkpoint(tmp_path / "papt.ckpt")
    path.unlink()
    for head in (running.lightning_module.head, PAPT.load_from_checkpoint(tmp_path / "papt.ckpt").head):
        assert torch.equal(head.label_embeddings, released.label_embeddings)
        assert torch.equal(head.final_proj.weight, released.final_proj.weight)


def test_a_released_head_whose_clusters_may_be_in_another_order_has_to_beat_chance(data, tmp_path):
    write_head(tmp_path / "head.safetensors", data.codebook_hash, order="assumed")
    module = papt(released_head=str(tmp_path / "head.safetensors"))
    line = r"head\.safetensors: finds the cluster of .* masked frames, chance finds"
    refused(line, fit, module, data, tmp_path, max_steps=1)
    wanted = torch.arange(12).repeat(50)
    mostly = torch.where(torch.arange(600) % 3 > 0, wanted, 0)
    module._check_cluster_order(mostly, wanted)
    refused(r"chance finds 8\.3%", module._check_cluster_order, torch.full_like(wanted, 3), wanted)
    # what another device finds counts as well
    other = torch.stack([torch.bincount(ids, minlength=12) for ids in ((wanted + 4) % 12, wanted, wanted[:0])])
    module.trainer.strategy.reduce = lambda counts, **_: counts + 50 * other
    refused("of 30600 masked frames", module._check_cluster_order, mostly, wanted)


def validate(module, data, folder, **options):
    running = trainer(folder)
    running.validate(module, datamodule=data, verbose=False, **options)
    return {name: float(value) for name, value in running.callback_metrics.items()}


def test_validation_is_the_same_each_time_and_tells_unseen_speakers_apart(
    data, papt_checkpoint, synthetic_corpus, synthetic_pseudo_labels, tmp_path
):
    first = validate(papt(seed=0), data, tmp_path, ckpt_path=papt_checkpoint)
    torch.manual_seed(17)
    assert validate(papt(seed=1), data, tmp_path, ckpt_path=papt_checkpoint) == first
    seen = {"val_loss", "val_accuracy", "val_codebook_usage"}
    assert set(first) == seen | {f"{name}_unseen_speakers" for name in seen}
    alone = pretrain_data(synthetic_corpus, synthetic_pseudo_labels, unseen_splits=[])
    assert set(validate(papt(), alone, tmp_path, ckpt_path=papt_checkpoint)) == seen
    module = PAPT.load_from_checkpoint(papt_checkpoint, speakers=SpeakerEmbedding(8)).eval()
    for loader, name in zip(data.val_dataloader(), ("val_loss", "val_loss_unseen_speakers"), strict=True):
        sources = [(batch, torch.Generator().manual_seed(int(batch["indices"][0]))) for batch in loader]
        masked = [(batch, span_mask(num_frames(batch["num_samples"]), generator=source)) for batch, source in sources]
        assert first[name] == pytest.approx(mean_loss(module, *masked).item(), rel=1e-4)


@pytest.mark.parametrize("fusion", ["last", "none"])
def test_embedding_learns_what_only_the_speaker_tells(data, fusion):
    """Everybody says the same, but whose frames belong to which cluster differs by speaker."""
    module = build(papt(fusion=fusion), data)
    audio = {"waveforms": 0.1 * torch.randn(8_080).repeat(8, 1), "num_samples": torch.full((8,), 8_080)}
    labels = torch.arange(8)[:, None].repeat(1, 25)
    batch = audio | {"speaker_ids": data.train_speaker_ids, "indices": torch.arange(8), "pseudo_labels": labels}
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for number in range(60):
        loss, logged, _ = step(module, batch, number=number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    of_a_guess = logged["train_loss"] / torch.tensor(8.0).log()
    assert of_a_guess > 0.95 if fusion == "none" else of_a_guess < 0.5


@pytest.mark.parametrize("encoder", [WhisperEncoder, MFCCEncoder])
def test_an_encoder_that_can_not_mask_is_refused(encoder):
    refused(f"{encoder.__name__}: can't be pre-trained by masked prediction here", PAPT, encoder())
