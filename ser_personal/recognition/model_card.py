"""README.md of a bundle: a Hugging Face model card, filled from the run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import isinf, isnan
from typing import TYPE_CHECKING, Any

from ser_personal.calibration.conformal import speakers_needed
from ser_personal.scores import from_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ser_personal.calibration.conformal import ConformalTable, HalfWidths
    from ser_personal.recognition.bundle import Bundle
    from ser_personal.scores import AttributeScores, Scores

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


LIBRARY = "ser_personal"
USES = """\
## Intended use

Research on how voices are perceived, and tools for people who agreed to them: dimensional ratings of emotional
expression in speech, for speakers who know that they are analysed.

## Prohibited uses

- **Inferring emotions of people at work or in education.** In the European Union that is a prohibited practice (AI Act,
  Regulation (EU) 2024/1689, Article 5(1)(f)), except for medical or safety reasons, for which this model isn't fit
  either.
- **Decisions about a person**: hiring, credit, insurance, diagnosis, policing, migration, grading, or any other.
- **Use without the consent** of the people whose voices are analysed.

## Limits

- The model guesses how others would rate a voice. It doesn't know what a person feels.
- It errs more for some people than for others. Before use, measure it on speakers like yours, speaker by speaker.
- Recordings, languages and ways of speaking unlike the training data's give values that look as sure as any other.
- Calibration needs some utterances of a speaker before it is worth anything, and harms some speakers.
- Voice vectors are biometric data, with or without names, of one person or averaged over several: those of the training
  speakers in `speaker_bank.safetensors`, and those of the speakers you enrol. Keep them as such, and delete them on
  request.
"""


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
    embedded_speakers: int,
    training_speakers: int,
) -> str:
    """Write the card.

    Args:
        bundle: the model.
        options: what its maker says of it.
        metrics: metrics.json of its test, None where there is none.
        settings: hyper-parameters of the fine-tuning.
        embedded_speakers: with an embedding of their own.
        training_speakers: with labels, whether the bundle's bank holds them or groups of them.
    """
    import yaml

    metadata = yaml.safe_dump(_metadata(bundle, options, metrics), sort_keys=False, allow_unicode=True, width=120)
    sections = [
        f"---\n{metadata}---\n",
        f"# {options.name}\n",
        f"Predicts {_listed(bundle.attributes)} of speech, calibrated to each speaker without labels of theirs, with\n"
        f"the Python package `{LIBRARY}`.\n",
        _how_to_use(bundle),
        _output(bundle),
        _data(bundle, options, embedded_speakers, training_speakers),
        _training(bundle, settings),
        results_section(metrics),
        USES,
    ]
    return "\n".join(sections)


def _metadata(bundle: Bundle, options: CardOptions, metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "language": list(options.language),
        "license": options.license,
        "library_name": LIBRARY,
        "pipeline_tag": "audio-classification",
        "tags": ["speech-emotion-recognition", "personalization", "PAPT", "PLDC", *bundle.attributes],
    }
    if options.datasets:
        metadata["datasets"] = list(options.datasets)
    metadata["metrics"] = ["ccc"]
    if metrics is not None:
        data = ", ".join(options.datasets) or "the corpus it was trained on"
        metadata["model-index"] = [{"name": options.name, "results": list(model_index(bundle, metrics, data))}]
    return metadata


def _how_to_use(bundle: Bundle) -> str:
    calibrated = ', speaker_ids="anna"' if bundle.bank is not None else ""
    return f"""\
## How to use

```python
from ser_personal import EmotionRecognizer

recognizer = EmotionRecognizer.from_pretrained("FOLDER")
print(recognizer.predict(["first.wav", "second.wav"]{calibrated}))
```

or `ser annotate RECORDINGS --model FOLDER --out predictions.csv --speaker-from folder`. Any sound file that libsndfile
reads will do; it is brought to 16 kHz mono.
"""


def _output(bundle: Bundle) -> str:
    order = ", then ".join(bundle.attributes)
    if bundle.scale is None:
        scale = "Label scale: not recorded."
    else:
        scale = f"Label scale: {bundle.scale[0]:g} (least) to {bundle.scale[1]:g} (most)."
    lines = ["## Output", "", f"Order of the outputs: {order}.", f"{scale} Predictions may lie outside of it."]
    if bundle.bank is None and bundle.posterior is None:
        lines += ["", "The bundle holds no speaker bank: predictions are raw."]
    if bundle.conformal is None:
        lines += ["", "The bundle holds no table of intervals."]
    else:
        lines += ["", *_intervals(bundle.conformal, bundle.attributes)]
    return "\n".join(lines) + "\n"


def _intervals(table: ConformalTable, attributes: tuple[str, ...]) -> list[str]:
    """Half-widths, or that too few speakers tell none."""
    widths = [width for attribute in attributes for width in table.attributes[attribute].half_width]
    few = (
        f"Intervals of {table.coverage:.0%} take {speakers_needed(table.coverage)} validation speakers. There were"
        " fewer, so `low` and `high` are the ends of the label scale: they say nothing."
    )
    if all(map(isinf, widths)):
        return [few]
    lines = [
        f"Half-width of {table.coverage:.0%} intervals, in label points, by the number of utterances",
        "behind a calibration (hierarchical conformal prediction on validation speakers; the intervals hold that",
        "share of the utterances of new speakers like those, over all speakers and not for each):",
        "",
        *(f"- {attribute}: {_widths(table.attributes[attribute])}" for attribute in attributes),
    ]
    return [*lines, "", few.replace("There were", "Where there were")] if any(map(isinf, widths)) else lines


def _widths(widths: HalfWidths) -> str:
    return "; ".join(
        f"from {start}: {'the whole scale' if isinf(width) else f'±{width:.2f}'} ({speakers} speakers)"
        for start, width, speakers in zip(widths.from_utterances, widths.half_width, widths.speakers, strict=True)
    )


def _data(bundle: Bundle, options: CardOptions, embedded_speakers: int, training_speakers: int) -> str:
    lines = ["## Data", "", f"Training data: {', '.join(options.datasets) or 'not named by who exported the model'}."]
    if bundle.bank is not None:
        counts = ", ".join(
            f"{int(bundle.bank.count[:, column].sum()):,} of {attribute}"
            for column, attribute in enumerate(bundle.bank.attributes)
            if attribute in bundle.attributes
        )
        lines.append(f"Labelled training utterances: {counts}, of {training_speakers:,} speakers.")
        rows = len(bundle.bank.speaker_ids)
        if rows < training_speakers:
            lines.append(f"`speaker_bank.safetensors` holds {rows:,} groups of similar ones, no single speaker;")
            lines.append("the results of PLDC below are by single speakers.")
    if embedded_speakers:
        lines.append(f"Speakers with an embedding learnt in pre-training: {embedded_speakers:,}.")
    return "\n".join(lines) + "\n"


def _training(bundle: Bundle, settings: Mapping[str, Any]) -> str:
    personalized = bundle.network.personalized
    config = json.loads(personalized.encoder.config)
    start = {False: "Vanilla-FT", True: "PAPT" if personalized.fusion_name != "none" else "TAPT"}
    # raw features have none
    layers = f"{config['num_hidden_layers']} layers of " if "num_hidden_layers" in config else ""
    parameters = sum(weight.numel() for weight in bundle.network.parameters())
    lines = [
        "## Training",
        "",
        f"- Encoder: {config['model_type']}, {layers}width {personalized.dim};"
        f" {parameters / 1e6:.1f} million parameters with the interpreter.",
        f"- Pre-training: {start[settings.get('papt_checkpoint') is not None]}, fusion {personalized.fusion_name}.",
        f"- Fine-tuning by 1 - CCC: learning rate {settings.get('learning_rate')}, weight decay"
        f" {settings.get('weight_decay')}.",
        *_calibration(bundle),
    ]
    return "\n".join(lines) + "\n"


def _calibration(bundle: Bundle) -> list[str]:
    """What calibrates, and with which settings."""
    chosen = {
        "pldc": "PLDC, by the label statistics of the training speakers who sound most alike",
        "posterior": "the posterior, by what voice and predictions told of the validation speakers' labels",
        "none": "none",
    }[bundle.calibration]
    held = [name for name, part in (("pldc", bundle.bank), ("posterior", bundle.posterior)) if part is not None]
    lines = [f"- Calibration: {chosen}. The bundle holds {' and '.join(held) or 'nothing to calibrate with'}."]
    if bundle.bank is not None:
        settings = ", ".join(f"{name} {value}" for name, value in asdict(bundle.pldc).items())
        lines.append(f"- Settings of PLDC: {settings}.")
    return lines


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
