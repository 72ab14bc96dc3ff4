"""What encoders from Hugging Face's `transformers` share: loading, a learnt weighted sum of their layers, and LoRA."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from safetensors import SafetensorError
from torch import Tensor, nn
from typing_extensions import override

from ser_personal.encoder.base import MISMATCHES, Encoder, weights_fingerprint
from ser_personal.errors import UserError, require_range
from ser_personal.types import PositiveFinite, TrainingSet

# may be missing from a model that was fine-tuned elsewhere, and is random then
MASK_EMBEDDING = "masked_spec_embed"


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters in the feed-forward layers, the encoder frozen, by `peft` (the extra `lora`).

    Source: Hu et al. 2022, arXiv 2106.09685, who adapt the attention's projections; the feed-forward layers are ours.

    Args:
        rank: of each adapter.
        alpha: its output is scaled by alpha / rank.
        dropout: of its input.
        adapters_alone: save only the adapters; to load such a checkpoint, the encoder's weights must still be at the
            same hub name or folder.
    """

    rank: PositiveInt = 8
    alpha: PositiveFinite = 16.0
    dropout: ClosedUnitInterval = 0.0
    adapters_alone: bool = False


class PretrainedEncoder(Encoder):
    """An encoder from `transformers`, `network` once it is built."""

    model_types: ClassVar[tuple[str, ...]]
    feed_forward: ClassVar[tuple[str, ...]]
    layer_weights: nn.Parameter | None

    def __init__(
        self,
        pretrained: str,
        *,
        freeze_layers: int | None,
        gradient_checkpointing: bool,
        weighted_layers: bool,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.pretrained = str(pretrained)
        self.freeze_layers = freeze_layers
        self.gradient_checkpointing = gradient_checkpointing
        self.weighted_layers = weighted_layers
        # entries of transformers' config; weights released in half precision are trained in full, under autocast
        self.overrides = {"dtype": "float32", **settings}
        self.network: Any = None
        # hub name or folder of the network's weights, as long as no checkpoint brings others
        self._origin: str | None = None
        self.register_parameter("layer_weights", None)

    @property
    @override
    def config(self) -> str:
        return str(self.network.config.to_json_string(use_diff=False))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The Transformer layers."""
        return cast("Sequence[nn.Module]", getattr(self.network, "encoder", self.network).layers)

    @property
    def _lora(self) -> dict[str, Any] | None:
        return getattr(self.network.config, "lora", None)

    @override
    def build(self, config: str | None = None, training_set: TrainingSet | None = None) -> None:
        saved = {} if config is None else json.loads(config)
        lora = saved.pop("lora", None)
        base = (lora or {}).get("base")
        if base:
            self.pretrained = base["name"]
        self._origin = None
        self.network = self._load(saved) if base or config is None else self._from_config(saved)
        self.dim = int(self.network.config.hidden_size)
        require_range("freeze_layers", self.freeze_layers or 0, 0, len(self.layers))
        self._make_front_end(training_set)
        # transformers hands out pre-trained models in evaluation mode, which turns checkpointing and dropout off.
        self.train(self.training)
        if self.gradient_checkpointing:
            self.network.gradient_checkpointing_enable()
        self._freeze()
        if base and weights_fingerprint(self._base_weights()) != base["weights"]:
            what = "has other weights now than those that the checkpoint's adapters were trained on"
            remedy = "Put the old ones there, or fine-tune again without --model.lora.adapters_alone"
            raise UserError(what, where=f"encoder {self.pretrained}", remedy=remedy)
        if saved.get("weighted_layers"):
            self._weigh_layers()
        if lora:
            self._inject(lora)

    @abstractmethod
    def _make_front_end(self, training_set: TrainingSet | None) -> None:
        """Make what comes before the network's Transformer; its statistics are the training set's, if any."""

    def _freeze(self) -> None:
        for module in self._frozen():
            module.requires_grad_(requires_grad=False)

    @abstractmethod
    def _frozen(self) -> Iterator[nn.Module]:
        """The modules that aren't trained; adapters are, unless they are in one of these."""

    def _adjust(self, config: Any) -> Any:
        config.update(self.overrides)
        return config

    def _from_config(self, config: dict[str, Any]) -> Any:
        from transformers import AutoConfig

        return self._make(self._adjust(AutoConfig.for_model(**config)))

    def _make(self, config: Any) -> Any:
        from transformers import AutoModel

        return AutoModel.from_config(config)

    def _load(self, saved: dict[str, Any]) -> Any:
        from transformers import AutoConfig, AutoModel

        where = f"encoder {self.pretrained}"
        try:
            config = AutoConfig.for_model(**saved) if saved else AutoConfig.from_pretrained(self.pretrained)
            if config.model_type not in self.model_types:
                what = f"is of type {config.model_type}, which this encoder can't load"
                raise UserError(what, where=where, remedy=f"Use one of {', '.join(self.model_types)}")
            config = self._adjust(config)
            network, report = AutoModel.from_pretrained(self.pretrained, config=config, output_loading_info=True)
        except (*MISMATCHES, OSError, SafetensorError) as error:
            raise UserError(
                f"can't be loaded ({type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')})",
                where=where,
                remedy="Give a hub name that this machine can reach, a local folder, or --model.encoder TinyEncoder",
            ) from error
        # weights that are missing would stay random; transformers itself reports a head that is left out
        parts = {name.partition(".")[0] for name, _ in network.named_parameters()}
        missing = {*report["missing_keys"]} - {MASK_EMBEDDING}
        surplus = {name for name in report["unexpected_keys"] if name.partition(".")[0] in parts}
        if missing or surplus:
            first = min(missing or surplus)
            what = "lacks weights that config.json asks for" if missing else "has weights that config.json doesn't name"
            cause = "num_hidden_layers of config.json isn't that of the file, or the file is incomplete"
            for name in sorted(report["unexpected_keys"]):
                if name.endswith(f".{first}"):
                    cause = f"the file calls it {name}: take {name.removesuffix(first)} off its keys"
            remedy = "Give weights and a config.json that belong together"
            raise UserError(f"the file {what}, first {first} ({cause})", where=where, remedy=remedy)
        folder = Path(self.pretrained)
        self._origin = str(folder.resolve()) if folder.is_dir() else self.pretrained
        return network

    @override
    def adapt(self, lora: LoRA | None) -> None:
        if self.weighted_layers and self.layer_weights is None:
            self._weigh_layers()
        if lora is None:
            if self._lora is not None:
                self.merge_adapters()
                self.requires_grad_(requires_grad=True)
                self._freeze()
            return
        # sizes as plain numbers: torch refuses to load the types by which the command line restricts them
        asked = json.loads(json.dumps(asdict(lora)))
        if self._lora is None:
            self._inject(asked | {"base": self._base() if lora.adapters_alone else None})
        elif self._lora | asked != self._lora:
            what = f"the checkpoint has adapters already, of {self._lora}"
            raise UserError(what, where="--model.lora", remedy="Give these settings, or leave it out")
        if not any(weight.requires_grad for name, weight in self.named_parameters() if "lora_" in name):
            what = "every layer that would have adapters is frozen"
            raise UserError(what, where="--model.lora", remedy="Add --model.encoder.freeze_layers 0")

    def _base(self) -> dict[str, str]:
        if self._origin is None:
            what = "the encoder's weights have no hub name or folder to be loaded from again"
            remedy = "Give --model.lora.adapters_alone false"
            raise UserError(what, where="--model.lora.adapters_alone", remedy=remedy)
        return {"name": self._origin, "weights": weights_fingerprint(self._base_weights())}

    def _base_weights(self) -> dict[str, Tensor]:
        learnt = ("lora_", "layer_weights", MASK_EMBEDDING)
        weights = self.state_dict().items()
        return {name: weight for name, weight in weights if not any(part in name for part in learnt)}

    @override
    def weights_found_again(self) -> dict[str, Tensor]:
        return self._base_weights() if self._lora is not None and self._lora.get("base") else {}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name, weight in self.weights_found_again().items():
            state_dict.setdefault(prefix + name, weight)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _inject(self, lora: dict[str, Any]) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise UserError("needs the package peft", where="LoRA", remedy="`pip install peft`") from error
        rank, alpha, dropout = lora["rank"], lora["alpha"], lora["dropout"]
        targets = list(self.feed_forward)
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
        self.requires_grad_(requires_grad=False)
        inject_adapter_in_model(config, self.network)
        self.network.config.lora = lora
        if self.layer_weights is not None:
            self.layer_weights.requires_grad = True
        self._freeze()

    @override
    def merge_adapters(self) -> None:
        if self._lora is None:
            return
        from peft.tuners.lora import LoraLayer

        for name, module in list(self.network.named_modules()):
            if isinstance(module, LoraLayer):
                cast("Any", module).merge()
                self.network.set_submodule(name, module.get_base_layer())
        del self.network.config.lora

    def _weigh_layers(self) -> None:
        self.network.config.weighted_layers = True
        self.layer_weights = nn.Parameter(torch.zeros(len(self.layers) + 1))

    def weighted_sum(self, states: Sequence[Tensor]) -> Tensor:
        """Softmax-weighted sum of the hidden states (batch, frames, dim): the first layer's input, every output."""
        weights = torch.softmax(cast("nn.Parameter", self.layer_weights), 0)
        # fewer states where a teacher leaves out the layers above its own
        return cast("Tensor", sum(weight * state for weight, state in zip(weights, states, strict=False)))
