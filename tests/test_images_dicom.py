"""DICOM as archives hold it: every usual compression, missing elements, hostile bytes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
import tempfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, Sequence, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from raw import dicom, film

from convirt.datasets import archives, grey_values, images
from convirt.datasets.images import BadImageError, Picture, decode

TWELVE = np.arange(4096, dtype=np.uint16).reshape(64, 64)
TWELVE_BITS: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
SMOOTH = np.add.outer(np.arange(0, 128, 2), np.arange(0, 120, 2)).astype(np.uint8)  # (64, 60)


def compress(path: Path, syntax: Any, level: int = 0) -> Path:
    """Rewrite a grey file in another transfer syntax; `level` is that of loss."""
    import imagecodecs

    dataset = dcmread(path)
    bits, stored = int(dataset.BitsStored), dataset.pixel_array
    if stored.dtype.kind == "i" and syntax != JPEG2000Lossless:  # JPEG has no signed samples
        stored = stored.view(f"u{stored.itemsize}")
        if syntax in (JPEGLossless, JPEGLosslessSV1):  # JPEG-LS is written with all 16 bits here
            stored = stored & (2**bits - 1)
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
        return path
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        lossless = {"predictor": 1 if syntax == JPEGLosslessSV1 else 4}
        stream = imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=bits, **lossless)
    elif syntax == JPEGExtended12Bit:
        stream = imagecodecs.jpeg8_encode(stored, level=97, bitspersample=bits)
    elif syntax in (JPEGLSLossless, JPEGLSNearLossless):
        stream = imagecodecs.jpegls_encode(stored, level=level)
    else:
        how = {"level": 60, "reversible": False} if level else {"level": 0, "reversible": True}
        stream = imagecodecs.jpeg2k_encode(stored, codecformat="j2k", bitspersample=bits, **how)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    return path


def reason(path: Path) -> str:
    with pytest.raises(BadImageError) as caught:
        decode(path)
    return caught.value.reason


# ------------------------------------------------------------------------------ compression

LOSSLESS = (
    JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless,
)  # fmt: skip


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_lossless_compression(tmp_path: Path, syntax: Any, bits: int, photometric: str) -> None:
    stored = SMOOTH.astype(np.uint16) << (bits - 8) if bits > 8 else SMOOTH
    tags: dict[str, Any] = {"BitsStored": bits, "HighBit": bits - 1}
    path = dicom(tmp_path / "a.dcm", stored, photometric, **tags)
    plain = decode(path)
    packed = decode(compress(path, syntax))
    np.testing.assert_array_equal(packed.pixels, plain.pixels)
    assert packed.converted == plain.converted


@pytest.mark.parametrize(
    "syntax", [JPEGLSNearLossless, JPEG2000, JPEGExtended12Bit], ids=lambda uid: uid.keyword
)
@pytest.mark.parametrize("bits", [8, 12])
def test_lossy_compression(tmp_path: Path, syntax: Any, bits: int) -> None:
    stored = SMOOTH.astype(np.uint16) << (bits - 8) if bits > 8 else SMOOTH
    path = dicom(tmp_path / "a.dcm", stored, BitsStored=bits, HighBit=bits - 1)
    plain = decode(path).pixels.astype(int)
    assert np.abs(decode(compress(path, syntax, 2)).pixels - plain).max() <= 3


@pytest.mark.parametrize(
    "syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless],
    ids=lambda uid: uid.keyword,
)  # fmt: skip
@pytest.mark.parametrize("bits", [12, 16])
def test_signed_values_inside_jpeg(tmp_path: Path, syntax: Any, bits: int) -> None:
    stored = SMOOTH.astype(np.int16) - 100
    path = dicom(tmp_path / "a.dcm", stored, BitsStored=bits, HighBit=bits - 1)
    plain = decode(path).pixels
    np.testing.assert_array_equal(decode(compress(path, syntax)).pixels, plain)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda uid: uid.keyword,
)  # fmt: skip
def test_other_encodings_of_the_data_set(tmp_path: Path, syntax: Any) -> None:
    path = dicom(tmp_path / "a.dcm", film().astype(np.uint16) * 16, BitsStored=12, HighBit=11)
    plain = decode(path).pixels
    dataset = dcmread(path)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = dataset.pixel_array.byteswap().tobytes()
        dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = syntax
    assert len(list(dataset)) > 9  # all elements are read before they are rewritten
    dcmwrite(
        tmp_path / "b.dcm", dataset, little_endian=syntax != ExplicitVRBigEndian,
        implicit_vr=syntax == ImplicitVRLittleEndian, force_encoding=True,
    )  # fmt: skip
    np.testing.assert_array_equal(decode(tmp_path / "b.dcm").pixels, plain)


def test_common_syntaxes_are_decoded_by_pillow_and_by_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [dicom(tmp_path / "a.dcm", SMOOTH, jpeg=True)]
    paths += [compress(dicom(tmp_path / "b.dcm", SMOOTH), JPEG2000Lossless)]
    opened, real = [], Image.open

    def count(*args: Any, **options: Any) -> Image.Image:
        opened.append(args)
        return real(*args, **options)

    monkeypatch.setattr(Image, "open", count)
    assert [decode(path).pixels.shape for path in paths] == [SMOOTH.shape] * 2
    assert len(opened) == 2


def test_eight_bits_under_the_name_of_extended_jpeg(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", SMOOTH, jpeg=True)
    plain = decode(path).pixels
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    dataset.save_as(path)
    np.testing.assert_array_equal(decode(path).pixels, plain)


# ------------------------------------------------------------------------------ what is shown


def lut(entries: Any, first: int = 0, bits: int = 16, vr: str = "US") -> Sequence:
    """A sequence of one LUT; `entries`: numbers, or the bytes of OW."""
    item, size = Dataset(), len(entries) // (2 if vr == "OW" else 1)
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [size % 65536, first, bits])
    item.add_new("LUTData", vr, entries if vr == "OW" else [int(entry) for entry in entries])
    if first < 0 and size > 32767:
        item.LUTDescriptor[0] = size - 65536
    return Sequence([item])


def plainly(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """What a linear window or none shows, step by step in single precision."""
    values: np.ndarray = stored.astype(np.float32)
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    if "WindowWidth" in dataset:
        centre, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
        values = values * slope + intercept
        values = (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
        values = np.rint(np.clip(values, 0, 1) * 255)
        return values.astype(np.uint8)
    values = values * np.float32(np.sign(slope))
    values = values - min(float(values.min()), 0)
    brightest = float(values.max())
    tops = [2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if brightest < 2**bits]
    values = np.rint(values * (255 / (tops or [brightest])[0]))
    return values.astype(np.uint8)


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(["u1", "i1", "u2", "i2", ">u2", ">i2", "u4", "i4", "f4"]),
    st.integers(1, 31),
    st.sampled_from([1.0, 2.0, -1.0, -0.5, 0.1, 1.0037]),
    st.floats(-5000, 5000, width=32),
    st.none() | st.tuples(st.floats(-5000, 70000, width=32), st.floats(1, 70000, width=32)),
    st.integers(0, 2**32 - 1),
)
def test_linear_windows_and_none_are_exact(
    kind: str, bits: int, slope: float, intercept: float, window: Any, seed: int
) -> None:
    """Committed results depend on these bytes, so they must be equal to the last bit."""
    size = np.dtype(kind).itemsize * 8
    low, high = (-(2**bits) // 2, 2**bits // 2) if "i" in kind else (0, 2**bits)
    low, high = max(low, -(2**size) // 2), min(high, 2 ** (size - ("i" in kind)))
    stored = np.random.default_rng(seed).integers(low, high, (7, 9)).astype(kind)
    dataset = Dataset()
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, round(intercept, 3)
    if window is not None:
        dataset.WindowCenter, dataset.WindowWidth = (round(number, 3) for number in window)
    expected = plainly(stored, dataset)
    np.testing.assert_array_equal(grey_values.shown(stored, dataset, False), expected)
    np.testing.assert_array_equal(grey_values.shown(stored, dataset, True), 255 - expected)


def test_a_film_of_many_bands(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(-2000, 2000, (701, 1003), dtype=np.int16)
    tags: dict[str, Any] = {"RescaleSlope": 1, "RescaleIntercept": 0}
    plain = dicom(tmp_path / "a.dcm", stored, **tags)
    np.testing.assert_array_equal(decode(plain).pixels, plainly(stored, dcmread(plain)))
    window = dicom(tmp_path / "b.dcm", stored, WindowCenter=9, WindowWidth=999, **tags)
    np.testing.assert_array_equal(decode(window).pixels, plainly(stored, dcmread(window)))


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2000, "WindowWidth": 3000}])
def test_showing_takes_little_more_than_what_it_gives(window: dict[str, Any]) -> None:
    dataset, stored = Dataset(), np.tile(TWELVE, (32, 32))  # 4 million pixels
    for name, value in window.items():
        setattr(dataset, name, value)
    tracemalloc.start()
    try:
        grey_values.shown(stored, dataset, False)
        assert tracemalloc.get_traced_memory()[1] < stored.size + (4 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("signed", [False, True])
def test_windows_are_those_of_pydicom(tmp_path: Path, function: str, signed: bool) -> None:
    rng = np.random.default_rng(0)
    stored = TWELVE.astype(np.int16) - 2048 if signed else TWELVE
    for slope, intercept in [(1, 0), (2, -1024), (0.5, 100)]:
        centre, width = int(rng.integers(0, 2000)), int(rng.integers(600, 4000))
        path = dicom(
            tmp_path / "a.dcm", stored, RescaleSlope=slope, RescaleIntercept=intercept,
            WindowCenter=centre, WindowWidth=width, VOILUTFunction=function, **TWELVE_BITS,
        )  # fmt: skip
        dataset = dcmread(path)
        values = apply_windowing(apply_modality_lut(stored, dataset), dataset)
        dark, bright = apply_windowing(np.array([-1e5, 1e5]), dataset)
        expected = (values - dark) / (bright - dark) * 255
        assert np.abs(decode(path).pixels - expected).max() < 0.51


def test_exact_windows_may_be_narrower_than_one(tmp_path: Path) -> None:
    tags: dict[str, Any] = {"RescaleSlope": "0.0001", "RescaleIntercept": 0, **TWELVE_BITS}
    tags |= {"WindowCenter": "0.2", "WindowWidth": "0.2"}
    exact = decode(dicom(tmp_path / "a.dcm", TWELVE, VOILUTFunction="LINEAR_EXACT", **tags)).pixels
    expected = np.clip((TWELVE * 0.0001 - 0.2) / 0.2 + 0.5, 0, 1) * 255
    assert np.abs(exact - expected).max() < 0.51


@pytest.mark.parametrize("function", ["", "LINEAR", "NONE SUCH"])
def test_other_functions_are_linear(tmp_path: Path, function: str) -> None:
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 1000, **TWELVE_BITS}
    plain = decode(dicom(tmp_path / "a.dcm", TWELVE, **window)).pixels
    same = dicom(tmp_path / "b.dcm", TWELVE, VOILUTFunction=function, **window)
    np.testing.assert_array_equal(decode(same).pixels, plain)


@pytest.mark.parametrize("vr", ["DS", "LO", "UT"])
@pytest.mark.parametrize("several", [False, True])
def test_a_window_may_be_given_as_text(tmp_path: Path, vr: str, several: bool) -> None:
    path = dicom(tmp_path / "a.dcm", TWELVE, WindowCenter=2048, WindowWidth=1000, **TWELVE_BITS)
    plain = decode(path).pixels
    dataset = dcmread(path)
    dataset.add_new("WindowCenter", vr, "2048\\40" if several else "2048")
    dataset.add_new("WindowWidth", vr, "1000\\400" if several else "1000")
    dataset.save_as(path)
    np.testing.assert_array_equal(decode(path).pixels, plain)


CUBIC = (65535 * (np.arange(4096) / 4095) ** 3).astype(int)


@pytest.mark.parametrize(("first", "bits"), [(0, 16), (0, 12), (100, 16), (2000, 10)])
def test_a_voi_lut_is_that_of_pydicom_and_goes_before_a_window(
    tmp_path: Path, first: int, bits: int
) -> None:
    path = dicom(
        tmp_path / "a.dcm", TWELVE, VOILUTSequence=lut(CUBIC >> (16 - bits), first, bits),
        WindowCenter=9, WindowWidth=2, **TWELVE_BITS,
    )  # fmt: skip
    expected = apply_voi(TWELVE, dcmread(path)) * (255 / (2**bits - 1))
    assert np.abs(decode(path).pixels - expected).max() < 0.51


def test_a_voi_lut_of_rescaled_values(tmp_path: Path) -> None:
    tags: dict[str, Any] = {"RescaleSlope": 1, "RescaleIntercept": -1024, **TWELVE_BITS}
    voi = lut(np.minimum(np.arange(4096) * 16, 65535), -1024)
    path = dicom(tmp_path / "a.dcm", TWELVE, VOILUTSequence=voi, **tags)
    np.testing.assert_array_equal(decode(path).pixels, np.rint(TWELVE * (16 * 255 / 65535)))


@pytest.mark.filterwarnings("ignore:.*exceeds the size of 64 kByte")
def test_a_voi_lut_with_all_entries_that_there_can_be(tmp_path: Path) -> None:
    stored = (TWELVE * 16).astype(np.uint16)
    for first, values in [(0, stored), (-32768, (stored.astype(int) - 32768).astype(np.int16))]:
        path = dicom(tmp_path / "a.dcm", values, VOILUTSequence=lut(range(65535, -1, -1), first))
        expected = np.rint((65535 - stored) * (255 / 65535))
        np.testing.assert_array_equal(decode(path).pixels, expected)


@pytest.mark.parametrize("packed", [False, True])
def test_a_voi_lut_of_eight_bits(tmp_path: Path, packed: bool) -> None:
    """Each entry has a 16-bit word of its own, or shares one with the next."""
    voi = lut(np.arange(4096) >> 4, bits=8)
    if packed:
        entries = (np.arange(4096) >> 4).astype(np.uint8).tobytes()
        voi[0].LUTData = [int(word) for word in np.frombuffer(entries, "<u2")]
    path = dicom(tmp_path / "a.dcm", TWELVE, VOILUTSequence=voi, **TWELVE_BITS)
    np.testing.assert_array_equal(decode(path).pixels, TWELVE >> 4)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_modality_lut_comes_before_the_window(tmp_path: Path, bits: int) -> None:
    falling = (4095 - np.arange(4096)) >> max(12 - bits, 0)
    path = dicom(
        tmp_path / "a.dcm", TWELVE, ModalityLUTSequence=lut(falling, bits=bits),
        WindowCenter=100, WindowWidth=101, RescaleSlope=9, **TWELVE_BITS,
    )  # fmt: skip
    expected = np.clip((falling[TWELVE] - 99.5) / 100 + 0.5, 0, 1) * 255
    assert np.abs(decode(path).pixels - expected).max() < 0.51
    if bits == 16:  # pydicom does not know the other depths, or not with so many entries
        np.testing.assert_array_equal(apply_modality_lut(TWELVE, dcmread(path)), falling[TWELVE])


def test_a_modality_lut_without_a_window_is_scaled_by_what_it_gives(tmp_path: Path) -> None:
    entries = np.append(1023 - np.arange(1024), 60000)  # the last one does not occur
    path = dicom(tmp_path / "a.dcm", TWELVE >> 2, ModalityLUTSequence=lut(entries), **TWELVE_BITS)
    assert np.abs(decode(path).pixels - (1023 - (TWELVE >> 2)) * (255 / 1023)).max() < 0.51


def test_a_modality_lut_then_a_voi_lut(tmp_path: Path) -> None:
    luts = {"ModalityLUTSequence": lut(4095 - np.arange(4096)), "VOILUTSequence": lut(CUBIC)}
    pixels = decode(dicom(tmp_path / "a.dcm", TWELVE, **luts, **TWELVE_BITS)).pixels
    assert np.abs(pixels - CUBIC[4095 - TWELVE] * (255 / 65535)).max() < 0.51


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, None])
def test_a_lut_of_words_in_either_byte_order(tmp_path: Path, syntax: Any) -> None:
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    words = CUBIC[::16].astype(order).tobytes()
    path = dicom(tmp_path / "b.dcm", SMOOTH, VOILUTSequence=lut(words, vr="OW"))
    if syntax is not None:
        dataset = dcmread(path)
        list(dataset.iterall())  # all elements are read before they are rewritten
        dataset.file_meta.TransferSyntaxUID = syntax
        little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
        dcmwrite(path, dataset, little_endian=little, implicit_vr=implicit, force_encoding=True)
    expected = CUBIC[::16][SMOOTH] * (255 / 65535)
    assert np.abs(decode(path).pixels - expected).max() < 0.51


@pytest.mark.parametrize("bits", [8, 12, 16, 0])
def test_a_voi_lut_is_shown_up_to_its_own_depth(tmp_path: Path, bits: int) -> None:
    """Descriptors often give the depth of the words instead."""
    path = dicom(tmp_path / "a.dcm", TWELVE, VOILUTSequence=lut(range(4096), bits=bits))
    np.testing.assert_array_equal(decode(path).pixels, np.rint(TWELVE * (255 / 4095)))


def broken_luts() -> list[Sequence]:
    """A LUT shorter than it says, one without a descriptor, one whose descriptor is too short."""
    short, bare, cut = (lut(range(100)) for _ in range(3))
    short[0].LUTDescriptor = [101, 0, 16]
    del bare[0].LUTDescriptor
    cut[0].LUTDescriptor = [100, 0]
    return [short, bare, cut]


@pytest.mark.parametrize("broken", broken_luts())
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 128, "WindowWidth": 99}])
def test_a_broken_voi_lut_is_passed_over(
    tmp_path: Path, broken: Sequence, window: dict[str, Any]
) -> None:
    found = decode(dicom(tmp_path / "a.dcm", SMOOTH, VOILUTSequence=broken, **window))
    plain = decode(dicom(tmp_path / "b.dcm", SMOOTH, **window))
    np.testing.assert_array_equal(found.pixels, plain.pixels)


@pytest.mark.parametrize("broken", broken_luts()[:2])
def test_a_broken_modality_lut_is_refused(tmp_path: Path, broken: Sequence) -> None:
    path = dicom(tmp_path / "a.dcm", SMOOTH, ModalityLUTSequence=broken)
    assert reason(path) == images.UNREADABLE


@pytest.mark.parametrize(
    ("photometric", "shape", "converted"),
    [("MONOCHROME1", "INVERSE", "MONOCHROME1"), ("MONOCHROME1", "IDENTITY", "MONOCHROME1"),
     ("MONOCHROME2", "INVERSE", "INVERSE"), ("MONOCHROME2", "IDENTITY", "")],
)  # fmt: skip
def test_a_film_is_inverted_once(
    tmp_path: Path, photometric: str, shape: str, converted: str
) -> None:
    picture = decode(dicom(tmp_path / "a.dcm", film(), photometric, PresentationLUTShape=shape))
    assert picture.converted == converted
    np.testing.assert_array_equal(picture.pixels, 255 - film() if converted else film())


# ------------------------------------------------------------------------------ padding


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2048, "WindowWidth": 4096}])
@pytest.mark.parametrize(
    ("dtype", "padding"), [("u2", 65535), ("u2", 0), ("i2", -32768), ("i2", 32767), ("u1", 255)]
)
def test_padding_is_black_and_takes_no_part(
    tmp_path: Path, photometric: str, window: dict[str, Any], dtype: str, padding: int
) -> None:
    stored = (TWELVE if dtype != "u1" else TWELVE >> 4).astype(dtype)
    stored = np.clip(stored, 1, 254 if dtype == "u1" else 4095).astype(dtype)
    plain = decode(dicom(tmp_path / "a.dcm", stored, photometric, **window)).pixels.copy()
    stored[10:20] = padding
    tags: dict[str, Any] = {"PixelPaddingValue": padding, **window}
    plain[10:20] = 0
    padded = decode(dicom(tmp_path / "b.dcm", stored, photometric, **tags)).pixels
    np.testing.assert_array_equal(padded, plain)


@pytest.mark.parametrize(("vr", "value"), [("US", 63536), ("SS", -2000)])
def test_padding_may_have_another_sign_than_the_pixels(tmp_path: Path, vr: str, value: int) -> None:
    stored = TWELVE.astype(np.int16) - 1000
    stored[:9] = -2000
    path = dicom(tmp_path / "a.dcm", stored)
    dataset = dcmread(path)
    dataset.add_new("PixelPaddingValue", vr, value)
    dataset.save_as(path)
    pixels = decode(path).pixels
    assert pixels[:9].max() == 0
    np.testing.assert_array_equal(pixels[9:], decode(dicom(tmp_path / "b.dcm", stored[9:])).pixels)


@pytest.mark.parametrize("ends", [(100, 300), (300, 100)])
def test_padding_may_be_a_range(tmp_path: Path, ends: tuple[int, int]) -> None:
    tags: dict[str, Any] = {"PixelPaddingValue": ends[0], "PixelPaddingRangeLimit": ends[1]}
    path = dicom(tmp_path / "a.dcm", TWELVE, "MONOCHROME1", **tags, **TWELVE_BITS)
    inside = (TWELVE >= 100) & (TWELVE <= 300)
    plain = decode(dicom(tmp_path / "b.dcm", TWELVE, "MONOCHROME1", **TWELVE_BITS)).pixels
    np.testing.assert_array_equal(decode(path).pixels, np.where(inside, 0, plain))


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2, "WindowWidth": 9}])
def test_nothing_but_padding_is_of_one_value(tmp_path: Path, window: dict[str, Any]) -> None:
    stored = np.full((9, 9), 7, dtype=np.uint16)
    path = dicom(tmp_path / "a.dcm", stored, "MONOCHROME1", PixelPaddingValue=7, **window)
    assert reason(path) == images.CONSTANT


# ------------------------------------------------------------------------------ elements


@pytest.mark.parametrize("lacking", [["HighBit"], ["BitsStored"], ["HighBit", "BitsStored"]])
@pytest.mark.parametrize("syntax", [None, JPEGLSLossless], ids=["plain", "JPEG-LS"])
def test_missing_bits(tmp_path: Path, lacking: list[str], syntax: Any) -> None:
    """About one in twenty of CheXpert Plus's DICOM files lacks HighBit."""
    path = dicom(tmp_path / "a.dcm", film().astype(np.uint16) * 16, BitsStored=12, HighBit=11)
    plain = decode(path).pixels
    if syntax:
        compress(path, syntax)
    dataset = dcmread(path)
    for name in lacking:
        delattr(dataset, name)
    dataset.save_as(path)
    np.testing.assert_array_equal(decode(path).pixels, plain)


@pytest.mark.parametrize("window", [("nan", "1"), ("1", "inf"), ("", ""), ("5", "0")])
def test_a_window_that_is_none(tmp_path: Path, window: tuple[str, str]) -> None:
    path = dicom(tmp_path / "a.dcm", film())
    data = dcmread(path)
    data.add_new("WindowCenter", "DS", "100.0"), data.add_new("WindowWidth", "DS", "99.00")
    data.save_as(path)
    raw = path.read_bytes()
    raw = raw.replace(b"100.0 ", window[0].ljust(6).encode())
    path.write_bytes(raw.replace(b"99.00 ", window[1].ljust(6).encode()))
    np.testing.assert_array_equal(decode(path).pixels, film())


def test_sixteen_bit_colours_do_not_wrap(tmp_path: Path) -> None:
    colours = np.stack([film(i) for i in range(3)], axis=-1).astype(np.uint16) << 8
    path = dicom(tmp_path / "a.dcm", film().astype(np.uint16), SamplesPerPixel=3,
                 PhotometricInterpretation="RGB", PlanarConfiguration=0,
                 PixelData=colours.tobytes())  # fmt: skip
    expected = np.asarray(Image.fromarray((colours >> 8).astype(np.uint8)).convert("L"))
    assert np.abs(decode(path).pixels.astype(int) - expected).max() <= 1


def test_a_deflated_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dicom(tmp_path / "a.dcm", film())
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    np.testing.assert_array_equal(decode(path).pixels, film())
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    path.write_bytes(data[:start] + deflate.compress(bytes(3 << 20)) + deflate.flush())
    monkeypatch.setattr(archives, "MAX_BYTES", 2 << 20)
    assert reason(path) == images.TOO_LARGE
    # behind a long element, and with a wrong group length
    private = b"\x02\0\x02\x01OB\0\0" + (1 << 16).to_bytes(4, "little") + bytes(1 << 16)
    bomb = path.read_bytes()
    path.write_bytes(bomb[:144] + private + bomb[144:])
    assert reason(path) == images.TOO_LARGE
    # what follows the end of the stream is not read again and again
    path.write_bytes(data + bytes(1 << 20))
    np.testing.assert_array_equal(decode(path).pixels, film())


def test_an_element_that_claims_more_than_there_is(tmp_path: Path) -> None:
    """In a process that may not allocate the memory that the file asks for."""
    path = dicom(tmp_path / "a.dcm", film())
    element = b"\x08\0\x16\x01OB\0\0" + (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(path.read_bytes() + element + bytes(10))
    code = (
        "import resource, sys; from pathlib import Path; from convirt.datasets import images\n"
        "import pydicom, numpy; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "try: images.decode(Path(sys.argv[1]))\n"
        "except images.BadImageError as error: print('refused:', error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
def test_a_stream_that_is_larger_than_it_says(tmp_path: Path, syntax: Any) -> None:
    dataset = dcmread(compress(dicom(tmp_path / "a.dcm", np.tile(SMOOTH, (8, 8))), syntax))
    dataset.Rows, dataset.Columns = 8, 9
    dataset.save_as(tmp_path / "b.dcm")
    with contextlib.suppress(BadImageError):
        assert decode(tmp_path / "b.dcm").pixels.shape == (8, 9)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless], ids=lambda uid: uid.keyword)
def test_a_stream_that_claims_four_billion_pixels(
    tmp_path: Path, syntax: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compress(dicom(tmp_path / "a.dcm", SMOOTH), syntax)
    data = path.read_bytes()
    assert data.count(b"\x08\0\x40\0\x3c\x01") == 1  # 8 bits, 64 x 60, one component
    path.write_bytes(data.replace(b"\x08\0\x40\0\x3c\x01", b"\x08\xff\xff\xff\xff\x01"))
    for name in ("jpeg8_decode", "jpegls_decode"):
        monkeypatch.setattr(f"imagecodecs.{name}", lambda *_: pytest.fail("decoded"))
    assert reason(path) == images.UNREADABLE


# ------------------------------------------------------------------------------ hostile bytes


@pytest.mark.parametrize(("number", "fault"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_an_error_of_the_file_or_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fault: bool
) -> None:
    """A header may make a decoder seek before the start; but a disk that fails is no bad image."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "a.tif").write_bytes(b"II*\0")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(BadImageError if fault else OSError):
        decode(tmp_path / "a.tif")


def _starts() -> list[bytes]:
    """The beginnings of good files of every kind, and bare magic numbers."""
    import imagecodecs

    starts = [
        b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM", b"RIFF\0\0\0\0WEBP",
        bytes(128) + b"DICM", b"PK\x03\x04",
    ]  # fmt: skip
    for kind in ("JPEG", "PNG", "TIFF", "BMP", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(SMOOTH).save(buffer, kind)
        starts.append(buffer.getvalue())
    starts.append(imagecodecs.png_encode(np.repeat(SMOOTH[..., None], 4, -1).astype(np.uint16)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dcm"
        starts += [dicom(path, SMOOTH, jpeg=jpeg).read_bytes() for jpeg in (False, True)]
        luts = {"ModalityLUTSequence": lut(range(256), bits=8), "VOILUTSequence": lut(range(256))}
        starts.append(dicom(path, SMOOTH, **luts, PixelPaddingValue=9).read_bytes())
        for syntax in LOSSLESS:
            starts.append(compress(dicom(path, SMOOTH), syntax).read_bytes())
    return starts


STARTS = _starts()


def _check(data: bytes) -> None:
    """Any bytes give a picture, or a reason why there is none."""
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(data)
    try:
        picture = decode(Path(file.name), 32)
    except BadImageError as bad:
        assert bad.reason in {
            images.EMPTY, images.UNREADABLE, images.TRUNCATED, images.CONSTANT, images.TOO_LARGE,
        }  # fmt: skip
    else:
        assert isinstance(picture, Picture)
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.ndim == 2
        assert picture.pixels.min() < picture.pixels.max()
    finally:
        os.unlink(file.name)  # noqa: PTH108


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(STARTS[:8]), st.binary(max_size=400))
def test_random_bytes_behind_a_magic_number(start: bytes, rest: bytes) -> None:
    _check(start + rest)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(STARTS[8:]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    st.floats(0.3, 1.0),
    st.binary(max_size=9),
)
def test_good_files_with_changed_bytes(
    start: bytes, changes: list[tuple[float, int]], keep: float, rest: bytes
) -> None:
    data = bytearray(start)
    for place, value in changes:
        data[int(place * len(data))] = value
    _check(bytes(data[: round(len(data) * keep)]) + rest)
