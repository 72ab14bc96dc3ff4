from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from command_line import configs, ser, trainer_flags
from tiny_models import emotion_data, encoder, finetuning

from ser_personal.data.datamodule import AllUtterancesDataModule
from ser_personal.data.emotion import CachedEmotionDataModule
from ser_personal.encoder.cached import CachedFeatures
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.encoder.raw import MFCCEncoder
from ser_personal.errors import UserError
from ser_personal.finetune.interpreters import MLPInterpreter, TransformerInterpreter
from ser_personal.pretrain.cache import cache
from ser_personal.types import EncoderOutput

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningDataModule

    from ser_personal.encoder.base import Encoder

AUDIO, CACHED = ["finetune.yaml", "tiny/finetune.yaml"], ["finetune.yaml", "cached.yaml", "tiny/cached.yaml"]


class FrozenEncoder(TinyEncoder):
    """All weights as they are drawn."""

    def build(self, config: str | None = None) -> None:
        super().build(config)
        self.requires_grad_(requires_grad=False)


class SeededInterpreter(MLPInterpreter):
    """The same first weights, whatever was drawn before."""

    def build(self, dim: int, outputs: int) -> None:
        torch.manual_seed(1)
        super().build(dim, outputs)


@pytest.fixture(scope="module")
def cache_folder(synthetic_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cached") / "cache"
    cache(AllUtterancesDataModule(str(synthetic_corpus)), encoder(), stride=1, out=str(folder), accelerator="cpu")
    return folder


def one_step(encoder: Encoder, data: LightningDataModule) -> list[torch.Tensor]:
    """Frames of the whole training set as one batch, the loss of a first step, and its gradients in a row."""
    module = finetuning(encoder=encoder, interpreter=SeededInterpreter(dropout=0.0))
    torch.manual_seed(0)
    module.build(data)
    module.log = lambda *_args, **_options: None
    batch = next(iter(data.train_dataloader()))
    loss = module.training_step(batch, 0)
    loss.backward()
    gradients = torch.cat([weight.grad.flatten() for weight in module.interpreter.parameters()])
    frames, mask = module.personalized(batch)[:2]
    order = batch["indices"].argsort()
    return [(frames * mask[:, :, None])[order].detach(), loss.detach(), gradients]


def test_a_first_step_from_the_cache_is_that_of_the_live_frozen_encoder(
    synthetic_corpus: Path, cache_folder: Path
) -> None:
    small = {"dim": 16, "layers": 1, "heads": 2, "feed_forward_dim": 32}
    live = one_step(FrozenEncoder(**small), emotion_data(synthetic_corpus, max_batch=100))
    data = CachedEmotionDataModule(str(synthetic_corpus), cache=str(cache_folder), max_batch=100, num_workers=0)
    cached = one_step(CachedFeatures(), data)
    # a half-precision number has 11 bits
    torch.testing.assert_close(cached[0], live[0], rtol=2**-11, atol=2**-11)
    torch.testing.assert_close(cached[1], live[1], rtol=0.01, atol=0)
    # batch normalisation multiplies what half precision leaves out
    assert (cached[2] - live[2]).norm() < 0.05 * live[2].norm()


def test_every_stage_runs_from_the_cache_and_another_cache_is_refused(
    synthetic_corpus: Path, cache_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = configs(*CACHED, "adversarial.yaml", "transformer.yaml", "speakers/embedder.yaml", "cost.yaml")
    features = ["--data.speaker_features.cache", cache_folder, "--model.train_speaker_embedding", "true"]
    data = ["--data.corpus", synthetic_corpus, "--data.cache", cache_folder, *features]
    flags = trainer_flags(tmp_path)
    assert ser("fit", *recipe, *data, *flags) == 0
    given = ["--ckpt_path", tmp_path / "finetune.ckpt", *flags]
    assert ser("validate", *recipe, *data, *given) == 0
    assert ser("predict", *recipe, *data, *given) == 0
    assert ser("test", *recipe, *configs("pldc.yaml"), *data, *given) == 0
    (run,) = tmp_path.rglob("metrics.json")
    assert ser("report", run.parent) == 0
    assert (run.parent / "report.html").is_file()
    assert ser("test", *recipe, *configs("ridge.yaml"), *data, *given) == 2
    assert "RidgeBaselineCallback: batches hold cached features" in capsys.readouterr().err
    assert ser("export", tmp_path / "finetune.ckpt", "--out", tmp_path / "bundle") == 2
    assert "reads cached features of TinyEncoder tiny, a bundle's model reads audio" in capsys.readouterr().err
    other = tmp_path / "other"
    everything = AllUtterancesDataModule(str(synthetic_corpus))
    cache(everything, encoder(), seed=5, stride=1, out=str(other), accelerator="cpu")
    capsys.readouterr()
    assert ser("test", *recipe, *data, "--data.cache", other, *given) == 2
    assert "features of another encoder than the checkpoint was trained on (encoder_hash" in capsys.readouterr().err


@pytest.mark.parametrize(
    "recipe",
    [
        [*AUDIO, "adversarial.yaml", "transformer.yaml", "speakers/table.yaml", "cost.yaml", "ridge.yaml", "pldc.yaml"],
        [*CACHED, "adversarial.yaml", "transformer.yaml", "speakers/fixed.yaml", "cost.yaml", "pldc.yaml"],
    ],
    ids=lambda names: names[-3],
)
def test_shipped_configs_go_together(
    synthetic_corpus: Path, cache_folder: Path, tmp_path: Path, recipe: list[str]
) -> None:
    arguments = [*configs(*recipe), "--data.corpus", synthetic_corpus, *trainer_flags(tmp_path)]
    if "cached.yaml" in recipe or "speakers/table.yaml" in recipe:
        arguments += ["--model.train_speaker_embedding", "true"]
    if "cached.yaml" in recipe:
        arguments += ["--data.cache", cache_folder, "--data.speaker_features.cache", cache_folder]
    assert ser("fit", *arguments, "--trainer.limit_train_batches", "1") == 0
    (trained,) = (path for path in tmp_path.glob("*.ckpt") if not path.stem.endswith("-last"))
    assert ser("test", *arguments, "--ckpt_path", trained) == 0


@pytest.mark.parametrize("kind", [CachedFeatures, MFCCEncoder])
def test_a_prefix_that_nothing_would_see_is_refused(kind: type[Encoder]) -> None:
    with pytest.raises(
        UserError, match=f"--model.fusion prefix: the speaker embedding changes no frame of {kind.__name__}, .* and MLP"
    ):
        finetuning(encoder=kind(), fusion="prefix")
    for options in ({"interpreter": TransformerInterpreter()}, {"encoder": encoder()}):
        assert finetuning(**{"encoder": kind(), "fusion": "prefix"} | options).personalized.fusion_name == "prefix"


@pytest.mark.parametrize("interpreter", [MLPInterpreter(), TransformerInterpreter(8, 1, 2)])
def test_an_interpreter_reads_e_s_where_it_says_so(interpreter: MLPInterpreter | TransformerInterpreter) -> None:
    interpreter.build(8, 2)
    for weight in interpreter.parameters():
        torch.nn.init.normal_(weight)
    frames, mask = torch.randn(3, 5, 8), torch.ones(3, 5, dtype=torch.bool)
    first, other = (interpreter.eval()(EncoderOutput(frames, mask, speaker_embedding=torch.randn(3, 8))) for _ in "ab")
    assert torch.equal(first, other) != interpreter.reads_speaker


def test_papt_comes_by_its_features(
    synthetic_corpus: Path,
    papt_checkpoint: Path,
    cache_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*configs("finetune.yaml", "cached.yaml", "tiny/cached.yaml"), "--data.corpus", synthetic_corpus]
    arguments += ["--data.cache", cache_folder, "--model.papt_checkpoint", papt_checkpoint, *trainer_flags(tmp_path)]
    assert ser("fit", *arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"ser: --model.papt_checkpoint {papt_checkpoint}: brings an encoder, and CachedFeatures need none. "
        f"Leave it out, and give --data.cache what `ser cache --checkpoint {papt_checkpoint}` wrote."
    )
