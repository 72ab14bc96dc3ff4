"""Bundles: a trained model as a folder that can be shared, without pickle."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal, cast

from ser_personal.calibration.conformal import ConformalTable
from ser_personal.calibration.few_labels import LabelPrior
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.calibration.posterior import load_posterior, save_posterior
from ser_personal.errors import UserError, require_one_of
from ser_personal.files import check_empty, content_hash, is_hub_name, sync_folder
from ser_personal.speakers.bank import SpeakerBank

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ser_personal.calibration.posterior import Fitted
    from ser_personal.encoder.personalized import EncoderDescription
    from ser_personal.recognition.network import EmotionNetwork

FORMAT = "ser_personal.bundle"
FORMAT_VERSION = 3
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
BANK = "speaker_bank.safetensors"
POSTERIOR = "posterior.json"
CONFORMAL = "conformal.json"
CARD = "README.md"
ONNX = "model.onnx"
# what config.json names by its content, so that no file of another bundle passes for it
HASHED = (WEIGHTS, BANK, POSTERIOR, CONFORMAL)
FILES = (CONFIG, *HASHED, CARD)
_REMEDY = "Give a folder that `ser export` wrote"

CalibrationName = Literal["pldc", "posterior", "none"]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained model and what its predictions are calibrated and judged by.

    Attributes:
        model: fingerprint of the network's weights.
        attributes: what it predicts, in the order of its outputs; none where it predicts emotions.
        scale: least and greatest label, None where unknown.
        max_samples: the longest utterance that it was trained on, in samples.
        bank: the training speakers, or groups of them; None where PLDC can't calibrate.
        calibration: the default one.
        conformal: half-widths of intervals around predictions calibrated so; None where they weren't measured.
        label_priors: calibration -> attribute -> what it leaves to a speaker's own labels; empty where not measured.
        emotions: categories whose probabilities it predicts instead of attributes, in the order of its outputs.
    """

    network: EmotionNetwork
    model: str
    attributes: tuple[str, ...]
    scale: tuple[float, float] | None
    max_samples: int
    pldc: PLDCSettings
    bank: SpeakerBank | None = None
    posterior: Fitted | None = None
    calibration: CalibrationName = "pldc"
    conformal: ConformalTable | None = None
    label_priors: Mapping[str, Mapping[str, LabelPrior]] = field(default_factory=dict)
    emotions: tuple[str, ...] = ()


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle whose files are complete, of this format and of each other."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"can't be read ({error})", where=folder / CONFIG, remedy=_REMEDY) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError("isn't a bundle of ser_personal", where=folder, remedy=_REMEDY)
    if config.get("format_version") != FORMAT_VERSION:
        what = f"bundle of format {config.get('format_version')}; this version reads format {FORMAT_VERSION}"
        raise UserError(what, where=folder, remedy="Export it again, or update ser_personal")
    held = {name: folder / name for name in HASHED if (folder / name).is_file()}
    try:
        for name in HASHED:
            if (content_hash(held[name]) if name in held else None) != config["files"].get(name):
                what = "isn't the file that the bundle was written with"
                raise UserError(what, where=folder / name, remedy=_REMEDY)
        bundle = Bundle(
            network=_read_network(folder, config),
            model=config["model"],
            attributes=tuple(config["attributes"]),
            scale=None if config["scale"] is None else (config["scale"][0], config["scale"][1]),
            max_samples=config["max_samples"],
            pldc=PLDCSettings(**config["pldc"]),
            bank=SpeakerBank.load(held[BANK]) if BANK in held else None,
            posterior=load_posterior(held[POSTERIOR]) if POSTERIOR in held else None,
            calibration=config["calibration"],
            conformal=ConformalTable.load(held[CONFORMAL]) if CONFORMAL in held else None,
            label_priors={
                calibration: {attribute: LabelPrior(**prior) for attribute, prior in priors.items()}
                for calibration, priors in config["label_priors"].items()
            },
            emotions=tuple(config["emotions"]),
        )
    except (AttributeError, KeyError, TypeError, IndexError, ImportError) as error:
        raise UserError(f"lacks or misspells {error}", where=folder / CONFIG, remedy=_REMEDY) from error
    require_one_of(f"calibration in {folder / CONFIG}", bundle.calibration, CalibrationName)
    return bundle


def _read_network(folder: Path, config: dict[str, Any]) -> EmotionNetwork:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ser_personal.encoder.module import make_part
    from ser_personal.encoder.personalized import PersonalizedEncoder, saved_encoder
    from ser_personal.finetune.interpreters import Interpreter
    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.speakers.embedding import SpeakerRepresentation

    described = config["personalized_encoder"]
    description = cast("EncoderDescription", {**described, "encoder_config": json.dumps(described["encoder_config"])})
    speakers = make_part(config["speakers"], SpeakerRepresentation, folder / CONFIG)  # type: ignore[type-abstract]
    unbuilt = saved_encoder(description["encoder_config"])
    encoder = PersonalizedEncoder(unbuilt, speakers, description["fusion"])
    encoder.rebuild(description)
    interpreter = make_part(config["interpreter"], Interpreter, folder / CONFIG)  # type: ignore[type-abstract]
    emotions = config["emotions"]
    interpreter.build(encoder.dim, len(emotions or config["attributes"]))
    network = EmotionNetwork(encoder, interpreter, classifies=bool(emotions))
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"can't be loaded ({reason})", where=folder / WEIGHTS, remedy=_REMEDY) from error
    return network.eval()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder`, a new or empty one, at the end: all of it or nothing."""
    check_empty(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        sync_folder(temporary)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle but for its card into a folder, such as a `new_folder`, made where there is none."""
    from safetensors.torch import save_file

    from ser_personal.encoder.module import describe_part

    # without the hashes of utterances that it was pre-trained on, which would tell whose they were
    description = bundle.network.personalized.describe() | {"pretrained_on": ""}
    settings = ("model", "attributes", "emotions", "scale", "max_samples", "calibration", "pldc", "label_priors")
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **{name: getattr(bundle, name) for name in settings},
        "interpreter": describe_part(bundle.network.interpreter),
        "speakers": describe_part(bundle.network.personalized.speakers),
        "personalized_encoder": {**description, "encoder_config": json.loads(description["encoder_config"])},
    }
    folder.mkdir(exist_ok=True)
    weights = {name: weight.cpu().contiguous().clone() for name, weight in bundle.network.state_dict().items()}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    if bundle.bank is not None:
        bundle.bank.save(folder / BANK)
    if bundle.posterior is not None:
        save_posterior(bundle.posterior, folder / POSTERIOR)
    if bundle.conformal is not None:
        bundle.conformal.save(folder / CONFORMAL)
    content["files"] = {name: content_hash(folder / name) for name in HASHED if (folder / name).exists()}
    text = json.dumps(content, indent=2, ensure_ascii=False, default=vars)
    (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")
    # safetensors makes its files readable by their owner alone
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)


def find_bundle(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a bundle, downloaded where `name` is one of the Hugging Face hub."""
    folder = Path(name)
    if folder.exists():
        return folder
    if not is_hub_name(name):
        raise UserError("no such folder", where=folder, remedy=f"{_REMEDY}, or a hub name")
    return download(str(name), FILES, revision, "Check the spelling, or give a folder that `ser export` wrote", token)


def download(name: str, files: Sequence[str], revision: str | None, remedy: str, token: str | None = None) -> Path:
    """The folder of a hub model's files, downloaded where they aren't cached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=list(files)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = shorten(str(error), 160, placeholder=" ...").rstrip(".")
        at = "" if revision is None else f" at revision {revision}"
        what = f"neither a folder nor a model that the Hugging Face hub gives{at} ({reason})"
        raise UserError(what, where=name, remedy=remedy) from error


def push(folder: Path, name: str, *, public: bool) -> str:
    """Put a bundle into a repository of the Hugging Face hub, and return its address there."""
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(name, private=not public, exist_ok=True)
        if hub.model_info(name).private == public:
            what = f"{name} is a {'private' if public else 'public'} repository"
            remedy = f"Give another or new one, or {'leave --public out' if public else 'add --public'}"
            raise UserError(what, where="--push", remedy=remedy)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Add the bundle")
    except UserError:
        raise
    except Exception as error:  # its network library differs by version, and so do its errors
        reason = " ".join(str(error).split())[:160].rstrip(".")
        remedy = f"`hf auth login`, then `hf upload {name} {folder} .{'' if public else ' --private'}`"
        raise UserError(f"is written, and {name} isn't on the hub ({reason})", where=folder, remedy=remedy) from error
    return f"{hub.endpoint}/{name}"
