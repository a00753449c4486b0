"""DICOM as archives hold it: every usual way of compression, missing elements, hostile bytes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.encaps import encapsulate
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

from convirt.datasets import archives, images
from convirt.datasets.images import BadImageError, Picture, decode

SMOOTH = np.add.outer(np.arange(0, 128, 2), np.arange(0, 120, 2)).astype(np.uint8)  # (64, 60)


def compress(path: Path, syntax: Any, level: int = 0) -> Path:
    """Write a grey file anew in another transfer syntax; `level`: of loss."""
    import imagecodecs

    dataset = dcmread(path)
    bits, stored = int(dataset.BitsStored), dataset.pixel_array
    if stored.dtype.kind == "i" and syntax != JPEG2000Lossless:  # JPEG knows no signs
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
    return str(caught.value)


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
    assert len(list(dataset)) > 9  # all elements are read before they are written anew
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
    # behind a long element, and with a length of the group that is wrong
    private = b"\x02\0\x02\x01OB\0\0" + (1 << 16).to_bytes(4, "little") + bytes(1 << 16)
    bomb = path.read_bytes()
    path.write_bytes(bomb[:144] + private + bomb[144:])
    assert reason(path) == images.TOO_LARGE
    # what follows the end of the stream is not read again and again
    path.write_bytes(data + bytes(1 << 20))
    np.testing.assert_array_equal(decode(path).pixels, film())


def test_an_element_that_claims_more_than_there_is(tmp_path: Path) -> None:
    """In a process that may not take the memory which the file asks for."""
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
    """A header may send a decoder before the start; but a disk that fails is no bad image."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "a.tif").write_bytes(b"II*\0")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(BadImageError if fault else OSError):
        decode(tmp_path / "a.tif")


def _starts() -> list[bytes]:
    """The beginnings of good files of every kind, and bare magic numbers."""
    starts = [
        b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM", b"RIFF\0\0\0\0WEBP",
        bytes(128) + b"DICM", b"PK\x03\x04",
    ]  # fmt: skip
    for kind in ("JPEG", "PNG", "TIFF", "BMP", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(SMOOTH).save(buffer, kind)
        starts.append(buffer.getvalue())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dcm"
        starts += [dicom(path, SMOOTH, jpeg=jpeg).read_bytes() for jpeg in (False, True)]
        for syntax in LOSSLESS:
            starts.append(compress(dicom(path, SMOOTH), syntax).read_bytes())
    return starts


STARTS = _starts()


def _check(data: bytes) -> None:
    """Whatever the bytes are: a picture, or a reason why there is none."""
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(data)
    try:
        picture = decode(Path(file.name), 32)
    except BadImageError as bad:
        assert str(bad) in {
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
