"""Folder -> bundle, where its files are whole and belong together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast, get_args

from ser_personal.audio import SAMPLE_RATE
from ser_personal.calibration.conformal import ConformalTable
from ser_personal.calibration.posterior_file import load_posterior
from ser_personal.errors import UserError
from ser_personal.files import content_hash
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
    Bundle,
    CalibrationName,
)
from ser_personal.recognition.bundle_check import check_belongs
from ser_personal.recognition.causal import PLDCSettings
from ser_personal.recognition.parts import make_part
from ser_personal.speakers.bank import SpeakerBank

if TYPE_CHECKING:
    from pathlib import Path

    from ser_personal.encoder.personalized import EncoderDescription
    from ser_personal.recognition.network import EmotionNetwork

FIRST_WITH_HASHES = 3
_REMEDY = "Give a folder that `ser export` wrote"


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle.

    Raises:
        UserError: a file is missing or damaged, the format is newer, or the parts don't belong together.
    """
    config = _read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise UserError("isn't a bundle of ser_personal", where=folder, remedy=_REMEDY)
    version = config.get("format_version")
    if not isinstance(version, int):
        raise UserError("doesn't say which format it is of", where=folder / CONFIG, remedy=_REMEDY)
    if version > FORMAT_VERSION:
        raise UserError(
            f"bundle of format {version}; this version reads up to {FORMAT_VERSION}",
            where=folder,
            remedy="Update ser_personal",
        )
    _check_files(folder, config)
    rate = _read_json(folder / PREPROCESSOR).get("sampling_rate")
    if rate != SAMPLE_RATE:
        raise UserError(f"expects audio at {rate} Hz, not {SAMPLE_RATE}", where=folder / PREPROCESSOR, remedy=_REMEDY)
    try:
        bundle = Bundle(
            network=_read_network(folder, config),
            model=config["model"],
            attributes=tuple(config["attributes"]),
            scale=None if config["scale"] is None else (config["scale"][0], config["scale"][1]),
            max_samples=config["max_samples"],
            pldc=PLDCSettings(**config["pldc"]),
            bank=SpeakerBank.load(folder / BANK) if (folder / BANK).is_file() else None,
            posterior=load_posterior(folder / POSTERIOR) if (folder / POSTERIOR).is_file() else None,
            calibration=_calibration(config, folder),
            conformal=ConformalTable.load(folder / CONFORMAL) if (folder / CONFORMAL).is_file() else None,
        )
    except (AttributeError, KeyError, TypeError, IndexError, ImportError) as error:
        raise UserError(f"lacks or misspells {error}", where=folder / CONFIG, remedy=_REMEDY) from error
    check_belongs(bundle, folder)
    return bundle


def _check_files(folder: Path, config: dict[str, Any]) -> None:
    """Refuse files that aren't those that the bundle was written with; one that was taken away is no other file."""
    if config["format_version"] < FIRST_WITH_HASHES:
        return
    hashes = config.get("files")
    if not isinstance(hashes, dict):
        raise UserError("doesn't say what its files hold", where=folder / CONFIG, remedy=_REMEDY)
    for name in HASHED:
        path = folder / name
        if path.is_file() and content_hash(path) != hashes.get(name):
            raise UserError("isn't the file that the bundle was written with", where=path, remedy=_REMEDY)


def _calibration(config: dict[str, Any], folder: Path) -> CalibrationName:
    """What the config says; format 1 knew PLDC alone."""
    name = config.get("calibration", "pldc")
    if name not in get_args(CalibrationName):
        raise UserError(f"unknown calibration {name!r}", where=folder / CONFIG, remedy=_REMEDY)
    chosen: CalibrationName = name
    if chosen == "posterior" and not (folder / POSTERIOR).is_file():
        raise UserError("no such file in the bundle", where=folder / POSTERIOR, remedy=_REMEDY)
    return chosen


def _read_network(folder: Path, config: dict[str, Any]) -> EmotionNetwork:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ser_personal.encoder.personalized import PersonalizedEncoder
    from ser_personal.encoder.saved import saved_encoder
    from ser_personal.finetune.interpreters import Interpreter
    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.speakers.representation import SpeakerRepresentation

    described = config["personalized_encoder"]
    description = cast("EncoderDescription", {**described, "encoder_config": json.dumps(described["encoder_config"])})
    speakers = make_part(config["speakers"], SpeakerRepresentation, folder / CONFIG)  # type: ignore[type-abstract]
    unbuilt = saved_encoder(description["encoder_config"], str(folder))
    encoder = PersonalizedEncoder(unbuilt, speakers, description["fusion"])
    encoder.rebuild(description)
    interpreter = make_part(config["interpreter"], Interpreter, folder / CONFIG)  # type: ignore[type-abstract]
    interpreter.build(encoder.dim, len(config["attributes"]))
    network = EmotionNetwork(encoder, interpreter)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"can't be loaded ({reason})", where=folder / WEIGHTS, remedy=_REMEDY) from error
    return network.eval()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError("no such file in the bundle", where=path, remedy=_REMEDY)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError("isn't whole JSON", where=path, remedy=_REMEDY) from error
    if not isinstance(content, dict):
        raise UserError("isn't a JSON object", where=path, remedy=_REMEDY)
    return content
