"""Public models of emotion attributes, as their files hold them -> one of our modules."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ser_personal.audio import SAMPLE_RATE
from ser_personal.errors import UserError
from ser_personal.types import ATTRIBUTES, Attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ser_personal.finetune.interpreters import Interpreter
    from ser_personal.finetune.module import EmotionFineTuning

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SETTINGS = ("config.json", "preprocessor_config.json", "README.md")
# what the Odyssey 2024 challenge gives away, and the order of its labels
CHALLENGE = ("final_ssl.pt", "final_pool.pt", "final_ser.pt", "train_norm_stat.pkl")
CHALLENGE_ATTRIBUTES = ("arousal", "dominance", "valence")
CHALLENGE_SAMPLES = 12 * SAMPLE_RATE
REMEDY = (
    "Give one such as audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim or"
    " 3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes, with its files as they were published"
)


@dataclass(frozen=True, eq=False)
class PublicModel:
    """A model as its files hold it, its weights under the names of our networks, its interpreter not built yet.

    Attributes:
        encoder_config: of transformers, with how waveforms are normalised and how many samples are taken.
        last: name of the interpreter's last layer, of outputs 0 to 1; None where the interpreter has the scale itself.
        attributes: in the order of its outputs.
    """

    encoder_config: dict[str, Any]
    encoder: dict[str, Tensor]
    interpreter: Interpreter
    head: dict[str, Tensor]
    last: str | None
    attributes: Sequence[str]


def read_public_model(folder: Path, name: str, attributes: Sequence[str] | None = None) -> PublicModel:
    """Read a model's files; `name` is the user's, for messages."""
    try:
        if (folder / CHALLENGE[0]).is_file():
            return _challenge(folder, name, attributes or CHALLENGE_ATTRIBUTES)
        config = json.loads((folder / SETTINGS[0]).read_text(encoding="utf-8"))
        labels = config.get("id2label") or {}
        named = attributes or [str(labels[place]).lower() for place in sorted(labels, key=int)]
        weights = _weights(folder, name)
        if "pretrain_model" in config:
            return _vox_profile(config, weights, name)
        if "ssl_type" in config:
            return _odyssey(config, _parts(weights, ("ssl_model.", "pool_model.", "ser_model."), name), name, named)
        return _dense(config, weights, folder / SETTINGS[1], name, named)
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        what = f"its files lack or misspell something ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        raise UserError(what, where=name, remedy=REMEDY) from error


def _weights(folder: Path, name: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ser_personal.pretrain.restricted_pickle import read_arrays

    path = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if path is None:
        raise UserError(f"has neither {' nor '.join(WEIGHTS)}", where=name, remedy=REMEDY)
    try:
        weights: dict[str, Tensor] = read_arrays(path) if path.suffix == ".bin" else load_file(path)
    except SafetensorError as error:
        raise UserError(f"isn't complete safetensors ({error})", where=path, remedy="Download it again") from error
    return weights


def _parts(weights: dict[str, Tensor], prefixes: tuple[str, ...], name: str) -> list[dict[str, Tensor]]:
    parts = [_under(prefix, weights) for prefix in prefixes]
    if not all(parts) or sum(map(len, parts)) < len(weights):
        raise UserError(f"its weights aren't {' and '.join(prefixes)}", where=name, remedy=REMEDY)
    return parts


def _dense(
    config: dict[str, Any], weights: dict[str, Tensor], preprocessor: Path, name: str, attributes: Sequence[str]
) -> PublicModel:
    """The form of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim."""
    from ser_personal.encoder.hubert import HubertEncoder
    from ser_personal.finetune.interpreters import DenseInterpreter

    kind = config.get("model_type")
    if kind not in HubertEncoder.model_types:
        raise UserError(f"is of type {kind}, not of {', '.join(HubertEncoder.model_types)}", where=name, remedy=REMEDY)
    encoder, head = _parts(weights, (f"{kind.replace('-', '_')}.", "classifier."), name)
    processing = json.loads(preprocessor.read_text(encoding="utf-8")) if preprocessor.is_file() else {}
    _check_rate(processing, name)
    normalize = processing.get("do_normalize", config.get("feat_extract_norm") == "layer")
    return PublicModel(
        encoder_config=_known(kind, config) | {"normalize": bool(normalize)},
        encoder=encoder,
        interpreter=DenseInterpreter(dropout=float(config.get("final_dropout", 0.1))),
        head=head,
        last="out_proj",
        attributes=attributes,
    )


def _odyssey(
    config: dict[str, Any], parts: Sequence[dict[str, Tensor]], name: str, attributes: Sequence[str]
) -> PublicModel:
    """The form of 3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes, of the weights of encoder, pooling and head."""
    from ser_personal.finetune.interpreters import AttentiveStatisticsInterpreter

    if not re.fullmatch(r"(microsoft/)?wavlm-[\w-]+", str(config["ssl_type"])):
        raise UserError(f"its encoder is {config['ssl_type']}, not a WavLM", where=name, remedy=REMEDY)
    _check_rate(config, name)
    encoder, pool, ser = parts
    mean, std = float(config["mean"]), float(config["std"])
    if not (isfinite(mean) and 0 < std < inf):
        what = f"its waveforms have mean {mean:g} and standard deviation {std:g}"
        raise UserError(what, where=name, remedy=REMEDY)
    widths = [len(weight) for layer, weight in sorted(ser.items()) if re.fullmatch(r"fc\.\d\.0\.weight", layer)]
    head = {**pool, **{layer.replace("out.0.", "out."): weight for layer, weight in ser.items()}}
    return PublicModel(
        encoder_config=wavlm_config(encoder) | {"normalize": [mean, std], "max_samples": int(config["maxlen"])},
        encoder=encoder,
        interpreter=AttentiveStatisticsInterpreter(tuple(widths), float(config.get("classifier_dropout_prob", 0.5))),
        head=head,
        last="out",
        attributes=attributes,
    )


def _challenge(folder: Path, name: str, attributes: Sequence[str]) -> PublicModel:
    """The Odyssey challenge's own files, which say neither what their outputs are nor how long the audio was."""
    from ser_personal.pretrain.restricted_pickle import read_arrays

    *parts, (mean, std) = (read_arrays(folder / file) for file in CHALLENGE)
    config = {"ssl_type": "wavlm-large", "mean": mean, "std": std, "maxlen": CHALLENGE_SAMPLES}
    return _odyssey(config, parts, name, attributes)


def _vox_profile(config: dict[str, Any], weights: dict[str, Tensor], name: str) -> PublicModel:
    """The form of tiantiaf/wavlm-large-msp-podcast-emotion-dim, its adapters merged."""
    import torch

    from ser_personal.finetune.interpreters import PointwiseInterpreter

    if config["pretrain_model"] not in {"wavlm", "wavlm_large"}:
        raise UserError(f"its encoder is {config['pretrain_model']}, not a WavLM", where=name, remedy=REMEDY)
    attributes = [attribute for attribute in ATTRIBUTES if f"{attribute}_layer.0.weight" in weights]
    encoder = _without_adapters(_under("backbone_model.", weights))
    # theirs may leave out what enters the first layer
    absent = len([layer for layer in encoder if layer.endswith("final_layer_norm.bias")]) + 1 - len(weights["weights"])
    encoder["layer_weights"] = torch.cat([torch.full((absent,), -1e4), weights["weights"]])
    head = {
        f"layers.{layer}": weight.squeeze(-1) if weight.ndim == 3 else weight
        for layer, weight in _under("model_seq.", weights).items()
    }
    for number, attribute in enumerate(attributes):
        own = _under(f"{attribute}_layer.", weights)
        head |= {f"heads.{number}.{layer}": weight for layer, weight in own.items()}
    return PublicModel(
        encoder_config=wavlm_config(encoder)
        | {"normalize": config["pretrain_model"] == "wavlm_large", "weighted_layers": True},
        encoder=encoder,
        interpreter=PointwiseInterpreter(len(head["layers.0.weight"])),
        head=head,
        last=None,
        attributes=attributes,
    )


def _without_adapters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add loralib's adapters, scaled by its alpha of 1 over their rank, to the weights beside which they are."""
    merged = {layer: weight for layer, weight in weights.items() if "lora_" not in layer}
    for layer, up in weights.items():
        if layer.endswith(".lora_B"):
            down, beside = weights[layer[:-1] + "A"], layer.removesuffix("lora_B") + "weight"
            merged[beside] = merged[beside] + up @ down / len(down)
    return merged


def _under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def _check_rate(config: dict[str, Any], name: str) -> None:
    if config.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
        what = f"takes audio at {config['sampling_rate']} Hz, not {SAMPLE_RATE}"
        raise UserError(what, where=name, remedy=REMEDY)


def _known(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    names = AutoConfig.for_model(kind).to_dict().keys() - {"id2label", "label2id", "architectures", "dtype"}
    return {name: value for name, value in config.items() if name in names and value is not None} | {"model_type": kind}


def wavlm_config(weights: dict[str, Tensor]) -> dict[str, Any]:
    """The configuration of a WavLM by the shapes of its weights: files of this form name the encoder alone."""
    weight = weights["feature_projection.projection.weight"]
    convolutions = [
        weights[f"feature_extractor.conv_layers.{number}.conv.weight"]
        for number in range(sum(name.endswith(".conv.weight") for name in weights))
    ]
    layers = {int(name.split(".")[2]) for name in weights if name.startswith("encoder.layers.")}
    (positions,) = (weights[name] for name in weights if re.search(r"pos_conv_embed.*(weight_v|original1)$", name))
    # WavLM-large has a layer norm after every convolution and stands before its layers; the base models have neither
    large = "feature_extractor.conv_layers.1.layer_norm.weight" in weights
    return {
        "model_type": "wavlm",
        "hidden_size": len(weight),
        "num_hidden_layers": len(layers),
        "num_attention_heads": weights["encoder.layers.0.attention.gru_rel_pos_const"].numel(),
        "intermediate_size": len(weights["encoder.layers.0.feed_forward.intermediate_dense.bias"]),
        "num_buckets": len(weights["encoder.layers.0.attention.rel_attn_embed.weight"]),
        "num_conv_pos_embeddings": positions.shape[2],
        "num_conv_pos_embedding_groups": len(weight) // positions.shape[1],
        "conv_dim": [len(one) for one in convolutions],
        "conv_kernel": [one.shape[2] for one in convolutions],
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in weights,
        "feat_extract_norm": "layer" if large else "group",
        "do_stable_layer_norm": large,
    }


def as_module(found: PublicModel, name: str, scale: tuple[float, float]) -> EmotionFineTuning:
    """The model as one of ours: outputs 0 to 1 become label points, in the order of `ATTRIBUTES`."""
    import torch

    from ser_personal.encoder.base import MISMATCHES
    from ser_personal.encoder.hubert import HubertEncoder
    from ser_personal.finetune.interpreters import PointwiseInterpreter
    from ser_personal.finetune.module import EmotionFineTuning

    outputs = list(found.attributes)
    if not outputs or not {*outputs} <= {*ATTRIBUTES} or len({*outputs}) < len(outputs):
        what = f"its outputs are {', '.join(outputs) or 'not named'}; emotion attributes are {', '.join(ATTRIBUTES)}"
        raise UserError(what, where=name, remedy=REMEDY)
    attributes = tuple(attribute for attribute in get_args(Attribute) if attribute in outputs)
    init_args: dict[str, Any] = {"pretrained": name, "freeze_cnn": True}
    if found.encoder_config.get("weighted_layers"):
        init_args["weighted_layers"] = True
    module = EmotionFineTuning(attributes, encoder=HubertEncoder(**init_args), interpreter=found.interpreter)
    try:
        module.personalized.rebuild(
            {
                "encoder": HubertEncoder.__name__,
                "encoder_config": json.dumps(found.encoder_config),
                "fusion": "none",
                "speakers": None,
                "pretrained_on": "",
            }
        )
        module.rebuild({})
    except MISMATCHES as error:
        what = f"its configuration describes no network ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        raise UserError(what, where=name, remedy=REMEDY) from error
    encoder = module.personalized.encoder
    _load(encoder, _in_our_names(found.encoder, encoder.dim), name)
    head, (low, high) = dict(found.head), scale
    if isinstance(module.interpreter, PointwiseInterpreter):
        module.interpreter.scale = scale
    order = [outputs.index(attribute) for attribute in attributes]
    for part, shift in () if found.last is None else (("weight", 0.0), ("bias", low)):
        last = head.get(f"{found.last}.{part}")
        given = 0 if last is None or not last.ndim else len(last)
        if last is None or given != len(outputs):
            what = f"its head gives {given} outputs and names {len(outputs)}"
            raise UserError(what, where=name, remedy="Name them in their order, such as --attributes '[arousal]'")
        head[f"{found.last}.{part}"] = last[torch.tensor(order)].float() * (high - low) + shift
    _load(module.interpreter, head, name)
    # as the command line leaves it in a checkpoint; the module itself adds the rest
    path = f"{HubertEncoder.__module__}.{HubertEncoder.__name__}"
    module.hparams.update(encoder={"class_path": path, "init_args": init_args})
    return module.eval()


def _in_our_names(weights: dict[str, Tensor], dim: int) -> dict[str, Tensor]:
    import torch

    renamed = {}
    for name, weight in weights.items():
        # torch's weight normalisation called them so before it was a parametrisation
        new = re.sub(r"conv\.weight_g$", "conv.parametrizations.weight.original0", name)
        new = re.sub(r"conv\.weight_v$", "conv.parametrizations.weight.original1", new)
        new = re.sub(r"^(?!feature_extractor\.|layer_weights$)", "network.", new)
        renamed[re.sub(r"^feature_extractor\.", "front_end.", new)] = weight
    # what was fine-tuned elsewhere may lack it, and nothing is masked here
    return {"network.masked_spec_embed": torch.zeros(dim), **renamed}


def _load(network: Any, weights: dict[str, Tensor], name: str) -> None:
    own = {layer: tuple(weight.shape) for layer, weight in network.state_dict().items()}
    given = {layer: tuple(weight.shape) for layer, weight in weights.items()}
    for layer in sorted(own.keys() | given.keys()):
        if own.get(layer) != given.get(layer):
            what = f"its weights don't fit: {layer} is {given.get(layer, 'missing')}, not {own.get(layer, 'there')}"
            raise UserError(what, where=name, remedy=REMEDY)
        if not weights[layer].isfinite().all():
            raise UserError(f"its weights hold NaN or infinity: {layer}", where=name, remedy="Download it again")
    network.load_state_dict({layer: weight.float() for layer, weight in weights.items()})
