"""One image of every kind to 8-bit grey, and a reason for each that cannot be used."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from raw import dicom, film, save

from convirt.datasets import images
from convirt.datasets.images import BadImageError, decode, to_eight_bits
from convirt.datasets.squares import fit


def reason(path: Path) -> str:
    with pytest.raises(BadImageError) as caught:
        decode(path, 32)
    return str(caught.value)


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


def test_colour_dicom_and_several_frames(tmp_path: Path) -> None:
    colours = np.stack([film(i) for i in range(3)], axis=-1)
    path = dicom(tmp_path / "a.dcm", film(), SamplesPerPixel=3, PhotometricInterpretation="RGB",
                 PlanarConfiguration=0, PixelData=colours.tobytes())  # fmt: skip
    picture = decode(path)
    assert picture.converted == "RGB"
    np.testing.assert_array_equal(picture.pixels, np.asarray(Image.fromarray(colours).convert("L")))
    several = dicom(tmp_path / "b.dcm", film(), NumberOfFrames=2, PixelData=film().tobytes() * 2)
    assert reason(several) == images.UNREADABLE


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
