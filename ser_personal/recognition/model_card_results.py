"""What a model card tells of the model's test: for readers a table, for the hub the metadata that it lists."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Any

from ser_personal.finetune.scores import from_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ser_personal.finetune.scores import AttributeScores, Scores
    from ser_personal.recognition.bundle import Bundle

# names of the rows that PLDC's switches choose, by shift_mean and scale_std
_PLDC_ROWS = {(False, False): "raw", (True, False): "mu", (False, True): "sigma", (True, True): "both"}


def model_index(bundle: Bundle, metrics: Mapping[str, Any], data: str) -> Iterable[dict[str, Any]]:
    """What the hub shows of each test set: raw scores, and those of the bundle's calibration over all test speech."""
    pldc = _PLDC_ROWS[bundle.pldc.shift_mean, bundle.pldc.scale_std]
    chosen = {"pldc": pldc, "posterior": "posterior", "none": "raw"}[bundle.calibration]
    for split, content in metrics["splits"].items():
        yield {
            "task": {"type": "audio-classification", "name": "Continuous speech emotion recognition"},
            "dataset": {"name": data, "type": data, "split": split},
            "metrics": [
                {"type": "ccc", "name": f"{kind} of {attribute}, {label}", "value": round(value, 4)}
                for name, label in {chosen: "calibrated", "raw": "raw"}.items()
                if name in content["rows"]
                for attribute, scores in from_json(content["rows"][name]["attributes"]).items()
                for kind, value in (("O-CCC", scores.overall_ccc), ("A-CCC", scores.average_ccc))
                if not isnan(value)
            ],
        }


def results_section(metrics: Mapping[str, Any] | None) -> str:
    """The scores of each test set."""
    if metrics is None:
        return "## Results\n\nNo test was at hand when the model was exported.\n"
    sections = [
        "## Results\n\nConcordance correlation coefficients (CCC): O-CCC over all utterances, A-CCC the mean of each"
        "\nspeaker's (deviation over speakers).\n"
    ]
    for split, content in metrics["splits"].items():
        speakers = ", ".join(f"{count} {condition}" for condition, count in content["speakers"].items())
        sections.append(f"{split}: {content['utterances']:,} utterances; speakers: {speakers}.\n")
        rows = {name: from_json(row["attributes"]) for name, row in content["rows"].items() if not row["is_oracle"]}
        sections.append(_table(rows))
    return "\n".join(sections)


def _table(rows: Mapping[str, Scores]) -> str:
    attributes = list(next(iter(rows.values())))
    header = ["", *(f"{attribute} {kind}" for attribute in attributes for kind in ("O-CCC", "A-CCC"))]
    lines = [_line(header), _line(["---"] * len(header))]
    lines += [_line([name, *_cells(scores[attribute] for attribute in attributes)]) for name, scores in rows.items()]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(of_attributes: Iterable[AttributeScores]) -> list[str]:
    pairs = [
        (f"{scores.overall_ccc:.3f}", f"{scores.average_ccc:.3f} ({scores.average_ccc_std:.3f})")
        for scores in of_attributes
    ]
    return [cell for pair in pairs for cell in pair]
