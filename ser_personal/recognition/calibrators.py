"""Which calibration a bundle's speakers get: PLDC, the posterior, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.errors import UserError
from ser_personal.recognition.causal import CausalPLDC
from ser_personal.recognition.causal_posterior import CausalPosterior

if TYPE_CHECKING:
    from ser_personal.recognition.bundle import Bundle, CalibrationName
    from ser_personal.recognition.causal import CausalCalibrator, PLDCSettings


def make_calibrator(
    bundle: Bundle, name: CalibrationName | None = None, pldc: PLDCSettings | None = None
) -> CausalCalibrator | None:
    """Make a bundle's calibrator; None where nothing is to calibrate.

    Args:
        bundle: what it is made from.
        name: which; if None, PLDC where settings of it are given, else the bundle's own choice.
        pldc: settings of PLDC; the bundle's own if None.

    Raises:
        UserError: the bundle doesn't hold what a calibration asked for by name needs.
    """
    chosen = name or (bundle.calibration if pldc is None else "pldc")
    if chosen == "posterior":
        if bundle.posterior is None:
            raise UserError(
                "holds no posterior",
                where="the bundle",
                remedy="Export it with --corpus, whose validation speakers it is fitted on, or ask for pldc",
            )
        return CausalPosterior(bundle.posterior, bundle.attributes)
    if chosen == "none":
        return None
    if bundle.bank is None:
        if name is None and pldc is None:
            return None
        raise UserError("holds no speaker bank", where="the bundle", remedy="Export it with --bank")
    return CausalPLDC(bundle.bank, bundle.attributes, pldc or bundle.pldc)
