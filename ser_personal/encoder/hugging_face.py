"""What encoders from Hugging Face's `transformers` share: loading, a learnt weighted sum of their layers, and LoRA."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from safetensors import SafetensorError
from torch import nn
from typing_extensions import override

from ser_personal.encoder.base import Encoder, weights_fingerprint
from ser_personal.errors import UserError, require_range
from ser_personal.types import PositiveFinite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

# what transformers raises at files that are absent, damaged, or describe no network
UNLOADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
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
    has_random_weights = False

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
        # Python's callers may give a Path
        self.pretrained = str(pretrained)
        self.freeze_layers = freeze_layers
        self.gradient_checkpointing = gradient_checkpointing
        self.weighted_layers = weighted_layers
        # entries of transformers' config; weights released in half precision are trained in full, under autocast
        self.overrides = {"dtype": "float32", **settings}
        self.network: Any = None
        # where the network's own weights are from, as long as no checkpoint brings others
        self._origin: str | None = None
        self.register_parameter("layer_weights", None)

    @property
    @override
    def config(self) -> str:
        return str(self.network.config.to_json_string(use_diff=False))

    @property
    @override
    def dim(self) -> int:
        return int(self.network.config.hidden_size)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The Transformer layers."""
        return cast("Sequence[nn.Module]", getattr(self.network, "encoder", self.network).layers)

    @property
    def _lora(self) -> dict[str, Any] | None:
        return getattr(self.network.config, "lora", None)

    @override
    def build(self, config: str | None = None) -> None:
        saved = {} if config is None else json.loads(config)
        lora = saved.pop("lora", None)
        base = (lora or {}).get("base")
        if base:
            self.pretrained = base["name"]
        if base or config is None:
            self.network = self._load()
            place = Path(self.pretrained)
            self._origin = str(place.resolve()) if place.is_dir() else self.pretrained
            self.network.config.update({name: saved[name] for name in ("normalize", "max_samples") if name in saved})
        else:
            self.network, self._origin = self._from_config(saved), None
        require_range("freeze_layers", self.freeze_layers or 0, 0, len(self.layers))
        self._make_front_end()
        # transformers hands out pre-trained models in evaluation mode, which turns checkpointing and dropout off.
        self.train(self.training)
        if self.gradient_checkpointing:
            self.network.gradient_checkpointing_enable()
        self._freeze()
        if base and self._base_fingerprint() != base["weights"]:
            raise UserError(
                "has other weights now than those that the checkpoint's adapters were trained on",
                where=f"encoder {self.pretrained}",
                remedy="Put the old ones there, or fine-tune again without --model.lora.adapters_alone",
            )
        if saved.get("weighted_layers"):
            self._weigh_layers()
        if lora:
            self._inject(lora)

    @abstractmethod
    def _make_front_end(self) -> None:
        """Make what comes before the network's Transformer."""

    def _freeze(self) -> None:
        for module in self._frozen():
            module.requires_grad_(requires_grad=False)

    @abstractmethod
    def _frozen(self) -> Iterator[nn.Module]:
        """The modules that aren't trained; adapters are, unless they are in one of these."""

    @abstractmethod
    def _read(self, config: Any) -> tuple[nn.Module, set[str], set[str]]:
        """Load the network named `pretrained`, with the names of its missing and its unexpected weights."""

    @abstractmethod
    def _make(self, config: Any) -> nn.Module:
        """Make the network, of random weights."""

    def _adjust(self, config: Any) -> Any:
        """Put our settings into a network's config, or refuse it."""
        config.update(self.overrides)
        return config

    def _from_config(self, config: dict[str, Any]) -> nn.Module:
        from transformers import AutoConfig

        kind = config.pop("model_type", "none")
        self._check_type(kind)
        return self._make(self._adjust(AutoConfig.for_model(kind, **config)))

    def _load(self) -> nn.Module:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self.pretrained)
            self._check_type(config.model_type)
            network, missing, unexpected = self._read(self._adjust(config))
        except UNLOADABLE as error:
            raise UserError(
                f"can't be loaded ({type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')})",
                where=f"encoder {self.pretrained}",
                remedy="Give a hub name that this machine can reach, a local folder, or --model.encoder TinyEncoder",
            ) from error
        self._refuse_other_weights(network, missing, unexpected)
        return network

    def _refuse_other_weights(self, network: nn.Module, missing: set[str], unexpected: set[str]) -> None:
        """Refuse a file that lacks some of the network's weights (they would stay random), or has some without place.

        transformers itself reports a head that is left out.
        """
        parts = {name.partition(".")[0] for name, _ in network.named_parameters()}
        missing = missing - {MASK_EMBEDDING}
        surplus = {name for name in unexpected if name.partition(".")[0] in parts}
        if missing or surplus:
            first = min(missing or surplus)
            renamed = next((name for name in sorted(unexpected) if name.endswith(f".{first}")), None)
            cause = "num_hidden_layers of config.json isn't that of the file, or the file is incomplete"
            if renamed is not None:
                cause = f"the file calls it {renamed}: take {renamed.removesuffix(first)} off its keys"
            raise UserError(
                f"the file {'lacks' if missing else 'has'} {len(missing or surplus)} weights that config.json "
                f"{'asks for' if missing else 'has no place for'}, {first} the first ({cause})",
                where=f"encoder {self.pretrained}",
                remedy="Give weights and a config.json that belong together",
            )

    def _check_type(self, model_type: str) -> None:
        if model_type not in self.model_types:
            raise UserError(
                f"is of type {model_type}, which this encoder can't load",
                where=f"encoder {self.pretrained}",
                remedy=f"Use one of {', '.join(self.model_types)}",
            )

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
        if self._lora is not None:
            saved = self._lora
            if other := [f"{name} {saved[name]}, not {asked[name]}" for name in asked if saved[name] != asked[name]]:
                what = f"the checkpoint has adapters already, of {'; '.join(other)}"
                remedy = "Leave it out: training goes on with the saved adapters"
                raise UserError(what, where="--model.lora", remedy=remedy)
            return
        if self.has_random_weights:
            raise UserError(
                f"{type(self).__name__}'s weights are random, and LoRA needs pre-trained ones to adapt",
                where="--model.lora",
                remedy="Leave it out, or give --model.encoder HubertEncoder",
            )
        base = None
        if lora.adapters_alone:
            if self._origin is None:
                raise UserError(
                    "the encoder's weights come from another checkpoint, so they can't be loaded again by name",
                    where="--model.lora.adapters_alone",
                    remedy="Give --model.lora.adapters_alone false",
                )
            base = {"name": self._origin, "weights": self._base_fingerprint()}
        self._inject(asked | {"base": base})
        if not any(weight.requires_grad for name, weight in self.named_parameters() if "lora_" in name):
            what = "every layer that would have adapters is frozen"
            raise UserError(what, where="--model.lora", remedy="Add --model.encoder.freeze_layers 0")

    def _base_fingerprint(self) -> str:
        own = self.state_dict()
        learnt = ("layer_weights", MASK_EMBEDDING)
        return weights_fingerprint({name: own[name] for name in own if not name.endswith(learnt)})

    def _inject(self, lora: dict[str, Any]) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise UserError("needs the package peft", where="LoRA", remedy="`pip install peft`") from error
        config = LoraConfig(
            r=lora["rank"],
            lora_alpha=lora["alpha"],
            lora_dropout=lora["dropout"],
            target_modules=list(self.feed_forward),
        )
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

    @property
    def _saves_adapters_alone(self) -> bool:
        return self.network is not None and self._lora is not None and self._lora["base"] is not None

    @override
    def saved_weights(self, weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        if not self._saves_adapters_alone:
            return weights
        own = ("lora_", "layer_weights", MASK_EMBEDDING)
        return {
            name: weight
            for name, weight in weights.items()
            if not name.startswith(prefix) or any(part in name for part in own)
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        if self._saves_adapters_alone:
            for name, weight in self.state_dict().items():
                state_dict.setdefault(prefix + name, weight)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _weigh_layers(self) -> None:
        self.network.config.weighted_layers = True
        self.layer_weights = nn.Parameter(torch.zeros(len(self.layers) + 1))

    def weighted_sum(self, states: Sequence[Tensor]) -> Tensor:
        """Softmax-weighted sum of the hidden states (batch, frames, dim): the first layer's input, every output."""
        weights = torch.softmax(cast("nn.Parameter", self.layer_weights), 0)
        # fewer states where a teacher leaves out the layers above its own
        return cast("Tensor", sum(weight * state for weight, state in zip(weights, states, strict=False)))
