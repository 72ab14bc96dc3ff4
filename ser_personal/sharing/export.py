"""`ser export`: a fine-tuned checkpoint -> a bundle, calibrated and measured on validation speakers."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Console

from ser_personal.audio import decode_utterance
from ser_personal.calibration.conformal import ConformalTable
from ser_personal.calibration.few_labels import LabelPrior
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.calibration.posterior import PosteriorCalibrator
from ser_personal.calibration.table import PredictedSet, decimal
from ser_personal.corpus.base import Corpus
from ser_personal.corpus.csv_corpus import open_corpus
from ser_personal.data.dataset import samples_of
from ser_personal.encoder.base import weights_fingerprint
from ser_personal.errors import UserError
from ser_personal.files import check_empty, is_hub_name
from ser_personal.recognition.bundle import CARD, ONNX, Bundle, CalibrationName, new_folder, write_bundle
from ser_personal.recognition.bundle import push as push_bundle
from ser_personal.recognition.causal import CausalPLDC, calibrate_causally, left_out_posteriors, make_calibrator
from ser_personal.recognition.network import EmotionNetwork, check_onnx_installed, write_onnx
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.recognition.recordings import Recording
from ser_personal.scores import Moments, Values, rows_by_speaker, score
from ser_personal.sharing.anonymise import anonymised, grouped_bank
from ser_personal.sharing.model_card import IMPORTED, CardOptions, model_card
from ser_personal.speakers.bank import SpeakerBank
from ser_personal.types import AtLeastTwo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.finetune.module import FineTuning
    from ser_personal.recognition.raw import PredictedUtterance
    from ser_personal.types import Utterance

DEFAULT_MAX_SAMPLES = 250_000
# the datamodule's max_samples in training
MAX_SAMPLES_KEY = "max_trained_samples"


def export(
    checkpoint: str,
    out: str,
    corpus: Corpus | str | None = None,
    calibration: CalibrationName | None = None,
    group_speakers: AtLeastTwo | None = None,
    card: CardOptions = CardOptions(),  # noqa: B008  frozen
    push: str | None = None,
    bank: str | None = None,
    *,
    public: bool = False,
    single_speakers: bool = False,
    onnx: bool = False,
    anonymise: bool = False,
) -> None:
    """Write a bundle: weights, config, speaker bank, posterior, intervals and a model card, for EmotionRecognizer.

    The card's results are those of `ser test` that lie beside the checkpoint or the bank. The bundle of a model of
    categories (configs/emotion.yaml) gives probabilities, uncalibrated.

    Args:
        checkpoint: a fine-tuned one, such as finetune.ckpt or emotion.ckpt.
        out: a new or empty folder.
        corpus: what the model was trained on; on its validation speakers the posterior is fitted, calibrations are
            compared and intervals of 90 % are measured, none of which is done without it.
        calibration: the bundle's default, `pldc`, `posterior` or `none`; if None, pldc where there is a speaker bank,
            else none. With --corpus the scores of each on the validation speakers are printed.
        group_speakers: replace the training speakers by groups of at least so many similar ones, anonymised.
        card: what the model card can't know by itself.
        push: owner/name on the Hugging Face hub to put the bundle under as well, with the token of `hf auth login` or
            HF_TOKEN; a private repository.
        bank: the speaker bank; the one that `ser test` with PLDC wrote beside the checkpoint if None.
        public: make it a public one.
        single_speakers: let a public bundle hold voice vectors or embeddings of single training speakers.
        onnx: write model.onnx as well, encoder and interpreter, for speakers outside the embedding table.
        anonymise: new names for the training speakers, and none of their embeddings; vectors in the bank stay what
            they are, biometric data.
    """
    folder, console = Path(out), Console(highlight=False, soft_wrap=True)
    check_empty(folder)
    if push is not None and not is_hub_name(push):
        raise UserError(f"{push} isn't a name on the hub", where="--push", remedy="Give owner/name")
    if public and push is None:
        raise UserError("is for the hub", where="--public", remedy="Add --push owner/name, or leave it out")
    if onnx:
        check_onnx_installed()
    module = load_finetuned(checkpoint)
    _check_reads_audio(module, checkpoint, onnx=onnx)
    of_attributes = [bank, corpus, group_speakers, None if calibration == "none" else calibration]
    if module.emotions and any(given is not None for given in of_attributes):
        remedy = "Leave --bank, --corpus, --calibration and --group_speakers out"
        raise UserError("predicts categories, which aren't calibrated", where=checkpoint, remedy=remedy)
    speaker_bank = None if module.emotions else _find_bank(checkpoint, bank, module.personalized.fingerprint())
    if public and group_speakers is None and not single_speakers:
        _refuse_single_speakers(speaker_bank, [] if anonymise else module.personalized.speakers.ids)
    # of a model whose adapters aren't merged
    tested = module.fingerprint() if speaker_bank is None else speaker_bank.fingerprint
    metrics = _find_metrics({checkpoint, bank or checkpoint}, tested)
    settings = {} if metrics is None or speaker_bank is None else metrics["pldc"]
    bundle = replace(uncalibrated(module, speaker_bank), pldc=PLDCSettings(**settings))
    embedded_speakers = len(bundle.network.personalized.speakers.ids)
    if bundle.bank is not None and group_speakers is not None:
        pldc = replace(bundle.pldc, k=max(1, round(bundle.pldc.k / group_speakers)))
        bundle = replace(bundle, bank=grouped_bank(bundle.bank, group_speakers, pldc), pldc=pldc)
    measured = ""
    if corpus is not None:
        bundle, measured = _validated(bundle, speaker_bank, open_corpus(corpus), calibration, console)
    elif bundle.emotions:
        console.print(f"probabilities of {', '.join(bundle.emotions)}, uncalibrated")
    else:
        bundle = _with_default(bundle, calibration, console)
        console.print("no intervals: they are measured on a corpus's validation speakers (--corpus)")
    if anonymise or group_speakers is not None:
        bundle = anonymised(bundle)
    text = model_card(
        bundle,
        card,
        metrics,
        module.hparams,
        embedded_speakers=embedded_speakers,
        training_speakers=0 if speaker_bank is None else len(speaker_bank.speaker_ids),
        measured=measured,
        place=push or "FOLDER",
    )
    with new_folder(folder) as temporary:
        write_bundle(bundle, temporary)
        (temporary / CARD).write_text(text, encoding="utf-8")
        if onnx:
            error = write_onnx(bundle.network, temporary / ONNX)
            console.print(f"{ONNX}: onnxruntime's outputs differ by {error:.0e} at most")
    console.print(f"written: {folder}")
    if push is not None:
        console.print(f"{'public' if public else 'private'}: {push_bundle(folder, push, public=public)}")


def _validated(
    bundle: Bundle, bank: SpeakerBank | None, corpus: Corpus, calibration: CalibrationName | None, console: Console
) -> tuple[Bundle, str]:
    """The bundle with what is fitted and measured on validation speakers, and how each calibration scored on them."""
    bundle = replace(bundle, scale=bundle.scale or corpus.scale)
    if bank is not None:
        _refuse_other_training_set(bank, corpus)
    validation = predict_validation(bundle, corpus, console)
    predicted, speaker_ids, attributes = validation.predictions, validation.speaker_ids, bundle.attributes
    # each utterance by what its speaker has said so far, and by the speaker's line
    calibrated = {"none": (predicted, predicted)}
    if bundle.bank is not None:
        calibrated["pldc"] = calibrate_causally(CausalPLDC(bundle.bank, attributes, bundle.pldc), validation)
    if bank is not None:
        # of single speakers, where the bundle's bank may be of groups
        try:
            calibrated["posterior"] = left_out_posteriors(bank, attributes, validation)
            posterior = PosteriorCalibrator(bank, attributes)
            posterior.fit(predicted, speaker_ids, validation.pooled, validation.labels)
            bundle = replace(bundle, posterior=posterior.fitted)
        except UserError:
            if calibration == "posterior":
                raise
    measured = []
    for name, (causal, _) in calibrated.items():
        scores = score(causal, validation.labels, speaker_ids, attributes).values()
        overall, average = np.array([[one.overall_ccc, one.average_ccc] for one in scores]).mean(axis=0)
        measured.append(f"{name} {decimal(overall)} and {decimal(average)}")
    speakers = len(set(speaker_ids))
    line = (
        f"O-CCC and A-CCC, means of the attributes, over {speakers} validation speakers, each utterance calibrated by "
        f"what its speaker has said so far: {'; '.join(measured)}"
    )
    console.print(line)
    bundle = _with_default(bundle, calibration, console)
    priors = {
        name: {
            attribute: LabelPrior.fit(values, labels, speaker_ids, bundle.scale)
            for attribute, values, labels in zip(attributes, by_line.T, validation.labels.T, strict=True)
        }
        for name, (_, by_line) in calibrated.items()
    }
    intervals = _measure_intervals(validation, calibrated[bundle.calibration][0], bundle)
    console.print(f"intervals of about {intervals.coverage:.0%} measured on {speakers} validation speakers")
    return replace(bundle, conformal=intervals, label_priors=priors), line


def _measure_intervals(validation: PredictedSet, calibrated: Values, bundle: Bundle) -> ConformalTable:
    """Fit the table to the errors of a validation set, raw and, where they differ, calibrated by the bundle."""
    speakers = pd.Series(validation.speaker_ids)
    said = (speakers.groupby(speakers).cumcount() + 1).to_numpy()
    sets, utterances = [validation.predictions], [0 * said]
    if bundle.calibration != "none":
        sets.append(calibrated)
        utterances.append(said)
    return ConformalTable.fit(
        np.concatenate(sets),
        np.concatenate([validation.labels] * len(sets)),
        validation.speaker_ids * len(sets),
        bundle.attributes,
        utterances=np.concatenate(utterances),
    )


def _with_default(bundle: Bundle, name: CalibrationName | None, console: Console) -> Bundle:
    chosen = name or ("none" if bundle.bank is None else "pldc")
    make_calibrator(bundle, chosen)
    lacking = ": no speaker bank lies beside the checkpoint, where `ser test` writes it (--bank)"
    console.print(f"calibration {chosen}{lacking if bundle.bank is None else ''}")
    return replace(bundle, calibration=chosen)


def load_finetuned(checkpoint: str) -> FineTuning:
    """Load a checkpoint of `configs/finetune.yaml` or `configs/emotion.yaml`."""
    from ser_personal.encoder import hubert, raw, whisper
    from ser_personal.encoder.module import DESCRIPTION, naming_checkpoint, read_checkpoint
    from ser_personal.finetune.classification import EmotionClassification
    from ser_personal.finetune.module import EmotionFineTuning

    read = read_checkpoint(checkpoint)
    if not any(name.startswith("interpreter.") for name in read["state_dict"]):
        remedy = "Give one written by `ser fit --config configs/finetune.yaml`, or emotion.yaml"
        raise UserError("isn't fine-tuned for emotion", where=checkpoint, remedy=remedy)
    if not any(hasattr(module, encoder := read[DESCRIPTION]["encoder"]) for module in (hubert, raw, whisper)):
        what = f"encodes by {encoder}, a custom encoder, which bundles don't support"
        raise UserError(what, where=checkpoint, remedy="Use it by `ser predict`, or export one with HubertEncoder")
    kind = EmotionClassification if "emotions" in read["hyper_parameters"] else EmotionFineTuning
    with naming_checkpoint(checkpoint):
        module: FineTuning = kind.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    module.hparams[IMPORTED] = read.get(IMPORTED)
    # Lightning keeps a datamodule's state under the name of its class, which may be the user's own
    data = next((state for state in read.values() if isinstance(state, dict) and "train_speakers" in state), {})
    module.hparams[MAX_SAMPLES_KEY] = data.get("max_samples")
    return module.eval()


def _check_reads_audio(module: FineTuning, checkpoint: str, *, onnx: bool) -> None:
    from ser_personal.encoder.hubert import HubertEncoder
    from ser_personal.encoder.raw import CachedFeatures

    encoder = module.personalized.encoder
    if isinstance(encoder, CachedFeatures):
        what = f"reads cached features of {encoder.source.encoder}, a bundle's model reads audio"
        remedy = "Fine-tune on audio with that encoder, frozen, to share the model"
        raise UserError(what, where=checkpoint, remedy=remedy)
    speakers = module.personalized.speakers
    if speakers.ids and speakers.feature_dim:
        what = f"reads speaker features ({type(speakers).__name__}), which new recordings don't come with"
        remedy = "Fine-tune with --model.fusion none, or --model.speakers SpeakerEmbedding, to share the model"
        raise UserError(what, where=checkpoint, remedy=remedy)
    if onnx and not isinstance(encoder, HubertEncoder):
        what = f"{type(encoder).__name__} can't be written as ONNX"
        raise UserError(what, where="--onnx", remedy="Leave --onnx out")


def uncalibrated(
    module: FineTuning, bank: SpeakerBank | None = None, scale: tuple[float, float] | None = None
) -> Bundle:
    """A bundle without a default calibration, on the bank's label scale; adapters are merged into the weights."""
    module.personalized.encoder.merge_adapters()
    network = EmotionNetwork(module.personalized, module.interpreter, classifies=bool(module.emotions)).eval()
    # what it was trained on, which the checkpoint's datamodule says, and takes
    trained = module.hparams.get(MAX_SAMPLES_KEY) or DEFAULT_MAX_SAMPLES
    return Bundle(
        network=network,
        model=weights_fingerprint(network.state_dict()),
        attributes=tuple(module.attributes),
        scale=scale if bank is None else bank.scale,
        max_samples=min(getattr(module.personalized.encoder, "max_samples", None) or trained, trained),
        pldc=PLDCSettings(),
        bank=bank,
        calibration="none",
        emotions=tuple(module.emotions),
    )


def _refuse_single_speakers(bank: SpeakerBank | None, embedded: Sequence[str]) -> None:
    if bank is not None or embedded:
        instead = "--anonymise" if bank is None else "--group_speakers 5"
        what = f"would publish {'embeddings' if bank is None else 'voice vectors'} of single speakers, biometric data"
        remedy = f"Add {instead}, or --single_speakers if they all agreed to it"
        raise UserError(what, where="--public", remedy=remedy)


def _find_bank(checkpoint: str, named: str | None, model: str) -> SpeakerBank | None:
    path = Path(named or Path(checkpoint).with_suffix(".speaker_bank.safetensors"))
    if named is None and not path.is_file():
        return None
    bank = SpeakerBank.load(path)
    if bank.fingerprint.rpartition("-")[2] != model:
        what = f"was made by another model than {checkpoint}, or with other settings of it"
        remedy = "Run `ser test` with configs/pldc.yaml and no --model flags, which builds the bank beside it again"
        raise UserError(what, where=path, remedy=remedy)
    return bank


def _refuse_other_training_set(bank: SpeakerBank, corpus: Corpus) -> None:
    # by labels alone: training audio may be gone
    training = [each for each in corpus.splits.train if not all(map(np.isnan, each.labels.values()))]
    rows_of = rows_by_speaker([utterance.speaker_id for utterance in training])
    labels = np.array([[each.labels.get(name, np.nan) for name in bank.attributes] for each in training])
    found = Moments.by_speaker(labels, rows_of)
    same = tuple(rows_of) == bank.speaker_ids and np.array_equal(found.count, bank.count)
    if not same or not np.allclose(found.mean, np.nan_to_num(bank.label_mean), atol=1e-4):
        what = "has other training speakers or labels than the speaker bank, which is of the latest test"
        remedy = "Run `ser test` with configs/pldc.yaml on this corpus, which builds the bank again, or give the bank's"
        raise UserError(what, where="--corpus", remedy=remedy)


def _find_metrics(beside: set[str], model: str) -> dict[str, Any] | None:
    tests = []
    for path in chain.from_iterable(Path(file).parent.rglob("metrics.json") for file in beside):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"isn't JSON ({error})", where=path, remedy="Delete it, and test again") from error
        if isinstance(content, dict) and content.get("model") == model:
            tests.append((path.stat().st_mtime_ns, content))
    return max(tests, key=itemgetter(0))[1] if tests else None


def predict_validation(bundle: Bundle, corpus: Corpus, console: Console) -> PredictedSet:
    """Raw predictions of the validation set, in the order of utterance ids.

    Utterances longer than `max_samples` are left out: the recogniser would cut them, their labels can't be cut.
    """
    if bundle.scale is not None and corpus.scale != bundle.scale:
        (low, high), (bank_low, bank_high) = corpus.scale, bundle.scale
        what = f"labels are on a scale of {low:g} to {high:g}, the speaker bank's on {bank_low:g} to {bank_high:g}"
        remedy = "Give the corpus that the model was trained on, with its --corpus.scale"
        raise UserError(what, where="--corpus", remedy=remedy)
    utterances = [
        utterance
        for utterance in corpus.splits.validation
        if utterance.speaker_id is not None
        and samples_of(utterance) <= bundle.max_samples
        and not all(np.isnan(label) for label in utterance.labels.values())
    ]
    recordings = (
        Recording(str(each.path), each.path if each.start is None else decode_utterance(each), each.speaker_id)
        for each in utterances
    )
    predicted: list[tuple[Utterance, PredictedUtterance]] = []
    for utterance, outcome in zip(utterances, EmotionRecognizer(bundle).raw(recordings), strict=True):
        if isinstance(outcome, UserError):
            console.print(f"left out of the validation: {outcome.where}: {outcome.what}", markup=False)
        else:
            predicted += [(utterance, one) for one in outcome.utterances]
    if not predicted:
        remedy = "Give the corpus that the model was trained on, or leave --corpus out: no intervals, no posterior"
        raise UserError("no labelled validation utterance of a known speaker", where="--corpus", remedy=remedy)
    return PredictedSet(
        predictions=np.array([one.prediction for _, one in predicted]),
        speaker_ids=tuple(utterance.speaker_id for utterance, _ in predicted),
        pooled=np.array([one.pooled for _, one in predicted]),
        labels=np.array(
            [[utterance.labels.get(attribute, np.nan) for attribute in bundle.attributes] for utterance, _ in predicted]
        ),
    )
