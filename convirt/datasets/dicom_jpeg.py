"""The kinds of JPEG inside DICOM that Pillow cannot read, as a plugin of pydicom.

Lossless JPEG, JPEG with 12 bits and JPEG-LS, through imagecodecs (libjpeg-turbo and CharLS). The
plugins that pydicom supports were tried first: GDCM kills the process on some damaged files, and
pylibjpeg-libjpeg is under the GPL.

Form of a plugin: https://pydicom.github.io/pydicom/stable/guides/decoding/decoder_plugins.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom import uid
from pydicom.pixels import get_decoder

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

LABEL = "imagecodecs"
_JPEG = (uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
DECODER_DEPENDENCIES = dict.fromkeys((*_JPEG, *_JPEG_LS), ("imagecodecs",))
# Start-of-frame markers of ISO 10918-1 and of JPEG-LS (ISO 14495-1).
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


def is_available(syntax: str) -> bool:
    """Whether `syntax` can be decoded."""
    return syntax in DECODER_DEPENDENCIES


def register() -> None:
    """Register this plugin with pydicom, once."""
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if LABEL not in decoder.available_plugins:
            decoder.add_plugin(LABEL, (__name__, "decode_frame"))


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one grey frame; called by pydicom.

    Raises:
        ValueError: The stream does not match its data set, or is damaged.
    """
    import imagecodecs

    bits, shape = _frame(source)
    # Before decoding: a stream may claim 65,535 pixels squared.
    if shape != (runner.rows, runner.columns, 1) or not 2 <= bits <= 16:
        raise ValueError(f"a stream of {shape} with {bits} bits")
    decode = imagecodecs.jpegls_decode if runner.transfer_syntax in _JPEG_LS else _decode_jpeg
    values = np.asarray(decode(source))
    if values.size != runner.rows * runner.columns:
        raise ValueError(f"{values.shape} pixels of {shape}")
    width = 8 if bits <= 8 else 16
    runner.set_option("bits_allocated", width)
    return values.astype(f"<u{width // 8}").tobytes()  # pydicom applies the sign


def _decode_jpeg(source: bytes) -> np.ndarray:
    import imagecodecs

    return np.asarray(imagecodecs.jpeg8_decode(source))


def _frame(source: bytes) -> tuple[int, tuple[int, int, int]]:
    """Bits per sample, and (rows, columns, components), from a stream's frame header."""
    place = 2
    while place + 10 <= len(source) and source[place] == 0xFF:
        marker = source[place + 1]
        if marker in _FRAMES:
            header = source[place + 4 : place + 10]
            rows, columns = int.from_bytes(header[1:3], "big"), int.from_bytes(header[3:5], "big")
            return header[0], (rows, columns, header[5])
        bare = marker in _BARE or marker == 0xFF  # 0xFF: a fill byte
        length = int.from_bytes(source[place + 2 : place + 4], "big")
        place += (1 if marker == 0xFF else 2) if bare else 2 + length
    raise ValueError("unexpected end of a JPEG stream before its frame")
