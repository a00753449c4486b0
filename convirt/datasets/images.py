"""Decoding one radiograph, whatever its file format, to 8-bit grey."""

from __future__ import annotations

import errno
import io
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from convirt.datasets import archives, grey_values
from convirt.datasets.grey_values import over_black, rounded, to_eight_bits

# The largest radiographs have some 30 million pixels; a small file that claims more than this is a
# bomb. At this size an image of up to 16 bits takes under 1 GiB with its copies, of 32 bits 2 GiB.
MAX_PIXELS = 64_000_000
# A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size (the mean of 2, 4 or 8 pixels squared) if
# that leaves this many times the side that is needed: after the final filter the result hardly
# differs (docs/preprocessing.md).
REDUCED = 1.25
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
# How a picture is turned upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

MISSING, EMPTY = "image missing", "image of zero size"
UNREADABLE, TRUNCATED = "image unreadable", "image truncated"
CONSTANT, TOO_LARGE = "image of one value", "image too large"


class BadImageError(Exception):
    """An image that cannot be used.

    Attributes:
        reason: One of the reasons above.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        self.reason = reason
        super().__init__(reason if path is None else f"{path}: {reason}")


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: (height, width) uint8, upright, air dark and bone bright.
        converted: What was converted, such as "16 bit" or "RGB"; "" if the file was 8-bit grey.
    """

    pixels: np.ndarray
    converted: str = ""


def decode(path: Path, side: int = 0) -> Picture:
    """Read one image file as grey.

    Args:
        path: A file, or a member of a zip archive: JPEG, PNG (8 or 16 bit, with or without colours
            or alpha), TIFF, BMP, WebP or DICOM. The content decides, not the name.
        side: Pixels of the larger side that will be needed. A JPEG much larger than that is decoded
            at a fraction of its size, at least REDUCED times `side`. 0 decodes in full.

    Raises:
        BadImageError: The file is missing, unreadable, truncated, of zero size, of one value, or a
            decompression bomb; the message names the file.
    """
    try:
        return _decode(path, side)
    except BadImageError as error:
        raise BadImageError(error.reason, path) from error


def _decode(path: Path, side: int) -> Picture:
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
                scale = REDUCED * side / max(image.size)
                image.draft("L", (round(image.width * scale), round(image.height * scale)))
            return Picture(_upright(_pixels(image, file), image), name)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(TOO_LARGE) from error
    except Exception as error:  # decoders raise all sorts of errors on broken files
        raise BadImageError(_fault(error)) from error


def _pixels(image: ImageFile, file: BinaryIO) -> np.ndarray:
    """Decode an open image to (height, width) uint8."""
    several = image.mode in ("RGB", "RGBA", "CMYK") or "transparency" in image.info
    deep = several and _sixteen_bits(image)  # Pillow would keep only the higher 8 bits
    if deep and image.format != "PNG":
        raise BadImageError(UNREADABLE)
    image.load()
    if deep:
        return to_eight_bits(_png_greys(file, image.size))
    return _tiff_grey(image) if isinstance(image, TiffImageFile) else _grey(image)


def _sixteen_bits(image: ImageFile) -> bool:
    """Whether an image that is not loaded yet has more than 8 bits per sample."""
    if isinstance(image, TiffImageFile):
        return bool(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8)
    return bool(image.format == "PNG" and str(image.tile[0].args).endswith(";16B"))


def _png_greys(file: BinaryIO, size: tuple[int, int]) -> np.ndarray:
    """A PNG with colours or alpha of 16 bits as (height, width) uint16, over black.

    Args:
        file: The PNG.
        size: Its width and height, already checked not to be too large.
    """
    import imagecodecs

    file.seek(0)
    samples = imagecodecs.png_decode(_all(file))
    if samples.shape[:2] != size[::-1] or samples.dtype != np.uint16:
        raise BadImageError(UNREADABLE)
    return over_black(samples)


def _tiff_grey(image: TiffImageFile) -> np.ndarray:
    """`_grey` for a TIFF: Pillow ignores the sign and, above 8 bits, that 0 may mean white."""
    signed = 2 in image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    if image.mode == "I" and not signed and np.asarray(image).min() < 0:
        raise BadImageError(UNREADABLE)  # unsigned 32 bits whose top bit was read as a sign
    white_is_zero = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    turned = white_is_zero and image.mode in ("I", "I;16", "I;16B", "F")
    return 255 - _grey(image) if turned else _grey(image)


def _upright(pixels: np.ndarray, image: ImageFile) -> np.ndarray:
    """Turn the (height, width) pixels of a loaded image as its EXIF says."""
    if isinstance(image, TiffImageFile):
        return pixels  # Pillow has turned them
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # a damaged EXIF block says nothing
        _fault(error)
        return pixels
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def _grey(image: Image.Image) -> np.ndarray:
    """An image of any Pillow mode as (height, width) uint8."""
    if image.mode == "L":
        return np.asarray(image)
    if image.mode.startswith("I"):
        return to_eight_bits(np.asarray(image))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        span = float(np.ptp(values)) or 1.0  # floats have no usual range
        return rounded((values - values.min()) * (255 / span))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # Over black, the colour of the padding: hidden pixels may hold anything.
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.asarray(image.convert("RGB").convert("L"))


# Which of pydicom's plugins decodes which syntax, so that the result does not depend on what is
# installed.
_PLUGINS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.51": "imagecodecs",  # JPEG extended, 12 bits
    "1.2.840.10008.1.2.4.57": "imagecodecs",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "imagecodecs",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "imagecodecs",  # JPEG-LS, lossless and near-lossless
    "1.2.840.10008.1.2.4.81": "imagecodecs",
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000, lossless and lossy
    "1.2.840.10008.1.2.4.91": "pillow",
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
}
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


def _dicom(file: BinaryIO) -> Picture:
    """Read a DICOM file with one frame."""
    import pydicom

    from convirt.datasets import dicom_jpeg

    try:
        data = _all(file)
        _check_deflated(data)
        dataset = pydicom.dcmread(io.BytesIO(data))
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        if rows == 0 or columns == 0:
            raise BadImageError(EMPTY)
        _check_pixels(columns, rows)
        if int(dataset.get("NumberOfFrames", 1) or 1) != 1:
            raise BadImageError(UNREADABLE)  # not a radiograph
        if "BitsStored" not in dataset:  # some published files lack it, some HighBit too
            dataset.BitsStored = int(dataset.get("HighBit", dataset.BitsAllocated - 1)) + 1
        plugin = _PLUGINS.get(str(dataset.file_meta.TransferSyntaxUID), "")
        if plugin == dicom_jpeg.LABEL:
            dicom_jpeg.register()
        dataset.pixel_array_options(decoding_plugin=plugin)
        stored = dataset.pixel_array
        if stored.ndim == 3 and stored.shape[-1] in (3, 4):
            colours = stored[..., :3]
            if colours.dtype != np.uint8:
                colours = to_eight_bits(colours)
            return Picture(_grey(Image.fromarray(colours)), "RGB")
        kind = str(dataset.PhotometricInterpretation)
        if stored.ndim != 2 or not kind.startswith("MONOCHROME"):
            raise BadImageError(UNREADABLE)  # a palette
        shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
        # Where a file has both, they mean one and the same inversion.
        turned = next((name for name in (kind, shape) if name in ("MONOCHROME1", "INVERSE")), "")
        pixels = grey_values.shown(stored, dataset, inverted=bool(turned))
        return Picture(pixels, turned or ("" if int(dataset.BitsStored) <= 8 else "16 bit"))
    except BadImageError:
        raise
    except Exception as error:  # a broken header can fail anywhere
        raise BadImageError(_fault(error)) from error


def _check_deflated(data: bytes) -> None:
    """Refuse a deflated data set that would exhaust memory: pydicom inflates it in one go."""
    end = _meta_end(data)
    if _DEFLATED not in data[:end]:
        return
    rest, inflate, size = io.BytesIO(data), zlib.decompressobj(-zlib.MAX_WBITS), 0
    rest.seek(end)
    while not inflate.eof and (block := inflate.unconsumed_tail or rest.read(1 << 16)):
        size += len(inflate.decompress(block, 1 << 20))
        if size > archives.MAX_BYTES:
            raise BadImageError(TOO_LARGE)


def _meta_end(data: bytes) -> int:
    """Where group 2 ends; its elements say how the data set after them is packed."""
    at = 132  # behind the preamble and "DICM"
    while data[at : at + 2] == b"\x02\0":
        if data[at + 4 : at + 6] in _LONG:
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    return at


def _all(file: BinaryIO) -> bytes:
    """The rest of a file, unless it is so large that it would exhaust memory."""
    data = file.read(archives.MAX_BYTES + 1)
    if len(data) > archives.MAX_BYTES:
        raise BadImageError(TOO_LARGE)
    return data


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImageError(TOO_LARGE)


def _fault(error: Exception) -> str:
    """TRUNCATED or UNREADABLE; an error that is not the file's fault is raised again."""
    if isinstance(error, MemoryError):
        raise error
    # the file's fault too: a header may point before the start or beyond the largest possible file
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EOVERFLOW):
        raise error
    text = str(error).lower()
    cut = ("truncated", "unexpected end", "broken data stream", "less than expected", "not enough")
    return TRUNCATED if isinstance(error, EOFError) or any(c in text for c in cut) else UNREADABLE
