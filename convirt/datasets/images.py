"""Decoding one radiograph, whatever its file format, to 8-bit grey."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from convirt.datasets import archives

if TYPE_CHECKING:
    from pydicom import Dataset

# The largest radiographs have some 30 million pixels; a small file that claims more is a bomb.
MAX_PIXELS = 200_000_000
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
# Depths at which detectors deliver; a 12-bit picture in a 16-bit file must not turn out black.
_DEPTHS = (8, 10, 12, 14, 16)

MISSING, EMPTY = "image missing", "image of zero size"
UNREADABLE, TRUNCATED = "image unreadable", "image truncated"
CONSTANT, TOO_LARGE = "image of one value", "image too large"


class BadImageError(Exception):
    """An image that cannot be used; its text is one of the reasons above."""


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: (height, width) uint8, air dark and bone bright.
        converted: What had to be done to get there, "" if the file was 8-bit grey.
    """

    pixels: np.ndarray
    converted: str = ""


def decode(path: Path, side: int = 0) -> Picture:
    """Read one image file as grey.

    Args:
        path: A file, or a member of a zip archive: JPEG, PNG (8 or 16 bit, with or without colours
            or alpha), TIFF, BMP, WebP or DICOM. The content decides, not the name.
        side: Pixels of the larger side that will be needed; a JPEG much larger than that is
            decoded at a fraction of its size, still at least twice `side`. 0 decodes in full.

    Raises:
        BadImageError: The file is missing, unreadable, truncated, of zero size, of one value, or a
            decompression bomb.
    """
    try:
        handle = archives.open_binary(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BadImageError(MISSING) from error
    except (PermissionError, archives.MemberError) as error:
        raise BadImageError(UNREADABLE) from error
    with handle, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = handle.read(132)
        if not start:
            raise BadImageError(EMPTY)
        handle.seek(0)
        picture = _dicom(handle) if start[128:] == b"DICM" else _raster(handle, side)
    if picture.pixels.size == 0:
        raise BadImageError(EMPTY)
    if picture.pixels.min() == picture.pixels.max():
        raise BadImageError(CONSTANT)
    return picture


def _raster(file: BinaryIO, side: int) -> Picture:
    """Read what Pillow can."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if min(image.size) == 0:
                raise BadImageError(EMPTY)
            _check_pixels(image.width, image.height)
            name = {"L": "", "I;16": "16 bit", "I;16B": "16 bit", "I": "16 bit"}.get(
                image.mode, image.mode
            )
            if side:
                # Colour JPEGs are stored as brightness and colour: the draft takes the former.
                scale = 2 * side / max(image.size)
                image.draft("L", (round(image.width * scale), round(image.height * scale)))
            image.load()
            return Picture(_grey(image), name)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(TOO_LARGE) from error
    except Exception as error:  # decoders raise whatever they like on broken files
        raise BadImageError(_fault(error)) from error


def _grey(image: Image.Image) -> np.ndarray:
    """Any Pillow mode as (height, width) uint8."""
    if image.mode == "L":
        return np.asarray(image)
    if image.mode.startswith("I"):
        return to_eight_bits(np.asarray(image))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        span = float(np.ptp(values)) or 1.0  # floats have no usual range
        return _rounded((values - values.min()) * (255 / span))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # Over black, the colour of the padding: hidden pixels may hold anything.
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.asarray(image.convert("RGB").convert("L"))


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale non-negative stored values by the smallest usual bit depth that holds the brightest.

    Args:
        values: (height, width), any number type; negative values are cut at 0.

    Returns:
        (height, width) uint8; values that fit 8 bits are unchanged.
    """
    values = np.nan_to_num(values.astype(np.float32)).clip(0)
    brightest = float(values.max(initial=0))
    top = next((2**bits - 1 for bits in _DEPTHS if brightest <= 2**bits - 1), brightest)
    return _rounded(values * (255 / top))


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(values), dtype=np.uint8)


def _dicom(file: BinaryIO) -> Picture:
    """Read a DICOM file: rescale, window, scale to 8 bits, then turn MONOCHROME1 around."""
    import pydicom

    try:
        dataset = pydicom.dcmread(file)
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        if rows == 0 or columns == 0:
            raise BadImageError(EMPTY)
        _check_pixels(columns, rows * frames)
        stored = dataset.pixel_array
        if stored.ndim == 3 and stored.shape[-1] in (3, 4) and frames == 1:
            return Picture(_grey(Image.fromarray(stored[..., :3].astype(np.uint8))), "RGB")
        grey = str(dataset.PhotometricInterpretation).startswith("MONOCHROME")
        if stored.ndim != 2 or not grey:
            raise BadImageError(UNREADABLE)  # several frames, or a palette: no radiograph
        pixels = _windowed(stored.astype(np.float32), dataset)
    except BadImageError:
        raise
    except Exception as error:  # a broken header can fail anywhere
        raise BadImageError(_fault(error)) from error
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return Picture(255 - pixels, "MONOCHROME1")
    return Picture(pixels, "" if int(dataset.get("BitsStored", 8)) <= 8 else "16 bit")


def _windowed(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Stored values through rescale slope and window, as uint8.

    The window is the linear one of DICOM PS3.3 C.11.2.1.2.1; it applies to rescaled values. A
    first of several windows is taken.
    """
    slope = float(dataset.get("RescaleSlope", 1) or 1)
    intercept = float(dataset.get("RescaleIntercept", 0) or 0)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is None or width is None or width < 1:
        # Rescaling is affine, so without a window only its sign can matter; a shift that makes
        # all values non-negative keeps signed data whole.
        values = stored * np.sign(slope)
        return to_eight_bits(values - min(float(values.min()), 0.0))
    values = stored * slope + intercept
    share = (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
    return _rounded(share.clip(0, 1) * 255)


def _first(value: object) -> float | None:
    """The first of several window values, None if there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, Sequence) or hasattr(value, "__getitem__"):
        return float(value[0])
    return float(value)  # type: ignore[arg-type]


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImageError(TOO_LARGE)


def _fault(error: Exception) -> str:
    """Tell a cut-off file from one that never was an image; not every failure is the file's."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
        raise error
    text = str(error).lower()
    cut = ("truncated", "unexpected end", "broken data stream", "less than expected", "not enough")
    return TRUNCATED if isinstance(error, EOFError) or any(c in text for c in cut) else UNREADABLE
