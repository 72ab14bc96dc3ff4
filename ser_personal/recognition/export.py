"""`ser export`: a fine-tuned checkpoint -> a bundle, with what its runs tell of it."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from rich.console import Console

from ser_personal.calibration.conformal import ConformalTable, speakers_needed
from ser_personal.calibration.pldc import PLDCSettings, Statistics, label_statistics, normalised
from ser_personal.calibration.posterior import MIN_SPEAKERS, PRICE, PosteriorCalibrator
from ser_personal.calibration.run_files import points
from ser_personal.calibration.table import PredictedSet
from ser_personal.corpus.base import Corpus  # jsonargparse resolves it at run time
from ser_personal.corpus.csv_corpus import open_corpus
from ser_personal.data.dataset import samples_of
from ser_personal.encoder.base import weights_fingerprint
from ser_personal.errors import UserError
from ser_personal.recognition.bundle import CARD, ONNX, Bundle, check_belongs, check_free, write_bundle
from ser_personal.recognition.causal import CausalPLDC, CausalPosterior, calibrate_in_turn
from ser_personal.recognition.model_card import CardOptions, model_card
from ser_personal.recognition.profiles import SpeakerProfile
from ser_personal.recognition.recognizer import EmotionRecognizer, make_calibrator
from ser_personal.recognition.recordings import Recording
from ser_personal.scores import rows_by_speaker, score
from ser_personal.speakers.bank import SpeakerBank
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.unseen import Mean, Zero

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ser_personal.calibration.posterior import Fitted
    from ser_personal.corpus.base import Corpus
    from ser_personal.finetune.module import EmotionFineTuning
    from ser_personal.recognition.bundle import CalibrationName
    from ser_personal.recognition.causal import CausalCalibrator
    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.recognition.recognizer import Utterances
    from ser_personal.types import Utterance


def predict_validation(bundle: Bundle, corpus: Corpus, console: Console) -> PredictedSet:
    """Raw predictions of the validation set, in the order of utterance ids.

    Utterances longer than those of the training are left out: the recogniser would cut them, their labels can't be cut.

    Raises:
        UserError: the corpus has no validation speakers with labels, another label scale than the bank, or unusable
            audio.
    """
    if bundle.scale is not None and corpus.scale != bundle.scale:
        raise UserError(
            f"labels are on a scale of {corpus.scale}, the speaker bank's on {bundle.scale}",
            where="--corpus",
            remedy="Give the corpus that the model was trained on",
        )
    utterances = [
        utterance
        for utterance in corpus.splits.validation
        if utterance.speaker_id is not None
        and samples_of(utterance) <= bundle.max_samples
        and not all(np.isnan(label) for label in utterance.labels.values())
    ]
    recordings = [Recording(str(utterance.path), utterance.path, utterance.speaker_id) for utterance in utterances]
    heard: list[tuple[Utterance, Utterances]] = []
    for utterance, outcome in zip(utterances, EmotionRecognizer(bundle).raw(recordings), strict=True):
        if isinstance(outcome, UserError):
            console.print(f"left out of the validation: {outcome.where}: {outcome.what}", soft_wrap=True)
            continue
        heard.append((utterance, outcome))
    if not heard:
        raise UserError(
            "no labelled validation utterance of a known speaker",
            where="--corpus",
            remedy="Give the corpus that the model was trained on, or leave --corpus out: no intervals, no posterior",
        )
    return PredictedSet(
        predictions=np.concatenate([outcome.predictions for _, outcome in heard]),
        speaker_ids=tuple(utterance.speaker_id for utterance, _ in heard),
        pooled=np.concatenate([outcome.pooled for _, outcome in heard]),
        labels=np.array(
            [[utterance.labels.get(attribute, np.nan) for attribute in bundle.attributes] for utterance, _ in heard]
        ),
    )


FOLDS = 10

Candidates = dict["CalibrationName", "NDArray[np.float64]"]


def fit_posterior(bank: SpeakerBank, attributes: tuple[str, ...], heard: PredictedSet) -> Fitted:
    """Fit on all validation speakers.

    Raises:
        UserError: as by `PosteriorCalibrator.fit`.
    """
    calibrator = PosteriorCalibrator(bank, attributes)
    return calibrator.fit(heard.predictions, heard.speaker_ids, heard.pooled, heard.labels).fitted


def candidates(bundle: Bundle, bank: SpeakerBank | None, heard: PredictedSet) -> Candidates:
    """The validation set by each calibration that there is, each utterance by what its speaker has said so far.

    The posterior of a speaker is fitted without the speaker. It is no candidate where speakers are too few for that.

    Args:
        bundle: its bank and its settings of PLDC.
        bank: of single training speakers, which the posterior learns from.
        heard: the validation set, raw.
    """
    found: Candidates = {"none": heard.predictions}
    if bundle.bank is not None:
        found["pldc"] = causally(CausalPLDC(bundle.bank, bundle.attributes, bundle.pldc), heard)
    if bank is not None and can_leave_out(bank, bundle.attributes, heard):
        found["posterior"] = by_left_out_posteriors(bank, bundle.attributes, heard)
    return found


def can_leave_out(bank: SpeakerBank, attributes: tuple[str, ...], heard: PredictedSet) -> bool:
    """Whether enough validation speakers are left for the posterior wherever some are left out."""
    columns = [bank.attributes.index(attribute) for attribute in attributes]
    return bool((bank.count[:, columns] > 0).any(axis=0).all()) and all(
        all(
            len({others.speaker_ids[row] for row in np.flatnonzero(~np.isnan(column))}) >= MIN_SPEAKERS
            for column in others.labels.T
        )
        for others in (heard.part(~rows) for rows in _folds(heard))
    )


def best(
    candidates: Mapping[CalibrationName, NDArray[np.float64]], heard: PredictedSet, names: tuple[str, ...]
) -> CalibrationName:
    """The candidate that gains most over raw predictions in O-CCC and A-CCC together, `none` where none gains.

    Both are means over the attributes, neither may fall, and a gain of less than `PRICE` is none.
    """
    of_raw = mean_scores(candidates["none"], heard, names)
    chosen: CalibrationName = "none"
    greatest = PRICE
    for name, predictions in candidates.items():
        gain = np.nan_to_num(mean_scores(predictions, heard, names) - of_raw)
        if gain.sum() > greatest and (gain >= 0).all():
            chosen, greatest = name, float(gain.sum())
    return chosen


def mean_scores(
    predictions: NDArray[np.float64], heard: PredictedSet, attributes: tuple[str, ...]
) -> NDArray[np.float64]:
    """O-CCC and A-CCC, means over the attributes; NaN where undefined for one."""
    scores = score(predictions, heard.labels, heard.speaker_ids, attributes).values()
    means: NDArray[np.float64] = np.array([[one.overall_ccc, one.average_ccc] for one in scores]).mean(axis=0)
    return means


def causally(calibrator: CausalCalibrator, heard: PredictedSet) -> NDArray[np.float64]:
    """Calibrated predictions of a set, (utterances, attributes), in the order of its rows; all speakers are known."""
    calibrated = np.empty_like(heard.predictions)
    for rows in rows_by_speaker(heard.speaker_ids).values():
        nothing = SpeakerProfile.empty(heard.pooled.shape[1], heard.predictions.shape[1])
        calibrated[rows] = calibrate_in_turn(
            calibrator, heard.predictions[rows], heard.pooled[rows], nothing
        ).predictions
    return calibrated


def by_left_out_posteriors(bank: SpeakerBank, attributes: tuple[str, ...], heard: PredictedSet) -> NDArray[np.float64]:
    """The set causally by the posterior, (utterances, attributes), each speaker by one fitted without the speaker."""
    calibrator = PosteriorCalibrator(bank, attributes)
    calibrated = np.empty_like(heard.predictions)
    for rows in _folds(heard):
        others = heard.part(~rows)
        calibrator.fit(others.predictions, others.speaker_ids, others.pooled, others.labels)
        calibrated[rows] = causally(CausalPosterior(calibrator.fitted, attributes), heard.part(rows))
    return calibrated


def _folds(heard: PredictedSet) -> Iterator[NDArray[np.bool_]]:
    """Masks (utterances,) that hold each speaker once, a speaker a fold where they are few."""
    speakers = list(rows_by_speaker(heard.speaker_ids))
    folds = min(FOLDS, len(speakers))
    fold_of = {speaker: number % folds for number, speaker in enumerate(speakers)}
    for fold in range(folds):
        yield np.array([speaker is not None and fold_of[speaker] == fold for speaker in heard.speaker_ids])


def measure_intervals(
    heard: PredictedSet, calibrated: NDArray[np.float64] | None, attributes: tuple[str, ...], coverage: float
) -> ConformalTable:
    """Fit the table to the errors of a validation set.

    Args:
        heard: the set, raw, all of its speakers known.
        calibrated: (utterances, attributes), each utterance by what its speaker has said so far; None where a bundle
            calibrates nobody.
        attributes: names of the columns.
        coverage: of the intervals.
    """
    sets, behind = [heard.predictions], [np.zeros(len(heard.predictions), dtype=np.int64)]
    if calibrated is not None:
        sets.append(calibrated)
        behind.append(_said_so_far(heard))
    return ConformalTable.fit(
        np.concatenate(sets),
        np.concatenate([heard.labels] * len(sets)),
        heard.speaker_ids * len(sets),
        attributes,
        utterances=np.concatenate(behind),
        coverage=coverage,
    )


def describe_intervals(table: ConformalTable, speakers: int) -> str:
    """One line on what was measured, and what too few speakers come to."""
    measured = f"intervals of {table.coverage:.0%} measured on {speakers} validation speakers"
    if any(isinf(width) for widths in table.attributes.values() for width in widths.half_width):
        needed = speakers_needed(table.coverage)
        return f"{measured}; fewer than {needed} tell no width, so some are the whole label scale (--coverage)"
    return measured


def _said_so_far(heard: PredictedSet) -> NDArray[np.int64]:
    """How many utterances each one's speaker has said by then, (utterances,)."""
    said = np.empty(len(heard.speaker_ids), dtype=np.int64)
    for rows in rows_by_speaker(heard.speaker_ids).values():
        said[rows] = np.arange(1, len(rows) + 1)
    return said


def grouped_bank(bank: SpeakerBank, least: int, statistics: Statistics) -> SpeakerBank:
    """The bank of groups of similar speakers, by microaggregation (Domingo-Ferrer and Mateo-Sanz, 2002).

    A group's vector is its speakers' mean vector, its label statistics are what PLDC makes of its speakers as
    neighbours, and its count is all of their labels. An attribute that fewer than `least` of them have labels of counts
    as unlabelled. What is left is less than single speakers, and still made of biometric data: groups don't make anyone
    anonymous who is known by other means.

    Args:
        bank: of single speakers.
        least: speakers in each group, at least.
        statistics: of PLDC.

    Raises:
        UserError: there are fewer speakers than that.
    """
    if len(bank.speaker_ids) < least:
        raise UserError(
            f"holds {len(bank.speaker_ids)} speakers",
            where="speaker bank",
            remedy=f"Groups of {least} need as many: ask for smaller ones",
        )
    groups = similar_speakers(normalised(bank.vectors), least)
    columns = list(range(len(bank.attributes)))
    labelled = np.array([(bank.count[rows] > 0).sum(axis=0) >= least for rows in groups])
    moments = [label_statistics(bank, rows, columns, statistics) for rows in groups]
    return replace(
        bank,
        speaker_ids=tuple(f"group-{number:0{len(str(len(groups)))}}" for number in range(1, len(groups) + 1)),
        vectors=np.array([bank.vectors[rows].mean(axis=0) for rows in groups]),
        count=np.where(labelled, [bank.count[rows].sum(axis=0) for rows in groups], 0),
        label_mean=np.where(labelled, [mean for mean, _ in moments], np.nan),
        label_std=np.where(labelled, [std for _, std in moments], np.nan),
        fingerprint="",
    )


def similar_speakers(vectors: NDArray[np.float64], least: int) -> list[NDArray[np.int64]]:
    """Divide rows (speakers, dim) into groups of `least` to 2 `least` - 1, near ones together (MDAV).

    Whoever is farthest from the middle of those left makes a group with the nearest to them, and so does who is
    farthest from that one, until too few are left for two groups more.
    """
    left = np.arange(len(vectors))
    groups = []

    def take(center: NDArray[np.float64]) -> None:
        nonlocal left
        order = np.argsort(_distances(vectors[left], center), kind="stable")
        groups.append(np.sort(left[order[:least]]))
        left = np.sort(left[order[least:]])

    while len(left) >= 3 * least:
        far = vectors[left[np.argmax(_distances(vectors[left], vectors[left].mean(axis=0)))]]
        take(far)
        take(vectors[left[np.argmax(_distances(vectors[left], far))]])
    if len(left) >= 2 * least:
        take(vectors[left[np.argmax(_distances(vectors[left], vectors[left].mean(axis=0)))]])
    return [*groups, left]


def _distances(vectors: NDArray[np.float64], center: NDArray[np.float64]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = ((vectors - center) ** 2).sum(axis=1)
    return distances


Asked = Literal["auto", "pldc", "posterior", "none"]


def with_groups(bundle: Bundle, least: int) -> Bundle:
    """The bundle with groups of at least so many speakers in its bank, and so many fewer neighbours in PLDC.

    Raises:
        UserError: there are no two speakers to a group, or fewer speakers than a group takes.
    """
    if bundle.bank is None:
        return bundle
    if least < 2:
        raise UserError(f"{least} speakers are no group", where="--group_speakers", remedy="Give 2 or more")
    pldc = replace(bundle.pldc, k=max(1, round(bundle.pldc.k / least)))
    return replace(bundle, bank=grouped_bank(bundle.bank, least, pldc.statistics), pldc=pldc)


def unvalidated(bundle: Bundle, asked: Asked) -> Bundle:
    """The bundle with a calibration that nothing was measured for.

    Raises:
        UserError: it holds nothing for the calibration asked for.
    """
    if asked == "auto":
        return bundle
    make_calibrator(bundle, asked)
    return replace(bundle, calibration=asked)


def validated(
    bundle: Bundle, bank: SpeakerBank | None, heard: PredictedSet, asked: Asked, coverage: float, console: Console
) -> Bundle:
    """The bundle with a posterior, where one can be fitted, the calibration asked for, or the best, and its intervals.

    Args:
        bundle: without these.
        bank: of single training speakers, which the posterior learns from.
        heard: the validation set, raw, all of its speakers known.
        asked: which calibration.
        coverage: of the intervals.
        console: told what was found.

    Raises:
        UserError: what the calibration asked for needs isn't there.
    """
    found = candidates(bundle, bank, heard)
    speakers = len(set(heard.speaker_ids))
    if bank is not None and "posterior" in found:
        bundle = replace(bundle, posterior=fit_posterior(bank, bundle.attributes, heard))
    elif asked == "posterior" and bank is not None:
        raise UserError(
            f"can't be fitted on {speakers} validation speakers",
            where="the posterior",
            remedy=f"It takes {MIN_SPEAKERS + 1} with labels of every attribute; ask for pldc",
        )
    if asked != "auto":
        bundle = unvalidated(bundle, asked)
    elif bundle.bank is not None and speakers >= MIN_SPEAKERS:
        bundle = replace(bundle, calibration=best(found, heard, bundle.attributes))
    console.print(_described(bundle, found, heard, speakers), soft_wrap=True, highlight=False)
    calibrated = None if bundle.calibration == "none" else found.get(bundle.calibration)
    table = measure_intervals(heard, calibrated, bundle.attributes, coverage)
    console.print(describe_intervals(table, speakers), soft_wrap=True, highlight=False)
    return replace(bundle, conformal=table)


def _described(bundle: Bundle, found: Candidates, heard: PredictedSet, speakers: int) -> str:
    scores = {name: mean_scores(predictions, heard, bundle.attributes) for name, predictions in found.items()}
    listed = "; ".join(f"{name} {points(overall)} and {points(average)}" for name, (overall, average) in scores.items())
    return (
        f"calibration {bundle.calibration}; O-CCC and A-CCC of {speakers} validation speakers heard one by one, means "
        f"of the attributes: {listed}"
    )


def anonymised_bank(bank: SpeakerBank, rng: np.random.Generator) -> SpeakerBank:
    """The bank under new ids in a new order, so that not even the order of the old ones is left.

    Vectors and label statistics stay, for calibration needs them.
    """
    order = rng.permutation(len(bank.speaker_ids))
    width = len(str(len(order)))
    return replace(
        bank,
        speaker_ids=tuple(f"speaker-{row:0{width}}" for row in range(1, len(order) + 1)),
        vectors=bank.vectors[order],
        count=bank.count[order],
        label_mean=bank.label_mean[order],
        label_std=bank.label_std[order],
        fingerprint="",
    )


def anonymised_network(network: EmotionNetwork) -> EmotionNetwork:
    """The network with one row in its speaker table, the mean of all: what unseen speakers get stays the same.

    Raises:
        UserError: the model knows no other than its training speakers.
    """
    speakers = network.personalized.speakers
    if not isinstance(speakers, SpeakerEmbedding):
        anonymous = deepcopy(network)
        anonymous.personalized.speakers.ids = []
        return anonymous
    if speakers.embedding is None:
        return network
    if not isinstance(speakers.unseen, Mean | Zero):
        raise UserError(
            f"needs its training speakers, for its policy for unseen ones is {type(speakers.unseen).__name__}",
            where="--anonymise",
            remedy="Train with --model.speakers.unseen Mean or Zero",
        )
    anonymous = deepcopy(network)
    table = cast("SpeakerEmbedding", anonymous.personalized.speakers)
    with torch.no_grad():
        mean = speakers.embedding.weight.mean(0, keepdim=True)
        table.ids = ["anyone"]
        table.embedding = torch.nn.Embedding.from_pretrained(mean)
    return anonymous


MAX_SAMPLES = 250_000


def export(
    checkpoint: str,
    out: str,
    bank: str | None = None,
    corpus: Corpus | str | None = None,
    run: str | None = None,
    calibration: Asked = "auto",
    group_speakers: int | None = None,
    card: CardOptions = CardOptions(),  # noqa: B008  frozen
    *,
    coverage: float = 0.9,
    onnx: bool = False,
    anonymise: bool = False,
) -> None:
    """Write a bundle: weights, config, speaker bank, posterior, intervals and a model card, for EmotionRecognizer.

    Args:
        checkpoint: a fine-tuned one, such as finetune.ckpt.
        out: a new or empty folder.
        bank: the speaker bank; the one that `ser test` wrote beside the checkpoint if None.
        corpus: what the model was trained on; on its validation speakers the posterior is fitted, calibration chosen
            and intervals are measured, all of which is left out without it.
        run: folder of the test run whose metrics.json fills the card; the newest beside the checkpoint if None.
        calibration: what speakers get unless another is asked for: `pldc`, `posterior`, `none`, or `auto`: what gains
            most on the validation speakers, heard one by one, and pldc without --corpus or with too few of them.
        group_speakers: put groups of at least so many similar training speakers in their place, anonymised.
        card: what the model card can't know by itself.
        coverage: of the intervals.
        onnx: write model.onnx besides, encoder and interpreter, for speakers outside the embedding table.
        anonymise: new names for the training speakers, and none of their embeddings; vectors in the bank stay what
            they are, biometric data.

    Raises:
        UserError: the checkpoint isn't a fine-tuned one, the bank or the run isn't of it, `out` isn't empty, or what is
            to calibrate isn't there.
    """
    folder, console = Path(out), Console()
    check_free(folder)
    if onnx:
        from ser_personal.recognition.onnx_export import check_installed

        check_installed()
    module = load_finetuned(checkpoint)
    _check_reads_audio(module, checkpoint, onnx=onnx)
    speaker_bank = _find_bank(checkpoint, bank)
    metrics = _find_metrics(checkpoint, run, speaker_bank)
    bundle = _bundle(module, speaker_bank, metrics, where=bank or checkpoint)
    embedded = len(bundle.network.personalized.speakers.ids)
    if speaker_bank is None:
        console.print("no speaker bank: predictions of this bundle can't be calibrated (--bank)", soft_wrap=True)
    elif group_speakers is not None:
        bundle = with_groups(bundle, group_speakers)
    if corpus is None:
        console.print("no intervals: they are measured on a corpus's validation speakers (--corpus)", soft_wrap=True)
        bundle = unvalidated(bundle, calibration)
    else:
        corpus = open_corpus(corpus)
        bundle = replace(bundle, scale=bundle.scale or corpus.scale)
        heard = predict_validation(bundle, corpus, console)
        bundle = validated(bundle, speaker_bank, heard, calibration, coverage, console)
    if anonymise or group_speakers is not None:
        bundle = _anonymise(bundle)
    text = model_card(
        bundle,
        card,
        metrics,
        module.hparams,
        embedded_speakers=embedded,
        training_speakers=0 if speaker_bank is None else len(speaker_bank.speaker_ids),
    )

    def finish(temporary: Path) -> None:
        (temporary / CARD).write_text(text, encoding="utf-8")
        if onnx:
            from ser_personal.recognition.onnx_export import write_onnx

            apart = write_onnx(bundle.network, temporary / ONNX)
            console.print(f"{ONNX}: onnxruntime's outputs differ by {apart:.0e} at most", highlight=False)

    write_bundle(bundle, folder, finish)
    console.print(f"written: {folder}", soft_wrap=True, highlight=False)


def load_finetuned(checkpoint: str) -> EmotionFineTuning:
    """Load a fine-tuned checkpoint.

    Raises:
        UserError: it is missing, damaged, or of another stage.
    """
    from ser_personal.encoder.module import read_checkpoint, using
    from ser_personal.finetune.module import EmotionFineTuning

    read = read_checkpoint(checkpoint)
    if "emotions" in read["hyper_parameters"]:
        raise UserError(
            "predicts categorical emotion, bundles hold models of emotion attributes alone",
            where=checkpoint,
            remedy="Use it by `ser predict --config configs/emotion.yaml`, or give one of configs/finetune.yaml",
        )
    if not any(name.startswith("interpreter.") for name in read["state_dict"]):
        raise UserError(
            "isn't fine-tuned for emotion",
            where=checkpoint,
            remedy="Give one written by `ser fit --config configs/finetune.yaml`",
        )
    with using(checkpoint):
        module = EmotionFineTuning.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    return module.eval()


def _check_reads_audio(module: EmotionFineTuning, checkpoint: str, *, onnx: bool) -> None:
    from ser_personal.encoder.cached import CachedFeatures
    from ser_personal.encoder.hubert import HubertEncoder

    encoder = module.personalized.encoder
    if isinstance(encoder, CachedFeatures) and encoder.source is not None:
        raise UserError(
            f"reads cached features of {encoder.source.encoder}, a bundle's model reads audio",
            where=checkpoint,
            remedy="Fine-tune on audio with that encoder, frozen, to share the model",
        )
    if onnx and not isinstance(encoder, HubertEncoder):
        what = f"{type(encoder).__name__} can't be written as ONNX"
        raise UserError(what, where="--onnx", remedy="Leave --onnx out")


def _bundle(
    module: EmotionFineTuning, bank: SpeakerBank | None, metrics: dict[str, Any] | None, where: object
) -> Bundle:
    from ser_personal.recognition.network import EmotionNetwork

    network = EmotionNetwork(module.personalized, module.interpreter).eval()
    bundle = Bundle(
        network=network,
        model=weights_fingerprint(network.state_dict()),
        attributes=tuple(module.attributes),
        scale=None if bank is None else bank.scale,
        max_samples=MAX_SAMPLES,
        pldc=PLDCSettings(**metrics["pldc"]) if metrics else PLDCSettings(),
        bank=bank,
    )
    check_belongs(bundle, where)
    return bundle


def _find_bank(checkpoint: str, given: str | None) -> SpeakerBank | None:
    if given is not None:
        return SpeakerBank.load(given)
    beside = Path(checkpoint).with_suffix(".speaker_bank.safetensors")
    return SpeakerBank.load(beside) if beside.is_file() else None


def _find_metrics(checkpoint: str, run: str | None, bank: SpeakerBank | None) -> dict[str, Any] | None:
    """The metrics.json of a test of this checkpoint; None where there is none."""
    if run is not None:
        metrics = _read_metrics(Path(run) / "metrics.json")
        if bank is not None and metrics["model"] != bank.fingerprint:
            raise UserError(
                "is a test of another checkpoint than the speaker bank's",
                where=run,
                remedy="Give the run whose `ser test` wrote the bank",
            )
        return metrics
    if bank is None or not bank.fingerprint:
        return None
    found = sorted(Path(checkpoint).parent.rglob("metrics.json"), key=lambda path: path.stat().st_mtime_ns)
    # a test of categorical emotion names no bank's model
    tests = [metrics for metrics in map(_read_json, found) if metrics.get("model") == bank.fingerprint]
    return tests[-1] if tests else None


def _read_metrics(path: Path) -> dict[str, Any]:
    metrics = _read_json(path)
    if not {"model", "splits", "pldc"} <= metrics.keys():
        raise _no_test(path)
    return metrics


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("no metrics.json to read", where=path, remedy="Give the folder of a `ser test` run") from error
    if not isinstance(content, dict):
        raise _no_test(path)
    return content


def _no_test(path: Path) -> UserError:
    return UserError(
        "isn't the metrics.json of a test with PLDC", where=path, remedy="Give the folder of a `ser test` run with PLDC"
    )


def _anonymise(bundle: Bundle) -> Bundle:
    network = anonymised_network(bundle.network)
    bank = None if bundle.bank is None else anonymised_bank(bundle.bank, np.random.default_rng())
    return replace(bundle, network=network, model=weights_fingerprint(network.state_dict()), bank=bank)
