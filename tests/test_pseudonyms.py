from __future__ import annotations

import os
import re
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.errors import UserError
from ser_personal.pseudonyms import asked_key, pseudonym

KEY = bytes(range(32))


def test_a_pseudonym_is_the_start_of_openssl_s_hmac():
    try:
        command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{KEY.hex()}"]
        told = subprocess.run(command, input="Борис".encode(), capture_output=True, check=True).stdout.decode()
    except FileNotFoundError:
        pytest.skip("openssl isn't installed")
    digits = told.split()[-1]
    assert pseudonym(KEY, "Борис") == f"speaker_{digits[:12]}"
    assert pseudonym(KEY, "Борис", "utterance") == f"utterance_{digits[:16]}"


@given(st.text(), st.text(), st.binary(min_size=32, max_size=32))
def test_one_name_an_id_and_another_for_every_other_key(first, second, key):
    assert re.fullmatch("speaker_[0-9a-f]{12}", pseudonym(KEY, first))
    assert (pseudonym(KEY, first) == pseudonym(KEY, second)) == (first == second)
    assert (pseudonym(KEY, first) == pseudonym(key, first)) == (key == KEY)


def test_a_key_is_made_once_for_its_owner_alone(tmp_path):
    umask = os.umask(0)
    try:
        key = asked_key(None, tmp_path / "new" / "a.key", anonymise=True)
    finally:
        os.umask(umask)
    (file,) = (tmp_path / "new").iterdir()
    assert file.read_text() == f"{key.hex()}\n"
    assert len(key) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert asked_key(str(file), tmp_path / "default", anonymise=True) == key
    assert asked_key(None, tmp_path / "b.key", anonymise=True) != key


def test_no_key_without_the_wish(tmp_path):
    assert asked_key(None, tmp_path / "a.key", anonymise=False) is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="--key: says nothing without --anonymise"):
        asked_key("a.key", tmp_path / "a.key", anonymise=False)


@pytest.mark.parametrize("content", [b"", b"abc", b"0" * 63, b"0" * 65, b"g" * 64, b"\xff" * 64, b"0 " * 64])
def test_what_is_no_key(tmp_path, content):
    (tmp_path / "a.key").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.key: holds no key, 64 hex digits"):
        asked_key(None, tmp_path / "a.key", anonymise=True)
    assert (tmp_path / "a.key").read_bytes() == content
