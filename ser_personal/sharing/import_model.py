"""`ser import`: a public emotion model -> a checkpoint to test and train, and a bundle to annotate with."""

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ser_personal.errors import UserError, require_scale
from ser_personal.files import check_empty, is_hub_name
from ser_personal.sharing.public_models import CHALLENGE, REMEDY, SETTINGS, WEIGHTS, as_module, read_public_model
from ser_personal.types import Attribute

CHECKPOINT, BUNDLE = "finetune.ckpt", "bundle"
MSP_SCALE = (1.0, 7.0)


def import_model(
    model: str,
    out: str,
    codebook: str | None = None,
    revision: str | None = None,
    attributes: list[Attribute] | None = None,
    scale: tuple[float, float] = MSP_SCALE,
    *,
    replace: bool = False,
) -> None:
    """Convert a public emotion model to a checkpoint and a bundle, or a released codebook or head to safetensors.

    A model of emotion attributes becomes finetune.ckpt, for `ser test --ckpt_path` and
    `ser fit --model.initial_checkpoint`, and bundle/, for `ser annotate`. Read are models of the form of
    audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim, 3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes and
    tiantiaf/wavlm-large-msp-podcast-emotion-dim, and the Odyssey challenge's own files, in a folder or a zip.
    scikit-learn's k-means, dumped by joblib (`hubert_base_ls960_L9_km500.bin`), becomes codebook.safetensors, for
    `ser kmeans --codebook`, and a fairseq HuBERT checkpoint prediction_head.safetensors, for PAPT. No code of the files
    is run.

    Args:
        model: name on the Hugging Face hub, a folder or zip of a model, or a released codebook or checkpoint.
        out: folder to write to; of a model a new or empty one.
        codebook: codebook.safetensors whose clusters a fairseq checkpoint was trained on, needed for one.
        revision: branch, tag or commit on the hub; the newest if None.
        attributes: of the model's outputs, in their order, where its files don't say.
        scale: least and greatest label that the model's outputs 0 and 1 stand for; MSP-Podcast's are 1 and 7.
        replace: replace a codebook or head that exists already.
    """
    path = Path(model)
    if not path.exists() and not is_hub_name(model):
        remedy = "Give a model's folder or zip, its name on the Hugging Face hub, or a released checkpoint or codebook"
        raise UserError("no such file or folder", where=model, remedy=remedy)
    if path.exists() and revision is not None:
        raise UserError("is local, and has no revisions", where=model, remedy="Leave --revision out, or rename it")
    is_released = path.is_file() and path.suffix.lower() != ".zip"
    of_model = {"--attributes": attributes is not None, "--scale": scale != MSP_SCALE}
    of_other = of_model if is_released else {"--codebook": codebook is not None, "--replace": replace}
    for flag in (flag for flag, is_given in of_other.items() if is_given):
        used_for = "an emotion model" if is_released else "a released codebook or checkpoint"
        raise UserError(f"is for {used_for}, and {model} is none", where=flag, remedy="Leave it out")
    if is_released:
        from ser_personal.pretrain.released import import_released

        import_released(model, out, codebook, replace=replace)
        return
    require_scale(scale)
    check_empty(Path(out))
    # torch and transformers, after what can be refused without them
    import lightning
    import torch

    from ser_personal.data.emotion import EmotionDataModule
    from ser_personal.recognition.bundle import CARD, new_folder, write_bundle
    from ser_personal.sharing.export import uncalibrated
    from ser_personal.sharing.model_card import IMPORTED, CardOptions, model_card

    with _files_of(model, revision) as files, new_folder(Path(out)) as folder:
        module = as_module(read_public_model(files, model, attributes), model, scale)
        imported = {"name": model, "license": _licence(files)}
        # what Lightning would write, had the model been trained here, apart from the state of training
        checkpoint = {
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": module.state_dict(),
            "hyper_parameters": dict(module.hparams),
            EmotionDataModule.__qualname__: {"scale": list(scale)},
            IMPORTED: imported,
        }
        module.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, folder / CHECKPOINT)
        bundle = uncalibrated(module, scale=scale)
        write_bundle(bundle, folder / BUNDLE)
        card = model_card(bundle, CardOptions(path.name), None, {**module.hparams, IMPORTED: imported})
        (folder / BUNDLE / CARD).write_text(card, encoding="utf-8")
    predicted = f"{', '.join(module.attributes)} on a scale of {scale[0]:g} to {scale[1]:g}"
    print(f"{out}/{CHECKPOINT}, {out}/{BUNDLE}: {predicted}; licence {imported['license']}")


@contextmanager
def _files_of(model: str, revision: str | None) -> Iterator[Path]:
    from ser_personal.recognition.bundle import download

    path = Path(model)
    if path.is_file():
        with TemporaryDirectory() as unpacked:
            try:
                shutil.unpack_archive(path, unpacked, "zip")
            except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
                raise UserError(f"can't be unpacked ({error})", where=model, remedy="Download it again") from error
            yield next((file.parent for file in Path(unpacked).rglob(CHALLENGE[0])), Path(unpacked))
    elif path.is_dir():
        yield path
    else:
        folder = download(model, [*SETTINGS, WEIGHTS[0]], revision, REMEDY)
        if not (folder / WEIGHTS[0]).exists():
            folder = download(model, [*SETTINGS, WEIGHTS[1]], revision, REMEDY)
        yield folder


def _licence(files: Path) -> str:
    from huggingface_hub import ModelCard

    try:
        return str(ModelCard.load(files / SETTINGS[2]).data.license or "unknown")
    # no card, or one without metadata
    except (OSError, ValueError):
        return "unknown"
