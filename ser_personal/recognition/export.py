"""`ser export`: a fine-tuned checkpoint -> a bundle, with what its runs tell of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from ser_personal.corpus.base import Corpus  # jsonargparse resolves it at run time
from ser_personal.corpus.resolve import open_corpus
from ser_personal.errors import UserError
from ser_personal.recognition.anonymise import anonymised_bank, anonymised_network
from ser_personal.recognition.bundle import CARD, ONNX, Bundle, weights_name
from ser_personal.recognition.bundle_check import check_belongs
from ser_personal.recognition.bundle_writer import check_free, write_bundle
from ser_personal.recognition.calibrated_bundle import Asked, unvalidated, validated, with_groups
from ser_personal.recognition.causal import PLDCSettings
from ser_personal.recognition.model_card import CardOptions, model_card
from ser_personal.recognition.validation import predict_validation
from ser_personal.speakers.bank import SpeakerBank

if TYPE_CHECKING:
    from ser_personal.finetune.module import EmotionFineTuning

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
    from ser_personal.encoder.checkpoint import read_checkpoint, using
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
        model=weights_name(network),
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
    return replace(bundle, network=network, model=weights_name(network), bank=bank)
