"""The paper's rows: MSP-Podcast's test-b, HuBERT-large (Tran, Yin and Soleymani, Interspeech 2023, tables 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = (
    "Tran, Yin and Soleymani (Interspeech 2023), MSP-Podcast v1.6, test-b: 8,434 utterances of 50 speakers, "
    "HuBERT-large. Without the paper's predictions no paired difference can be taken, and on another test set none "
    "would mean anything."
)


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper: scores of one attribute."""

    attribute: str
    system: str
    overall_ccc: float
    average_ccc: float


_SCORES = {
    "Vanilla-FT": (0.712, 0.512, 0.607, 0.514),
    "B2, data weighting": (0.735, 0.517, 0.650, 0.569),
    "TAPT-FT": (0.717, 0.518, 0.630, 0.542),
    "PAPT-FT": (0.740, 0.531, 0.663, 0.569),
    "PAPT-FT, mu": (0.722, 0.528, 0.660, 0.566),
    "PAPT-FT, sigma": (0.732, 0.541, 0.662, 0.578),
    "PAPT-FT, both": (0.713, 0.540, 0.657, 0.575),
}
PAPER = tuple(
    PaperRow(attribute, system, *scores[2 * place : 2 * place + 2])
    for place, attribute in enumerate(("arousal", "valence"))
    for system, scores in _SCORES.items()
)
