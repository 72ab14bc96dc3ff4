"""Names that stand for ids in what is handed on, the same wherever they are made with the same key."""

from __future__ import annotations

import hmac
import re
import secrets
from pathlib import Path
from typing import Literal

from ser_personal.errors import UserError
from ser_personal.files import atomic_write

KEY_BYTES = 32
OWNER_ONLY = 0o600
Kind = Literal["speaker", "utterance", "recording"]
# two of 10,000 speakers share a name once in millions of keys; of utterances there are many more
_DIGITS: dict[Kind, int] = {"speaker": 12, "utterance": 16, "recording": 16}


def pseudonym(key: bytes, id_: str, kind: Kind = "speaker") -> str:
    """Name an id by its HMAC-SHA256 (RFC 2104): `speaker_` and 12 hex digits, 16 where it isn't a speaker's.

    Ids are few and short, so that a plain hash would be guessed by hashing them all; without the key nobody can.
    Whoever has the key makes the same names again, and can tell whose they are.
    """
    digest = hmac.digest(key, id_.encode("utf-8", "surrogatepass"), "sha256")
    return f"{kind}_{digest.hex()[: _DIGITS[kind]]}"


def asked_key(path: str | None, default: Path, *, anonymise: bool) -> bytes | None:
    """Read the key that a command was asked to anonymise with; None where it wasn't asked to.

    A file that is missing is made, with a random key that only its owner may read.

    Args:
        path: of the file; `default` if None.
        default: where it lies if the command doesn't say.
        anonymise: whether the command was asked to.

    Raises:
        UserError: the file holds no key, or one is given and nothing is to be anonymised.
    """
    if not anonymise:
        if path is not None:
            raise UserError("says nothing without --anonymise", where="--key", remedy="Give both, or neither")
        return None
    file = default if path is None else Path(path)
    if not file.exists():
        atomic_write(file, f"{secrets.token_hex(KEY_BYTES)}\n".encode(), mode=OWNER_ONLY)
    content = file.read_bytes().strip()
    if not re.fullmatch(rb"[0-9a-f]{%d}" % (2 * KEY_BYTES), content):
        raise UserError(
            f"holds no key, {2 * KEY_BYTES} hex digits",
            where=file,
            remedy="Give the file that an earlier --anonymise made, or the name of a new one",
        )
    return bytes.fromhex(content.decode())
