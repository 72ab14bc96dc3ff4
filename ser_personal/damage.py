"""What libsndfile doesn't say of a sound file: that it is cut, or several files in one."""

import os
import re
import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

TRUNCATED = "is truncated: its header announces more than it holds"
MORE = "holds more than its header announces, which would not be read"
SEVERAL = "is several files in one, of which only the first would be read"
VARIABLE = "is an MP3 of variable bit rate without the header that gives its length"
# kbit/s of layer III by the index in a frame's header: MPEG-1, and MPEG-2 with 2.5
BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
# in libsndfile's log: a size as the file announces it and as it is, and the place of a chunk that is none
_SIZES = re.compile(r"(?:data|FORM|riff|Data Size|Riff size) +: (\d+) \(should be (\d+)\)")
_NO_CHUNK = re.compile(r"Unknown chunk marker \S+ at position (\d+)")
# length of samples as a stream's writer gives it, who can't know it (sox; ffmpeg's is larger)
STREAMED = 0x7FFFF000
# bytes beyond what a WAV or MP3 says it holds: tags, and a frame that some encoders don't count
TAGS = 8192
# bytes of a FLAC or Ogg file, at most, that is searched for a second stream
SCANNED = 2**26


def damage(path: Path, log: str) -> str | None:
    """Find that a file ends before, or long after, what its header announces; `log` is libsndfile's of the file."""
    if any(int(held) < int(announced) < STREAMED for announced, held in _SIZES.findall(log)):
        return TRUNCATED
    status = path.stat()
    if any(status.st_size - int(position) > TAGS for position in _NO_CHUNK.findall(log)):
        return MORE
    return _damage_at(path, status.st_size, status.st_mtime_ns)


# a FLAC or Ogg is read through, and opened once for each of its segments in each epoch
@lru_cache(maxsize=8192)
def _damage_at(path: Path, size: int, _changed: int) -> str | None:
    with path.open("rb") as file:
        start = file.read(1024)
        if start[:4] == b"RIFF":
            return _damage_of_wav(file, size)
        if start[:3] == b"ID3" or start[:1] == b"\xff":
            return _damage_of_mp3(file, start, size)
        # of NIST SPHERE libsndfile counts the samples that are there
        told = {name: int(value) for name, value in re.findall(rb"(\w+) -i (\d+)", start)}
        samples = told.get(b"sample_count", 0) * told.get(b"sample_n_bytes", 0) * told.get(b"channel_count", 0)
        if start[:4] == b"NIST" and b"shorten" not in start and 1024 + samples > size:
            return TRUNCATED
        streams = start[:4] in (b"fLaC", b"OggS") and size <= SCANNED
        return _damage_of_stream(start + file.read()) if streams else None


def _damage_of_stream(content: bytes) -> str | None:
    is_flac = content[:4] == b"fLaC"
    # the first block of a second one
    if content.find(b"fLaC\0\0\0\x22" if is_flac else b"OggS\0\2", 4) > 0:
        return SEVERAL
    if is_flac:
        return None
    last = content.rfind(b"OggS")
    # an Ogg ends with a page that is marked as the last one, and is all there
    lengths = content[last + 27 : last + 27 + sum(content[last + 26 : last + 27])]
    complete = content[last + 5 : last + 6] > b"\3" and last + 27 + len(lengths) + sum(lengths) <= len(content)
    return None if complete else TRUNCATED


def _damage_of_wav(file: BinaryIO, size: int) -> str | None:
    # libsndfile looks for the next chunk in samples after the announced ones, and tells little of what it found
    file.seek(12)
    while len(chunk := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", chunk)
        # zeros fill up a recorder's files
        if not name.strip(b" _\0").isalnum() and size - file.tell() > TAGS and any(file.read(TAGS)):
            return MORE
        file.seek(length + length % 2, os.SEEK_CUR)
    return None


def _damage_of_mp3(file: BinaryIO, start: bytes, size: int) -> str | None:
    # after an ID3v2 tag, whose length has 7 bits a byte
    length = sum(byte << 7 * number for number, byte in enumerate(reversed(start[6:10])))
    begin = 10 + length if start[:3] == b"ID3" else 0
    file.seek(begin)
    first = file.read(1024)
    info = max(first.find(b"Xing"), first.find(b"Info"))
    flags = first[info + 7] if 0 <= info < len(first) - 7 else 0
    # libsndfile then guesses the length by the first frame, and reads no further
    if not flags & 1 and _has_variable_rate(file, begin):
        return VARIABLE
    if not flags & 2:
        return None
    field = info + (12 if flags & 1 else 8)
    end = begin + int.from_bytes(first[field : field + 4], "big")
    file.seek(end)
    following = file.read(3)
    continues = following == b"ID3" or following[:1] == b"\xff"
    return SEVERAL if size - end > TAGS and continues else None


def _has_variable_rate(file: BinaryIO, begin: int) -> bool:
    """Whether frames of an MP3 differ in their bit rate, up to the first place where there is no frame."""
    file.seek(begin)
    content, position = file.read(), 0
    found: set[int] = set()
    while len(found) < 2 and position + 4 <= len(content):
        (header,) = struct.unpack_from(">I", content, position)
        version, bitrate, rate = header >> 19 & 3, header >> 12 & 15, header >> 10 & 3
        # a frame of layer III begins with eleven ones; MPEG's version 1 has the number 3, and 1 is none
        if header >> 21 != 0x7FF or header >> 17 & 3 != 1 or version == 1 or bitrate in {0, 15} or rate == 3:
            break
        found.add(bitrate)
        is_mpeg1 = version == 3
        hertz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
        position += (144 if is_mpeg1 else 72) * BITRATES[not is_mpeg1][bitrate] * 1000 // hertz + (header >> 9 & 1)
    return len(found) > 1
