"""Images of every kind to 8-bit grey, and a reason for each that cannot be used."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from pydicom import Dataset
from raw import dicom, film, save

from convirt.datasets import images
from convirt.datasets.grey_values import to_eight_bits
from convirt.datasets.images import BadImageError, decode
from convirt.datasets.squares import fit

TWELVE = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def reason(path: Path) -> str:
    with pytest.raises(BadImageError) as caught:
        decode(path, 32)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    return caught.value.reason


def deep_png(path: Path, samples: np.ndarray) -> Path:
    """Write (height, width, channels) uint16."""
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(samples))
    return path


def with_chunk(path: Path, before: bytes, name: bytes, content: bytes) -> Path:
    """Put a chunk into a PNG, in front of the first one called `before`."""
    data, check = path.read_bytes(), struct.pack(">I", zlib.crc32(name + content))
    at = data.index(before) - 4
    chunk = struct.pack(">I", len(content)) + name + content + check
    path.write_bytes(data[:at] + chunk + data[at:])
    return path


def tiff(path: Path, values: np.ndarray, photometric: int, order: str = "<") -> Path:
    """Write (height, width) or (height, width, 3) as one strip; Pillow writes fewer kinds."""
    samples = values.shape[2] if values.ndim == 3 else 1
    bits, kind = values.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    pixels = values.astype(order + values.dtype.str[1:]).tobytes()
    tags = [(256, values.shape[1]), (257, values.shape[0]), (258, bits), (259, 1),
            (262, photometric), (273, 8), (277, samples), (278, values.shape[0]),
            (279, len(pixels)), (339, kind)]  # fmt: skip
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(pixels))
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(start + pixels + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))
    return path


# ------------------------------------------------------------------------------ rasters


def test_grey_png_is_unchanged(tmp_path: Path) -> None:
    picture = decode(save(tmp_path / "a.png", 3))
    assert picture.converted == ""
    np.testing.assert_array_equal(picture.pixels, film(3))


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 3).rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(decode(path).pixels, film(3))


def test_sixteen_bit_png(tmp_path: Path) -> None:
    grey = film(1)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "full.png")
    picture = decode(tmp_path / "full.png")
    assert picture.converted == "16 bit"
    np.testing.assert_array_equal(picture.pixels, grey)


def test_twelve_bits_in_a_sixteen_bit_png_are_not_black(tmp_path: Path) -> None:
    Image.fromarray(film(1).astype(np.uint16) * 16).save(tmp_path / "twelve.png")
    pixels = decode(tmp_path / "twelve.png").pixels
    assert np.abs(pixels.astype(int) - film(1)).max() <= 1


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_sixteen_bit_colours_and_alpha_are_scaled_as_grey_is(
    tmp_path: Path, channels: int, bits: int
) -> None:
    grey = TWELVE << 4 >> (16 - bits)
    samples = np.repeat(grey[..., None], channels, axis=-1)
    if channels != 3:
        samples[..., -1] = 65535  # opaque
    Image.fromarray(grey).save(tmp_path / "grey.png")
    plain = decode(tmp_path / "grey.png").pixels
    assert len(np.unique(plain)) == 256
    picture = decode(deep_png(tmp_path / "a.png", samples))
    np.testing.assert_array_equal(picture.pixels, plain)
    assert picture.converted == ("RGB" if channels == 3 else "RGBA")


def test_sixteen_bit_colours_weigh_as_those_of_eight_bits(tmp_path: Path) -> None:
    colours = np.stack([film(i) for i in range(4)], axis=-1)
    Image.fromarray(colours).save(tmp_path / "eight.png")
    deep = deep_png(tmp_path / "sixteen.png", colours.astype(np.uint16) * 257)
    difference = decode(deep).pixels.astype(int) - decode(tmp_path / "eight.png").pixels
    assert np.abs(difference).max() <= 1


def test_transparent_pixels_of_sixteen_bits_are_black(tmp_path: Path) -> None:
    samples = np.stack([TWELVE, np.where(TWELVE > 1000, 65535, 0)], axis=-1).astype(np.uint16)
    expected = to_eight_bits(np.where(TWELVE > 1000, TWELVE, 0))
    np.testing.assert_array_equal(decode(deep_png(tmp_path / "a.png", samples)).pixels, expected)
    Image.fromarray(TWELVE).save(tmp_path / "b.png")  # one value marks transparent pixels
    with_chunk(tmp_path / "b.png", b"IDAT", b"tRNS", (4095).to_bytes(2, "big"))
    expected = to_eight_bits(np.where(TWELVE < 4095, TWELVE, 0))
    np.testing.assert_array_equal(decode(tmp_path / "b.png").pixels, expected)


def test_sixteen_bit_colours_are_no_way_around_the_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deep_png(tmp_path / "a.png", np.repeat(TWELVE[..., None], 3, axis=-1))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert reason(path) == images.TRUNCATED
    path.write_bytes(data)
    monkeypatch.setattr("imagecodecs.png_decode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64 - 1)
    assert reason(path) == images.TOO_LARGE


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_whose_white_is_zero_is_turned_around(tmp_path: Path, dtype: type) -> None:
    values: np.ndarray = (TWELVE >> 4 if dtype == np.uint8 else TWELVE).astype(dtype)
    plain = decode(tiff(tmp_path / "a.tif", values, photometric=1)).pixels
    assert (plain[0, 0], plain[-1, -1]) == (0, 255)
    turned = decode(tiff(tmp_path / "b.tif", values, photometric=0)).pixels
    np.testing.assert_array_equal(turned, 255 - plain)


def test_tiff_with_negative_values_is_whole(tmp_path: Path) -> None:
    plain = decode(tiff(tmp_path / "a.tif", TWELVE, 1)).pixels
    signed = TWELVE.astype(np.int32) - 2048
    for dtype, order in [(np.int32, "<"), (np.int32, ">"), (np.int16, "<"), (np.int16, ">")]:
        path = tiff(tmp_path / "b.tif", signed.astype(dtype), 1, order)
        np.testing.assert_array_equal(decode(path).pixels, plain)


def test_tiff_of_which_pillow_reads_wrong_numbers_is_refused(tmp_path: Path) -> None:
    wide = TWELVE.astype(np.uint32) << 20  # beyond 2^31
    assert reason(tiff(tmp_path / "a.tif", wide, 1)) == images.UNREADABLE
    decode(tiff(tmp_path / "a.tif", wide >> 1, 1))
    assert reason(tiff(tmp_path / "a.tif", TWELVE, 0, ">")) == images.UNREADABLE
    colours = np.repeat(TWELVE[..., None], 3, axis=-1)
    for order in "<>":
        assert reason(tiff(tmp_path / "b.tif", colours, 2, order)) == images.UNREADABLE
    decode(tiff(tmp_path / "b.tif", (colours >> 4).astype(np.uint8), 2))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_colours_and_alpha_are_converted_and_told(tmp_path: Path, mode: str) -> None:
    grey = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None], 20, axis=1)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    picture = decode(tmp_path / "a.png")
    assert picture.converted == mode
    assert picture.pixels.shape == (24, 20)
    assert np.abs(picture.pixels.astype(int) - grey).max() <= 1


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    rgba = np.full((8, 8, 4), 200, dtype=np.uint8)
    rgba[:4, :, 3], rgba[4:, :, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = decode(tmp_path / "a.png").pixels
    assert pixels[:4].max() == 0
    assert pixels[4:].min() == 200


def test_a_large_jpeg_is_decoded_at_a_fraction(tmp_path: Path) -> None:
    y, x = np.mgrid[0:1200, 0:1000]
    smooth = (127 + 90 * np.sin(x / 150) * np.cos(y / 170)).astype(np.uint8)
    Image.fromarray(smooth).convert("RGB").save(tmp_path / "a.jpg", quality=95)
    full, reduced = decode(tmp_path / "a.jpg"), decode(tmp_path / "a.jpg", 64)
    assert full.pixels.shape == (1200, 1000)
    assert 128 <= max(reduced.pixels.shape) < 300
    assert full.converted == reduced.converted == "RGB"
    one, other = fit(full.pixels, 64)[0], fit(reduced.pixels, 64)[0]
    assert np.abs(one.astype(int) - other).max() <= 3


# ------------------------------------------------------------------------------ EXIF


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_made_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    smooth = np.add.outer(np.arange(0, 120, 3), np.arange(0, 120, 2)).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(smooth).save(path, exif=turned(orientation), lossless=True, quality=100)
    plain = Image.fromarray(smooth)
    plain.getexif()[ExifTags.Base.Orientation] = orientation
    expected = np.asarray(ImageOps.exif_transpose(plain)).astype(int)
    pixels = decode(path).pixels
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= 2


def test_a_sixteen_bit_picture_with_the_orientation_behind_it(tmp_path: Path) -> None:
    samples = np.repeat(TWELVE[:40, :, None], 3, axis=-1)
    plain = decode(deep_png(tmp_path / "a.png", samples)).pixels
    exif = turned(6).tobytes().removeprefix(b"Exif\0\0")
    path = with_chunk(tmp_path / "a.png", b"IEND", b"eXIf", exif)
    np.testing.assert_array_equal(decode(path).pixels, np.rot90(plain, -1))


def test_a_large_jpeg_is_made_upright_after_its_draft(tmp_path: Path) -> None:
    y, x = np.mgrid[0:1200, 0:1000]
    smooth = (127 + 90 * np.sin(x / 150) * np.cos(y / 170)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg")
    Image.fromarray(smooth).save(tmp_path / "b.jpg", exif=turned(8))
    plain = decode(tmp_path / "a.jpg", 64).pixels
    assert max(plain.shape) < 300
    np.testing.assert_array_equal(decode(tmp_path / "b.jpg", 64).pixels, np.rot90(plain))


# random bytes that happen to form an orientation tag would not be damage
NO_TAG = st.binary(max_size=90).filter(
    lambda data: b"\x12\x01" not in data and b"\x01\x12" not in data
)


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
@settings(deadline=None, max_examples=100)
@given(st.sampled_from([b"", b"MM\0*\0\0\0\x08\0\x02", b"II*\0\x08\0\0\0\2\0"]), NO_TAG)
def test_a_damaged_exif_block_tells_nothing(start: bytes, rest: bytes) -> None:
    for kind in ("PNG", "JPEG"):
        plain, damaged = io.BytesIO(), io.BytesIO()
        Image.fromarray(film(1)).save(plain, kind)
        Image.fromarray(film(1)).save(damaged, kind, exif=b"Exif\0\0" + start + rest)
        plain.seek(0), damaged.seek(0)
        expected = images._raster(plain, 0).pixels
        np.testing.assert_array_equal(images._raster(damaged, 0).pixels, expected)


def test_an_exif_block_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Each of its entries claims the whole block as its value: 5,000 times 100 kB."""
    entries = [struct.pack(">HHII", tag, 7, 100_000, 8) for tag in range(1000, 6000)]
    block = b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + b"".join(entries)
    Image.fromarray(film(1)).save(tmp_path / "a.png", exif=block.ljust(100_100, b"\0"))
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(decode(tmp_path / "a.png").pixels, film(1))
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------ DICOM


def test_dicom_grey(tmp_path: Path) -> None:
    picture = decode(dicom(tmp_path / "a.dcm", film()))
    assert picture.converted == ""
    np.testing.assert_array_equal(picture.pixels, film())


def test_dicom_monochrome1_is_turned_around(tmp_path: Path) -> None:
    picture = decode(dicom(tmp_path / "a.dcm", film(), "MONOCHROME1"))
    assert picture.converted == "MONOCHROME1"
    np.testing.assert_array_equal(picture.pixels, 255 - film())


def test_dicom_with_jpeg_inside_and_no_suffix(tmp_path: Path) -> None:
    smooth = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    pixels = decode(dicom(tmp_path / "no-suffix", smooth, jpeg=True)).pixels
    assert np.abs(pixels.astype(int) - smooth).max() <= 6


def test_dicom_window_applies_to_rescaled_values_before_turning(tmp_path: Path) -> None:
    stored = np.arange(0, 400, dtype=np.uint16).reshape(20, 20)
    tags: dict[str, Any] = {
        "RescaleSlope": 2,
        "RescaleIntercept": -100,
        "WindowCenter": 200,
        "WindowWidth": 201,
    }
    shown = ((2.0 * stored - 100 - 199.5) / 200 + 0.5).clip(0, 1) * 255
    plain = decode(dicom(tmp_path / "a.dcm", stored, **tags)).pixels
    np.testing.assert_array_equal(plain, np.rint(shown).astype(np.uint8))
    turned = decode(dicom(tmp_path / "b.dcm", stored, "MONOCHROME1", **tags)).pixels
    np.testing.assert_array_equal(turned, 255 - plain)


def test_dicom_first_of_several_windows(tmp_path: Path) -> None:
    stored = np.arange(400, dtype=np.uint16).reshape(20, 20)
    one = dicom(tmp_path / "a.dcm", stored, WindowCenter=200, WindowWidth=100)
    two = dicom(tmp_path / "b.dcm", stored, WindowCenter=[200, 9], WindowWidth=[100, 9])
    np.testing.assert_array_equal(decode(one).pixels, decode(two).pixels)


def test_dicom_twelve_bits_without_a_window(tmp_path: Path) -> None:
    picture = decode(dicom(tmp_path / "a.dcm", film().astype(np.uint16) * 16, BitsStored=12,
                           HighBit=11))  # fmt: skip
    assert picture.converted == "16 bit"
    assert np.abs(picture.pixels.astype(int) - film()).max() <= 1


def test_dicom_signed_values_and_negative_slope(tmp_path: Path) -> None:
    signed = film().astype(np.int16) - 128
    np.testing.assert_array_equal(decode(dicom(tmp_path / "a.dcm", signed)).pixels, film())
    falling = decode(dicom(tmp_path / "b.dcm", film(), RescaleSlope=-1, RescaleIntercept=255))
    np.testing.assert_array_equal(falling.pixels, film().max() - film())


# ------------------------------------------------------------------------------ bad images


def test_missing(tmp_path: Path) -> None:
    assert reason(tmp_path / "none.png") == images.MISSING
    assert reason(tmp_path) == images.MISSING


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert reason(tmp_path / "a.png") == images.EMPTY


def test_zero_size_dicom(tmp_path: Path) -> None:
    assert reason(dicom(tmp_path / "a.dcm", film(), Rows=0)) == images.EMPTY


def test_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    assert reason(tmp_path / "a.png") == images.UNREADABLE


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated(tmp_path: Path, name: str, keep: float) -> None:
    path = save(tmp_path / name, height=300, width=300)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert reason(path) == images.TRUNCATED


def test_truncated_dicom(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", film())
    path.write_bytes(path.read_bytes()[:-100])
    assert reason(path) in (images.TRUNCATED, images.UNREADABLE)


def test_one_value(tmp_path: Path) -> None:
    Image.new("L", (9, 9), 77).save(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == images.CONSTANT
    black = dicom(tmp_path / "b.dcm", np.zeros((9, 9), np.uint8), "MONOCHROME1")
    assert reason(black) == images.CONSTANT


def test_a_bomb_is_refused_before_it_goes_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(tmp_path / "a.png"), dicom(tmp_path / "a.dcm", film())]
    monkeypatch.setattr(images, "MAX_PIXELS", 400)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert [reason(path) for path in paths] == [images.TOO_LARGE] * 2


def test_a_header_beyond_pillows_own_limit(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (30000, 30000)).save(buffer, "PNG")
    (tmp_path / "bomb.png").write_bytes(buffer.getvalue())
    assert reason(tmp_path / "bomb.png") == images.TOO_LARGE


def test_colour_dicom(tmp_path: Path) -> None:
    colours = np.stack([film(i) for i in range(3)], axis=-1)
    path = dicom(tmp_path / "a.dcm", film(), SamplesPerPixel=3, PhotometricInterpretation="RGB",
                 PlanarConfiguration=0, PixelData=colours.tobytes())  # fmt: skip
    picture = decode(path)
    assert picture.converted == "RGB"
    np.testing.assert_array_equal(picture.pixels, np.asarray(Image.fromarray(colours).convert("L")))


def test_several_frames_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = dicom(tmp_path / "b.dcm", film(), NumberOfFrames=2, PixelData=film().tobytes() * 2)
    fail = property(lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(Dataset, "pixel_array", fail)
    assert reason(several) == images.UNREADABLE


def test_formats_that_are_not_in_the_table(tmp_path: Path) -> None:
    bare = dicom(tmp_path / "a.dcm", film())
    bare.write_bytes(bare.read_bytes()[132:])  # without the preamble
    assert reason(bare) == reason(save(tmp_path / "a.gif")) == images.UNREADABLE


# ------------------------------------------------------------------------------ the square


@pytest.mark.parametrize(
    ("shape", "box"),
    [((100, 50), (0, 8, 32, 16)), ((50, 100), (8, 0, 16, 32)), ((7, 7), (0, 0, 32, 32)),
     ((1000, 1), (0, 15, 32, 1)), ((32, 32), (0, 0, 32, 32))],
)  # fmt: skip
def test_the_larger_side_fills_the_square(
    shape: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    square, found = fit(np.full(shape, 200, np.uint8), 32)
    assert found == box
    top, left, height, width = box
    assert (square[top : top + height, left : left + width] == 200).all()
    assert square.sum() == 200 * height * width  # zero elsewhere


def test_shrinking_averages() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    assert abs(int(fit(stripes, 16)[0][8, 8]) - 127) <= 8  # picking pixels would give 0 or 255


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_any_shape_fits(height: int, width: int, size: int) -> None:
    square, (top, left, rows, columns) = fit(np.ones((height, width), np.uint8), size)
    assert square.shape == (size, size)
    assert max(rows, columns) == size
    assert 0 <= top <= size - rows
    assert 0 <= left <= size - columns


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=9))
def test_eight_bits_keep_the_order(values: list[int]) -> None:
    eight = to_eight_bits(np.array([values], np.uint16))[0]
    order = np.argsort(values, kind="stable")
    assert (np.diff(eight[order].astype(int)) >= 0).all()
