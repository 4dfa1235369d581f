"""Colors: every way of storing them becomes the sRGB that ImageCms computes."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from fireedit.platform import images
from fireedit.platform.colors import is_plain_srgb
from tests.platform.test_images import encoded, picture

D50 = (0.9642, 1.0, 0.8249)
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
SRGB_CURVE = (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def rgb_profile(primaries: tuple, curve: tuple[float, ...], name: str) -> bytes:
    """Build an ICC profile of version 4; a curve is the type of `para` and its parameters."""
    text = name.encode("utf-16-be")
    description = b"mluc\0\0\0\0" + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(text), 28) + text
    para = b"para\0\0\0\0" + struct.pack(">HH", int(curve[0]), 0) + fixed(*curve[1:])
    xyz = [b"XYZ \0\0\0\0" + fixed(*values) for values in (D50, *primaries)]
    tags = dict(
        zip((b"desc", b"cprt", b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ"), (description, description, *xyz), strict=True)
    )
    return _profile(b"RGB ", tags | {name: para for name in (b"rTRC", b"gTRC", b"bTRC")})


def gray_profile(gamma: float) -> bytes:
    curve = b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + fixed(gamma)
    text = "gray".encode("utf-16-be")
    description = b"mluc\0\0\0\0" + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(text), 28) + text
    tags = {b"desc": description, b"cprt": description, b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50), b"kTRC": curve}
    return _profile(b"GRAY", tags)


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, data, offset = b"", b"", 132 + 12 * len(tags)
    for signature, tag in tags.items():
        tag += b"\0" * (-len(tag) % 4)
        table += signature + struct.pack(">II", offset + len(data), len(tag))
        data += tag
    head = struct.pack(">I", offset + len(data)) + b"lcms" + struct.pack(">I", 0x04000000) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acspAPPL" + bytes(20) + struct.pack(">I", 0) + fixed(*D50)
    return head + b"lcms" + bytes(44) + struct.pack(">I", len(tags)) + table + data


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
