"""Colors: every way of storing them becomes the sRGB that ImageCms computes."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from fireedit.benchmarks.serving.conventions import (
    ADOBE,
    P3,
    SRGB,
    SRGB_CURVE,
    conventions,
    gray_profile,
    rgb_profile,
)
from fireedit.platform import images
from fireedit.platform.colors import is_plain_srgb
from tests.platform.test_images import encoded, picture


def by_lcms(image: Image.Image, profile: bytes) -> np.ndarray:
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize(
    "profile",
    [
        rgb_profile(P3, SRGB_CURVE, "Display P3"),
        rgb_profile(ADOBE, (0, 2.19921875), "Adobe RGB (1998)"),
        rgb_profile(SRGB, (0, 1.0), "Linear sRGB"),
    ],
    ids=["p3", "adobe", "linear"],
)
def test_a_profile_is_applied_whatever_the_mode_and_its_name(mode: str, profile: bytes) -> None:
    image = Image.fromarray(picture()).convert(mode)
    wanted = by_lcms(image.convert("RGB"), profile)
    assert np.abs(wanted.astype(int) - np.asarray(image.convert("RGB"))).max() > 10
    data = encoded(image, "PNG", icc_profile=profile)
    np.testing.assert_array_equal(images.decode(data), wanted)
    assert not is_plain_srgb(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_gray_profile_is_applied(mode: str) -> None:
    image = Image.fromarray(picture()[..., 0]).convert(mode)
    wanted = by_lcms(image.convert("L"), gray_profile(1.0))
    np.testing.assert_array_equal(images.decode(encoded(image, "PNG", icc_profile=gray_profile(1.0))), wanted)


def test_a_profile_that_is_srgb_changes_no_pixel() -> None:
    data = encoded(Image.fromarray(picture()), "PNG", icc_profile=rgb_profile(SRGB, SRGB_CURVE, "camera"))
    np.testing.assert_array_equal(images.decode(data), picture())
    assert is_plain_srgb(Image.open(io.BytesIO(data)))


def test_a_profile_of_another_kind_of_color_is_ignored() -> None:
    data = encoded(Image.fromarray(picture()), "PNG", icc_profile=gray_profile(1.0))
    np.testing.assert_array_equal(images.decode(data), picture())


def with_gamma(png: bytes, gamma: float, *more: bytes) -> bytes:
    chunks = [b"gAMA" + struct.pack(">I", round(gamma * 100_000)), *more]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return png[:33] + b"".join(packed) + png[33:]


def test_a_pngs_gamma_is_applied_unless_it_is_srgbs_or_overruled() -> None:
    png = images.encode_png(np.full((2, 2, 3), 128, np.uint8))
    assert images.decode(with_gamma(png, 1.0))[0, 0].tolist() == [188] * 3, "linear light of a half"
    assert images.decode(with_gamma(png, 0.45455))[0, 0].tolist() == [128] * 3
    assert images.decode(with_gamma(png, 1.0, b"sRGB\0"))[0, 0].tolist() == [128] * 3
    assert images.decode(with_gamma(png, 0.0))[0, 0].tolist() == [128] * 3


def test_pictures_by_the_conventions_of_other_programs_are_what_a_person_sees() -> None:
    wrong, names = [], set[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about the very pictures
        for each in conventions():
            names.add(each.name)
            if not np.array_equal(images.Picture(each.file).pixels(None), each.pixels):
                wrong.append(each.name)
    assert not wrong and len(names) >= 60, wrong
