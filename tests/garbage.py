"""What is refused, and files that nobody meant to write: bytes at random, and whole files with parts spoilt."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ser_personal.cli import find_user_error
from ser_personal.errors import UserError

# `make fuzz` asks for more
INPUTS = max(100, settings.default.max_examples)
many_inputs = settings(max_examples=INPUTS)
WORDS = [b'"', b",", b";", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"nan", b"inf", b"-1e999", b"1_0", b"{", b"["]
WORDS += [b"null", b"..", b"/", b"\\", b":", b"\t", b"\xe2\x80\xa8", b"9" * 5000, b"[" * 5000, b"true", b"- ", b"&a *a"]


@st.composite
def spoilt(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file some of whose parts are removed, doubled or replaced."""
    content = whole
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 12)))
        part = draw(st.sampled_from([*WORDS, content[start:end] * 2, b""]) | st.binary(max_size=6))
        content = content[:start] + part + content[end:]
    return content


def files(whole: bytes) -> SearchStrategy[bytes]:
    """Anything that may lie where a file such as `whole` should."""
    return st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | spoilt(whole)


def is_read_or_refused(read: Callable[[], object]) -> bool:
    """Read a file; -> whether it could be read. An error that `ser` doesn't make one line of fails the test."""
    try:
        read()
    except (UserError, OSError) as error:
        refusal = find_user_error(error)
        if refusal is None:
            raise
        assert "\n" not in str(refusal)
        assert refusal.remedy
        return False
    return True


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


def refused(line: str, call: Callable[..., object], *arguments: object, **options: object) -> None:
    """Call it, and find an error of the user's that this pattern is part of."""
    with pytest.raises(UserError, match=line):
        call(*arguments, **options)
