"""A fitted posterior on disk: what calibrates a new speaker, and nothing of any speaker that it was fitted on."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.calibration.attribute_posterior import Amounts, AttributePosterior
from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.correction import Correction
from ser_personal.calibration.measured import Shrinkage
from ser_personal.calibration.ridge import LinearMap
from ser_personal.calibration.voice import VoiceEstimate
from ser_personal.errors import UserError
from ser_personal.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = "ser_personal.posterior"
FORMAT_VERSION = 1

Fitted = dict[str, AttributePosterior]


def save_posterior(fitted: Mapping[str, AttributePosterior], path: Path) -> None:
    """Write what `PosteriorCalibrator.fit` found, attribute -> posterior, as JSON."""
    attributes = {attribute: _as_json(posterior) for attribute, posterior in fitted.items()}
    content = {"format": FORMAT, "version": FORMAT_VERSION, "attributes": attributes}
    write_whole(path, f"{json.dumps(content, allow_nan=False)}\n".encode())


def load_posterior(path: Path) -> Fitted:
    """Read what `save_posterior` wrote.

    Raises:
        UserError: the file isn't one, or is of a newer format.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == FORMAT and content["version"] > FORMAT_VERSION:
            raise UserError(
                f"posterior of format {content['version']}; this version reads up to {FORMAT_VERSION}",
                where=path,
                remedy="Update ser_personal",
            )
        return {attribute: _from_json(told) for attribute, told in content["attributes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("isn't a posterior", where=path, remedy="Give the one that `ser export` wrote") from error


def _as_json(posterior: AttributePosterior) -> dict[str, Any]:
    return {
        "affine": _affine_as_json(posterior.affine),
        "voice": {
            "mean": _linear_as_json(posterior.voice.mean),
            "log_std": _linear_as_json(posterior.voice.log_std),
        },
        "mean": _correction_as_json(posterior.mean),
        "log_std": _correction_as_json(posterior.log_std),
        "amounts": posterior.amounts._asdict(),
        "rematch": _affine_as_json(posterior.rematch),
    }


def _from_json(told: dict[str, Any]) -> AttributePosterior:
    return AttributePosterior(
        affine=_affine(told["affine"]),
        voice=VoiceEstimate(_linear(told["voice"]["mean"]), _linear(told["voice"]["log_std"])),
        mean=_correction(told["mean"]),
        log_std=_correction(told["log_std"]),
        amounts=Amounts(**told["amounts"]),
        rematch=_affine(told["rematch"]),
    )


def _affine_as_json(affine: AffineMap) -> dict[str, float]:
    return {"slope": float(affine.slope[0]), "intercept": float(affine.intercept[0])}


def _affine(told: dict[str, float]) -> AffineMap:
    return AffineMap(np.array([float(told["slope"])]), np.array([float(told["intercept"])]))


def _linear_as_json(linear: LinearMap) -> dict[str, Any]:
    return {"coefficients": linear.coefficients.tolist(), "intercept": linear.intercept}


def _linear(told: dict[str, Any]) -> LinearMap:
    return LinearMap(np.array(told["coefficients"], dtype=np.float64), float(told["intercept"]))


def _correction_as_json(correction: Correction) -> dict[str, Any]:
    return {
        "own": asdict(correction.own),
        "voice": asdict(correction.voice),
        "regression": _linear_as_json(correction.regression),
        "least": correction.least,
        "greatest": correction.greatest,
    }


def _correction(told: dict[str, Any]) -> Correction:
    return Correction(
        own=Shrinkage(**told["own"]),
        voice=Shrinkage(**told["voice"]),
        regression=_linear(told["regression"]),
        least=float(told["least"]),
        greatest=float(told["greatest"]),
    )
