"""Where a bundle is: a local folder, or the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from ser_personal.errors import UserError
from ser_personal.recognition.bundle import CONFIG, FILES


def find_bundle(name: str | Path) -> Path:
    """The folder of a bundle, downloaded where `name` is one of the Hugging Face hub.

    Raises:
        UserError: neither a folder nor a name that the hub knows.
    """
    folder = Path(name)
    if folder.exists():
        if not (folder / CONFIG).is_file():
            raise UserError("isn't a bundle", where=folder, remedy="Give the folder that `ser export` wrote")
        return folder
    if len(folder.parts) != 2 or folder.is_absolute() or ".." in folder.parts:
        raise UserError("no such folder", where=folder, remedy="Give the folder that `ser export` wrote, or a hub name")
    return _download(str(name))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(
            f"neither a folder nor to be had from the Hugging Face hub ({reason})",
            where=name,
            remedy="Check the spelling, or give the folder that `ser export` wrote",
        ) from error
