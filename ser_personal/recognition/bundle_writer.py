"""Bundle -> folder, the whole of it or nothing, without pickle."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from ser_personal.audio import SAMPLE_RATE, WINDOW
from ser_personal.calibration.posterior_file import save_posterior
from ser_personal.errors import UserError
from ser_personal.files import content_hash, sync_folder
from ser_personal.recognition.bundle import (
    BANK,
    CONFIG,
    CONFORMAL,
    FORMAT,
    FORMAT_VERSION,
    HASHED,
    POSTERIOR,
    PREPROCESSOR,
    WEIGHTS,
)
from ser_personal.recognition.parts import describe_part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ser_personal.recognition.bundle import Bundle


def write_bundle(bundle: Bundle, folder: Path, finish: Callable[[Path], None]) -> None:
    """Write a bundle, the whole folder or nothing.

    Args:
        bundle: what to write.
        folder: a new or empty one.
        finish: adds the model card, and what else there is, before the folder gets its name.

    Raises:
        UserError: the folder isn't empty.
    """
    from safetensors.torch import save_file

    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        weights = {name: weight.cpu().contiguous().clone() for name, weight in bundle.network.state_dict().items()}
        save_file(weights, temporary / WEIGHTS, {"format": "pt"})
        _write_json(temporary / PREPROCESSOR, _preprocessor(bundle))
        # safetensors lets nobody else read what it writes
        shutil.copymode(temporary / PREPROCESSOR, temporary / WEIGHTS)
        if bundle.bank is not None:
            bundle.bank.save(temporary / BANK)
        if bundle.posterior is not None:
            save_posterior(bundle.posterior, temporary / POSTERIOR)
        if bundle.conformal is not None:
            bundle.conformal.save(temporary / CONFORMAL)
        finish(temporary)
        files = {name: content_hash(temporary / name) for name in HASHED if (temporary / name).exists()}
        _write_json(temporary / CONFIG, {**_config(bundle), "files": files})
        sync_folder(temporary)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Refuse a folder with something in it.

    Raises:
        UserError: it isn't empty, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("isn't an empty folder", where=folder, remedy="Give --out another one, or delete it")


def _config(bundle: Bundle) -> dict[str, Any]:
    description = bundle.network.personalized.describe()
    interpreter = bundle.network.interpreter
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": bundle.model,
        "attributes": list(bundle.attributes),
        "scale": None if bundle.scale is None else list(bundle.scale),
        "max_samples": bundle.max_samples,
        "calibration": bundle.calibration,
        "pldc": bundle.pldc.as_json(),
        "interpreter": describe_part(interpreter),
        "speakers": describe_part(bundle.network.personalized.speakers),
        "personalized_encoder": {**description, "encoder_config": json.loads(description["encoder_config"])},
    }


def _preprocessor(bundle: Bundle) -> dict[str, Any]:
    """What transformers' `Wav2Vec2FeatureExtractor` calls the preparation that the encoder does by itself."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "sampling_rate": SAMPLE_RATE,
        "feature_size": 1,
        "do_normalize": bundle.network.personalized.encoder.normalizes,
        "return_attention_mask": True,
        "padding_side": "right",
        "padding_value": 0.0,
        "min_samples": WINDOW,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
