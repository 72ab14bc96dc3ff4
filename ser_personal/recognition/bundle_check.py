"""Whether the parts of a bundle are of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from ser_personal.recognition.bundle import Bundle


def check_belongs(bundle: Bundle, where: object) -> None:
    """Refuse a bank, a posterior or a table of another model.

    Raises:
        UserError: attributes or the width of the vectors differ.
    """
    bank = bundle.bank
    if bank is not None and bank.vectors.shape[1] != bundle.network.dim:
        raise UserError(
            f"the speaker bank's vectors have {bank.vectors.shape[1]} values, the model's {bundle.network.dim}",
            where=where,
            remedy="Give the bank that `ser test` wrote beside this checkpoint",
        )
    for posterior in (bundle.posterior or {}).values():
        values = len(posterior.voice.mean.coefficients)
        if values != bundle.network.dim:
            raise UserError(
                f"the posterior is of vectors of {values} values, the model's have {bundle.network.dim}",
                where=where,
                remedy="Give the one that was made with this model",
            )
    for what, has in (
        ("speaker bank", None if bank is None else bank.attributes),
        ("posterior", None if bundle.posterior is None else tuple(bundle.posterior)),
        ("table of intervals", None if bundle.conformal is None else tuple(bundle.conformal.attributes)),
    ):
        if has is not None and not set(bundle.attributes) <= set(has):
            raise UserError(
                f"the {what} is of {', '.join(has)}, the model of {', '.join(bundle.attributes)}",
                where=where,
                remedy="Give the one that was made with this model",
            )
