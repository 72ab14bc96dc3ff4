"""Sound files that must be refused, and odd ones that must not."""

import struct
from io import BytesIO

import numpy as np
import soundfile

SAMPLE_RATE = 16_000


def suffix(name: str) -> str:
    """Of the file that this one pretends to be."""
    return ".mp3" if "MP3" in name else ".au" if "AU" in name else ".wav"


def speech(seed: int) -> np.ndarray:
    """Two seconds of noise that comes and goes."""
    rng = np.random.default_rng(seed)
    syllables = np.repeat(rng.uniform(0, 1, 8) > 0.5, SAMPLE_RATE // 4)
    return rng.normal(0, 0.1, len(syllables)) * (syllables + 0.001)


def channels(*of: np.ndarray, **options: object) -> bytes:
    file = BytesIO()
    soundfile.write(file, np.stack(of, axis=1), **{"samplerate": SAMPLE_RATE, "format": "WAV", **options})
    return file.getvalue()


ONE, OTHER = speech(1), speech(2)
LONG = channels(np.concatenate([speech(4), OTHER]))
WAV = channels(ONE)


def headless(mode: str) -> bytes:
    """Cut an MP3 from its second frame on; the first one says how long it is."""
    louder = np.concatenate([0.01 * ONE, speech(5), 0 * ONE, OTHER])
    content = channels(louder, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return content[content.index(content[:2], 4) :]


MP3 = channels(ONE, format="MP3")
OGG, OPUS = (channels(ONE, format="OGG", subtype=subtype) for subtype in ("VORBIS", "OPUS"))
TAG = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
SEVERAL, CUT, MORE = "is several files in one", "is truncated", "holds more than its header announces"
CANCEL, VOICES = "channels that cancel one another", "channels that hold different voices"
BEYOND = "holds NaN, infinity or samples beyond 32 times full scale"
HOSTILE = {
    "nothing": (b"", "can't be decoded"),
    "an AU of nothing": (b"", "is shorter than one frame"),
    "text": (b"no sound", "can't be decoded"),
    "a header alone": (WAV[:44], CUT),
    "noise as an MP3": (bytes(range(256)) * 40, "can't be decoded"),
    "a WAV less a byte": (WAV[:-1], CUT),
    "half a FLAC": (channels(ONE, format="FLAC")[:20_000], f"{CUT}|can't be decoded"),
    "half an MP3": (MP3[: len(MP3) // 2], CUT),
    "an Ogg less a byte": (OGG[:-1], CUT),
    "half an Opus": (OPUS[: len(OPUS) // 2], "can't be decoded"),
    **{f"half of {kind}": (channels(ONE, format=kind)[:9_000], CUT) for kind in ("AIFF", "AU", "RF64", "W64", "NIST")},
    "two FLACs in one": (channels(ONE, format="FLAC") * 2, SEVERAL),
    "two Oggs in one": (OGG + OGG, SEVERAL),
    "two MP3s in one": (MP3 + MP3, SEVERAL),
    "an MP3 of variable bit rate without its header": (headless("VARIABLE"), "of variable bit rate without the header"),
    "two WAVs in one": (WAV + WAV, "can't be decoded"),
    **{
        f"a WAV whose header announces {length:,} bytes": (WAV[:40] + struct.pack("<I", length) + WAV[44:], MORE)
        for length in (6_400, 6_402, 22_222, 43_210)
    },
    "a WAV that goes on with silence": (WAV + bytes(400) + WAV[44:], MORE),
    "a WAV beyond 4 GB, as headers count": (LONG[:40] + struct.pack("<I", len(LONG) - 44 - 2**16) + LONG[44:], MORE),
    "399 samples": (channels(ONE[:399]), "is shorter than one frame"),
    "zeros": (channels(0 * ONE), "is silent from beginning to end"),
    "opposite phase": (channels(ONE, -ONE), CANCEL),
    "three channels that add up to nothing": (channels(ONE, -0.5 * ONE, -0.5 * ONE, format="FLAC"), CANCEL),
    "two parties of a call": (channels(ONE, OTHER), VOICES),
    "two parties heard in one another's channel": (channels(ONE + 0.1 * OTHER, 0.5 * OTHER + 0.05 * ONE), VOICES),
    "integers as floats": (channels(32_767 * ONE / abs(ONE).max(), subtype="FLOAT"), BEYOND),
    "a rate of 999 Hz": (channels(ONE, samplerate=999), "has 999 samples a second, where sound has 1,000 to"),
    "a note of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer, whose content `git lfs pull`"),
    "NaN": (channels(np.where(np.arange(len(ONE)) == 1500, np.nan, ONE), subtype="FLOAT"), BEYOND),
}
FINE = {
    "a tag behind the samples": WAV + b"LIST\x04\x00\x00\x00INFO",
    "a tag before and after an MP3": TAG + MP3 + b"TAG" + bytes(125),
    "a recorder's WAV, filled up with zeros": WAV + bytes(2**15),
    "one channel silent": channels(ONE, 0 * ONE),
    "stereo of unequal level": channels(ONE, 0.02 * OTHER + 0.2 * ONE),
    "unrelated hiss": channels(ONE + 0.05 * np.sin(np.arange(len(ONE))), ONE[::1] * 0.9),
    "GSM 6.10": channels(ONE, subtype="GSM610", samplerate=8000),
    **{name: channels(ONE, format=name) for name in ("AIFF", "AU", "RF64", "W64", "NIST", "CAF", "FLAC")},
    "an MP3 of constant bit rate without a header": headless("CONSTANT"),
    "Ogg": OGG,
    "Opus": OPUS,
    "an AU of a stream": (AU := channels(ONE, format="AU"))[:8] + b"\xff" * 4 + AU[12:],
    "µ-law": channels(ONE, subtype="ULAW", samplerate=8000),
    "44,099 Hz": channels(ONE, samplerate=44_099),
    "a stream's WAV": WAV[:4] + b"\xff" * 4 + WAV[8:40] + b"\xff" * 4 + WAV[44:],
    "sox's stream": WAV[:40] + (0x7FFFF000).to_bytes(4, "little") + WAV[44:],
}
