"""README.md of a bundle: a Hugging Face model card, filled from the test run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import isinf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_personal.calibration.conformal import speakers_needed
from ser_personal.calibration.table import decimal
from ser_personal.scores import from_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from huggingface_hub import EvalResult

    from ser_personal.calibration.conformal import HalfWidths
    from ser_personal.recognition.bundle import Bundle

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
# a checkpoint's key for the public model that it was imported from
IMPORTED = "imported"


@dataclass(frozen=True)
class CardOptions:
    """What a model card can't know by itself.

    Args:
        name: of the model.
        language: ISO 639 codes of the training data's languages; `und` is undetermined.
        license: the weights' licence, an identifier of the Hugging Face hub; mind the training data's terms.
        datasets: names of the training data, as on the hub where it is there.
    """

    name: str = "Personalised speech emotion recognition"
    language: list[str] = field(default_factory=lambda: ["und"])
    license: str = "unknown"
    datasets: list[str] = field(default_factory=list)


def model_card(
    bundle: Bundle,
    options: CardOptions,
    metrics: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    embedded_speakers: int = 0,
    training_speakers: int = 0,
    measured: str = "",
    place: str = "FOLDER",
) -> str:
    """Write the card from metrics.json of the model's test, the fine-tuning's settings, and what export counted."""
    from huggingface_hub import ModelCard, ModelCardData

    # a public model's name and licence, where it was trained elsewhere
    imported = settings.get(IMPORTED) or {}
    licence = imported.get("license", options.license) if options.license == "unknown" else options.license
    tested = {} if metrics is None else metrics["splits"]
    splits = tested if bundle.emotions else {split: _results(content) for split, content in tested.items()}
    # `speakers` of a test set in metrics.json: condition -> how many there are
    conditions = {condition for content in tested.values() for condition in content["speakers"]}
    calibrated = [] if bundle.emotions else ["PLDC", *bundle.attributes]
    data = ModelCardData(
        model_name=options.name,
        language=list(options.language),
        license=licence,
        library_name="ser_personal",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "personalization", "PAPT", *calibrated],
        datasets=list(options.datasets) or None,
        eval_results=list(_eval_results(bundle, splits, options)) or None,
    )
    personalized = bundle.network.personalized
    trained = "PAPT" if personalized.fusion_name != "none" else "TAPT"
    card = ModelCard.from_template(
        data,
        str(TEMPLATE),
        options=options,
        bundle=bundle,
        labelled=_labelled(bundle),
        training_speakers=training_speakers,
        embedded_speakers=embedded_speakers,
        encoder=_encoder(bundle),
        parameters=sum(weight.numel() for weight in bundle.network.parameters()),
        pretraining="Vanilla-FT" if settings.get("papt_checkpoint") is None else trained,
        settings=settings,
        imported=imported,
        calibrators=["pldc"] * (bundle.bank is not None) + ["posterior"] * (bundle.posterior is not None),
        measured=measured,
        place=place,
        splits=splits,
        decimal=decimal,
        knows_tested_speakers=embedded_speakers > 0 and bool(conditions - {"unseen"}),
        **_intervals(bundle),
    )
    return f"{str(card).rstrip()}\n"


def _results(content: Mapping[str, Any]) -> dict[str, Any]:
    rows = {name: from_json(row["attributes"]) for name, row in content["rows"].items() if not row["is_oracle"]}
    return {"utterances": content["utterances"], "speakers": content["speakers"], "rows": rows}


def _eval_results(bundle: Bundle, splits: Mapping[str, Any], options: CardOptions) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    dataset = ", ".join(options.datasets) or "the corpus it was trained on"
    calibrated = {"pldc": bundle.pldc.variant, "posterior": "posterior", "none": "raw"}[bundle.calibration]
    for split, content in splits.items():
        if bundle.emotions:
            scores = content["scores"]
            found = [("recall", "Unweighted average recall", scores["uar"]), ("f1", "Macro F1", scores["macro_f1"])]
        else:
            found = [
                ("ccc", f"{kind} of {attribute}, {label}", value)
                for row, label in {calibrated: "calibrated", "raw": "raw"}.items()
                for attribute, one in content["rows"].get(row, {}).items()
                for kind, value in (("O-CCC", one.overall_ccc), ("A-CCC", one.average_ccc))
            ]
        for kind, name, value in found:
            if value is not None and not isnan(value):
                yield EvalResult(
                    task_type="audio-classification",
                    dataset_type=dataset,
                    dataset_name=dataset,
                    dataset_split=split,
                    metric_type=kind,
                    metric_name=name,
                    metric_value=round(value, 4),
                )


def _intervals(bundle: Bundle) -> dict[str, Any]:
    if bundle.conformal is None:
        return {}
    table = {attribute: bundle.conformal.attributes[attribute] for attribute in bundle.attributes}
    infinite = [isinf(width) for widths in table.values() for width in widths.half_width]
    return {
        "coverage": f"{bundle.conformal.coverage:.0%}",
        "speakers_needed": speakers_needed(bundle.conformal.coverage),
        "too_few_speakers": any(infinite),
        "half_widths": {} if all(infinite) else {name: _widths(widths) for name, widths in table.items()},
    }


def _widths(widths: HalfWidths) -> str:
    return "; ".join(
        f"from {start}: {'the whole scale' if isinf(width) else f'±{width:.2f}'} ({speakers} speakers)"
        for start, width, speakers in zip(widths.from_utterances, widths.half_width, widths.speakers, strict=True)
    )


def _labelled(bundle: Bundle) -> str:
    if bundle.bank is None:
        return ""
    counts = dict(zip(bundle.bank.attributes, bundle.bank.count.sum(axis=0).tolist(), strict=True))
    return ", ".join(f"{int(counts[attribute]):,} of {attribute}" for attribute in bundle.attributes)


def _encoder(bundle: Bundle) -> str:
    config = json.loads(bundle.network.personalized.encoder.config)
    # raw features have none
    layers = f"{config['num_hidden_layers']} layers of " if "num_hidden_layers" in config else ""
    return f"{config['model_type']}, {layers}width {bundle.network.dim}"
