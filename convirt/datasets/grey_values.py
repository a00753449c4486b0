"""Stored values of any depth as 8-bit grey, by their range or as a DICOM file says to show them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

# Bit depths of detectors; a 12-bit picture in a 16-bit file must not turn out black.
_DEPTHS = (8, 10, 12, 14, 16)
_BAND = 1 << 17  # pixels that are looked up together: their indices, 1 MiB, stay in the cache

_Voi = Callable[[np.ndarray], np.ndarray]


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale stored values by the smallest usual bit depth that holds the brightest value.

    Args:
        values: (height, width), any number type; if some are negative, all are shifted up so that
            the lowest is 0.

    Returns:
        (height, width) uint8; values that fit 8 bits are unchanged.
    """
    values = np.nan_to_num(values.astype(np.float32), copy=False)  # one copy: films are large
    values -= values.min(initial=0)
    brightest = float(values.max(initial=0))
    values *= 255 / _top(brightest)
    return rounded(values)


def _top(brightest: float) -> float:
    """The highest value of the smallest usual depth that holds the brightest value."""
    return next((2**bits - 1 for bits in _DEPTHS if brightest <= 2**bits - 1), brightest)


def over_black(samples: np.ndarray) -> np.ndarray:
    """Turn colours, with or without alpha, into grey over black, the colour of the padding.

    Args:
        samples: (height, width, C) uint16; C = 2: grey and alpha; 3: RGB; 4: RGB and alpha.

    Returns:
        (height, width) uint16; opaque pixels of equal colours are unchanged.
    """
    channels = samples.shape[2]
    pixels, greys = samples.reshape(-1, channels), np.empty(samples.shape[:2], dtype=np.uint16)
    flat = greys.reshape(-1)
    for start in range(0, flat.size, _BAND):  # 32 bits for all would be twice the picture
        band = pixels[start : start + _BAND].astype(np.uint32).T
        grey = band[0]
        if channels >= 3:  # Pillow's weights, in whole numbers
            grey = (299 * band[0] + 587 * band[1] + 114 * band[2] + 500) // 1000
        if channels in (2, 4):
            grey = (grey * band[-1] + 32767) // 65535
        flat[start : start + _BAND] = grey
    return greys


def rounded(values: np.ndarray) -> np.ndarray:
    """Round in place to the nearest whole number; return it as uint8."""
    np.rint(values, out=values)
    return values.astype(np.uint8)


def shown(stored: np.ndarray, dataset: Dataset, inverted: bool) -> np.ndarray:
    """What one grey frame of a DICOM file looks like.

    In the order of PS3.3 and PS3.4 N.2: modality LUT or rescale slope and intercept; the first VOI
    LUT, else the first window, else the smallest usual depth; inversion; padding black.

    Args:
        stored: (height, width) stored values.
        dataset: The elements of the file.
        inverted: Whether high values are dark.

    Returns:
        (height, width) uint8, air dark and bone bright.

    Raises:
        ValueError: A modality LUT is shorter than it says, or an element that should be a number
            is not.
    """
    voi = _voi(dataset)
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:
        seen = np.ones(stored.shape, dtype=bool)
        return _levels(stored, seen, voi, dataset, inverted)
    # A table over all possible values, by their bits: a film has a hundred times as many pixels.
    bits = stored.dtype.itemsize * 8
    values = np.arange(2**bits, dtype=f"u{bits // 8}").view(f"{stored.dtype.kind}{bits // 8}")
    pixels, grey = stored.reshape(-1), np.empty(stored.size, dtype=np.uint8)
    bands = [slice(start, start + _BAND) for start in range(0, stored.size, _BAND)]
    seen = np.full(2**bits, voi is not None)  # with a window it does not matter which occur
    for band in bands if voi is None else ():
        seen |= np.bincount(_indices(pixels[band], bits), minlength=2**bits) > 0
    table = _levels(values, seen, voi, dataset, inverted)
    for band in bands:
        grey[band] = table[_indices(pixels[band], bits)]
    return grey.reshape(stored.shape)


def _indices(values: np.ndarray, bits: int) -> np.ndarray:
    """The bits of signed or unsigned values, in any byte order, as indices."""
    indices = values.astype(np.intp)
    indices &= 2**bits - 1
    return indices


def _levels(
    values: np.ndarray, seen: np.ndarray, voi: _Voi | None, dataset: Dataset, inverted: bool
) -> np.ndarray:
    """Stored values, of any shape, as uint8 grey levels.

    Without a VOI transformation, values that are not `seen` take no part in the scaling.
    """
    visible = seen & ~_padding(values, dataset)
    if voi is not None:
        shares = np.nan_to_num(voi(_rescaled(values, dataset)), copy=False)
        np.clip(shares, 0, 1, out=shares)
        shares *= 255
        grey = rounded(shares)
    else:
        values = _rising(values, dataset)
        values[~visible] = values.min(where=visible, initial=0)
        grey = to_eight_bits(values)
    if inverted:
        np.subtract(255, grey, out=grey)
    grey[~visible] = 0
    return grey


def _padding(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Which stored values are padding, not part of the picture."""
    first = _first(dataset.get("PixelPaddingValue"))
    last = _first(dataset.get("PixelPaddingRangeLimit"))
    if first is None:  # a limit alone means nothing
        return np.zeros(values.shape, dtype=bool)
    ends = [first, first if last is None else last]
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        # Elements of 16 bits; in some files their sign is not that of the pixels.
        low = -(1 << 15) if values.dtype.kind == "i" else 0
        ends = [(end - low) % (1 << 16) + low for end in ends]
    return (values >= min(ends)) & (values <= max(ends))


# ------------------------------------------------------------------------------ modality


def _rescaled(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Stored values in the units of the window, float32."""
    if luts := dataset.get("ModalityLUTSequence"):
        return _looked_up(values, _lut(luts[0], dataset))
    rescaled = values.astype(np.float32)
    rescaled *= float(dataset.get("RescaleSlope", 1) or 1)
    rescaled += float(dataset.get("RescaleIntercept", 0) or 0)
    return rescaled


def _rising(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Stored values, negated where the rescale slope is negative, float32.

    Rescaling is affine, so where no window follows only the sign of its slope matters.
    """
    if dataset.get("ModalityLUTSequence"):
        return _rescaled(values, dataset)
    return values.astype(np.float32) * np.float32(
        np.sign(float(dataset.get("RescaleSlope", 1) or 1))
    )


# ------------------------------------------------------------------------------ VOI


def _voi(dataset: Dataset) -> _Voi | None:
    """The first VOI LUT, else the first window; None if there is neither.

    It takes rescaled values, which it may overwrite, and returns fractions of full brightness.
    """
    if luts := dataset.get("VOILUTSequence"):
        # a broken one is ignored, as viewers do: the film itself is intact
        with suppress(ValueError, TypeError, AttributeError):
            lut = _lut(luts[0], dataset)
            return lambda values: _looked_up(values, lut) / np.float32(lut.top)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "").strip().upper()
    if function not in ("LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return partial(_window, centre=centre, width=width, function=function)


def _window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1 and C.11.2.1.3, before clipping, in place."""
    if function == "LINEAR":
        values -= centre - 0.5
        values /= max(width - 1, 1e-6)
    else:
        values -= centre
        values /= width
    if function == "SIGMOID":  # 1 / (1 + exp(-4 x)), which could overflow
        values *= 2
        np.tanh(values, out=values)
        values /= 2
    values += 0.5
    return values


def _first(value: Any) -> float | None:
    """The first of several numbers or of a text of them; None if none or not finite."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        value = value.split("\\")
    if hasattr(value, "__getitem__"):
        value = value[0] if len(value) else None
    if isinstance(value, str):
        value = value.strip(" \0")
    if value is None or value == "":
        return None
    number = float(value)
    return number if math.isfinite(number) else None


# ------------------------------------------------------------------------------ LUT


class _Lut(NamedTuple):
    """A lookup table of DICOM.

    Attributes:
        entries: (N,) float32.
        first: The value that the first entry is for. Lower values get the first entry as well, and
            values beyond the last entry get the last.
        top: What is shown as white: the highest value of the smallest usual depth that holds all
            entries. The descriptor often states the depth of the words that hold them instead.
    """

    entries: np.ndarray
    first: int
    top: float


def _lut(item: Dataset, dataset: Dataset) -> _Lut:
    """Read an item of a sequence of LUTs (PS3.3 C.11.1.1.1 and C.11.2.1.1).

    Raises:
        ValueError: There are fewer entries than the descriptor says.
    """
    count, first, bits = map(int, item.LUTDescriptor)
    count = count % (1 << 16) or 1 << 16  # 0 means 65,536; some are read as signed
    data = item.LUTData
    if isinstance(data, bytes):  # OW, which pydicom leaves in the byte order of the file
        order = ">" if dataset.original_encoding[1] is False else "<"
        words = np.frombuffer(data, f"{order}u2").astype("<u2")
    else:
        words = np.atleast_1d(np.asarray(data)).astype("<u2")
    if bits == 8 and words.size == (count + 1) // 2 < count:
        words = words.view("u1")  # two entries per word, the lower byte first
    entries = words[:count]
    if entries.size < count:
        raise ValueError(f"{words.size} entries for a LUT of {count}")
    return _Lut(entries.astype(np.float32), first, _top(float(entries.max())))


def _looked_up(values: np.ndarray, lut: _Lut) -> np.ndarray:
    """The table's entries for values of any number type."""
    places = np.rint(values.astype(np.float32) - np.float32(lut.first))
    found: np.ndarray = lut.entries[np.clip(places, 0, len(lut.entries) - 1).astype(np.intp)]
    return found
