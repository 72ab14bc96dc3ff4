"""The smallest models, datamodules and trainers that run a whole stage, on the CPU."""

import threading
from collections.abc import Iterable
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from public_forms import SIZES
from transformers import AutoConfig, AutoModel, PreTrainedModel, WhisperConfig, WhisperForConditionalGeneration

from ser_personal.arguments import SHIPPED
from ser_personal.corpus.base import Corpus
from ser_personal.data.emotion import EmotionDataModule
from ser_personal.data.pretrain import PretrainDataModule
from ser_personal.encoder.base import Encoder
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.encoder.hugging_face import LoRA, PretrainedEncoder
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.pretrain.papt import PAPT
from ser_personal.speakers.embedding import SpeakerEmbedding

NORMS = ("group", "layer")


def encoder() -> TinyEncoder:
    return TinyEncoder(dim=16, layers=1, heads=2, feed_forward_dim=32)


def papt(**options: object) -> PAPT:
    rates = {"learning_rate": 1e-2, "head_learning_rate": 1e-2, "speaker_learning_rate": 1e-2}
    return PAPT(**{"encoder": encoder(), "speakers": SpeakerEmbedding(8), "final_dim": 8} | rates | options)


def finetuning(**options: object) -> EmotionFineTuning:
    defaults = {"attributes": ("arousal", "valence"), "learning_rate": 1e-2, "min_utterances": 3}
    return EmotionFineTuning(**{"encoder": encoder(), "speakers": SpeakerEmbedding(8)} | defaults | options)


def pretrain_data(corpus: Path, pseudo_labels: Path, **options: object) -> PretrainDataModule:
    defaults = {"min_samples": 16_000, "batch_seconds": 40.0, "num_workers": 0}
    return PretrainDataModule(str(corpus), pseudo_labels=str(pseudo_labels), **defaults | options)


def emotion_data(corpus: Path | Corpus, **options: object) -> EmotionDataModule:
    corpus = str(corpus) if isinstance(corpus, Path) else corpus
    return EmotionDataModule(corpus, **{"max_batch": 16, "num_workers": 0} | options)


def trainer(folder: Path, **options: object) -> Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    defaults = {"accelerator": "cpu", "devices": 1, "default_root_dir": folder, **dict.fromkeys(off, False)}
    return Trainer(**defaults | options)


def fit(module: LightningModule, data: LightningDataModule, folder: Path, **options: object) -> Trainer:
    """Fit, always from the same random weights."""
    torch.manual_seed(0)
    running = trainer(folder, **{"limit_val_batches": 0, "num_sanity_val_steps": 0} | options)
    running.fit(module, datamodule=data)
    return running


def newest_run(folder: Path) -> Path:
    """The folder that the last test with this default_root_dir wrote to."""
    return max((folder / "lightning_logs").iterdir(), key=lambda path: int(path.name.removeprefix("version_")))


def smallest_configs(folder: Path) -> None:
    """The tiny configs with the smallest models, trained for two steps."""
    copytree(SHIPPED / "tiny", folder)
    encoder = {"class_path": "TinyEncoder", "init_args": {"dim": 16, "layers": 1, "heads": 2}}
    for path in folder.iterdir():
        content = yaml.safe_load(path.read_text())
        if "model" in content:
            content["trainer"] = content.get("trainer", {}) | {"max_epochs": 1, "limit_train_batches": 2}
        if path.name == "kmeans.yaml":
            content["num_clusters"] = 12
        for place in (content, content.get("model", {}).get("init_args", {})):
            if "encoder" in place:
                place["encoder"] = encoder
        path.write_text(yaml.safe_dump(content))


def threaded_trainers(world_size: int, folder: Path | None = None) -> list[SimpleNamespace]:
    """Trainers of several processes, here threads."""
    barrier, sent = threading.Barrier(world_size, timeout=600), {}

    def of_rank(rank: int) -> SimpleNamespace:
        def broadcast(value: object) -> object:
            sent[rank] = value
            barrier.wait()
            first = sent[0]
            barrier.wait()
            return first

        strategy = SimpleNamespace(broadcast=broadcast, barrier=lambda _name: barrier.wait())
        place = {"world_size": world_size, "global_rank": rank, "is_global_zero": rank == 0}
        return SimpleNamespace(**place, strategy=strategy, default_root_dir=str(folder))

    return [of_rank(rank) for rank in range(world_size)]


def tiny_network(model_type: str, norm: str, **shape: int) -> PreTrainedModel:
    """A random transformers model: group norm and post-norm as base models have them, or layer norm and pre-norm."""
    torch.manual_seed(0)
    of_norm = {"conv_bias": norm == "layer", "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    return AutoModel.from_config(AutoConfig.for_model(model_type, **SIZES | of_norm | shape)).eval()


def tiny_whisper(seconds: int) -> PreTrainedModel:
    """A random Whisper that reads this much audio in the place of 30 s."""
    torch.manual_seed(0)
    shape = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_source_positions": 50 * seconds}
    words = {"vocab_size": 60, "pad_token_id": 50, "bos_token_id": 51, "eos_token_id": 52, "decoder_start_token_id": 53}
    return WhisperForConditionalGeneration(WhisperConfig(**shape, **sizes, **words))


def built(kind: type[PretrainedEncoder], folder: str, lora: LoRA | None = None, **options: object) -> Any:
    """An encoder with the weights in that folder."""
    torch.manual_seed(0)
    encoder = kind(folder, **options).eval()
    encoder.build()
    encoder.adapt(lora)
    return encoder


def speakers_alone(*speaker_ids: str, features: Any = None) -> SimpleNamespace:
    """A training set that has speakers, and no audio."""
    methods = {"speaker_features_of": lambda _: features, "training_audio": lambda _: iter([])}
    return SimpleNamespace(train_speaker_ids=list(speaker_ids), **methods)


def learning(module: torch.nn.Module) -> set[str]:
    return {name for name, weight in module.named_parameters() if weight.requires_grad}


def fitted(encoder: Encoder, waveforms: Iterable[torch.Tensor]) -> Encoder:
    """A new encoder, its front end standardised by this audio."""
    torch.manual_seed(0)
    audio = SimpleNamespace(training_audio=lambda limit: iter([waveform.numpy() for waveform in waveforms][:limit]))
    encoder.build(training_set=audio)
    return encoder.eval()


def padded_noise(lengths: torch.Tensor) -> torch.Tensor:
    """Noise (batch, samples) with zeros after each utterance's end."""
    samples = int(lengths.max())
    waveforms = torch.randn(len(lengths), samples, generator=torch.Generator().manual_seed(1))
    return waveforms * (torch.arange(samples) < lengths[:, None])
