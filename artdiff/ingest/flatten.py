"""Converts pictures of any mode, orientation and colour space to upright sRGB without transparency."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

WHITE = (255, 255, 255)
Colour = tuple[int, int, int]

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → the operation that makes a picture upright (EXIF 2.32, tag 0x0112)."""


def flat(picture: Image.Image, background: Colour, *, enough: int | None = None) -> Image.Image:
    """Convert a Pillow picture of any mode to upright sRGB of mode RGB or L. `background` fills transparent areas.

    A picture with at least twice `enough` pixels on its shorter side may first be reduced, to no fewer than `enough`.
    """
    profile, deep = picture.info.get("icc_profile"), _range(picture)
    picture, alpha = _apart(upright(picture), deep)
    if enough is not None and (alpha is not None or profile or picture.mode not in ("L", "RGB")):
        factor = min(picture.size) // enough
        if factor > 1:
            if alpha is not None:  # transparent pixels must not colour opaque ones
                both = Image.merge("RGBA", (*picture.convert("RGB").split(), alpha)).reduce(factor)
                picture, alpha = both.convert("RGB"), both.getchannel("A")
            else:
                picture = picture.reduce(factor)
    picture = _to_srgb(picture, profile)
    if alpha is None:
        return picture
    return Image.composite(picture.convert("RGB"), Image.new("RGB", picture.size, background), alpha)


def orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:  # the picture may still be fine
        return 1


def upright(picture: Image.Image) -> Image.Image:
    turn = TURNS.get(orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _apart(picture: Image.Image, deep: tuple[float, float] | None) -> tuple[Image.Image, Image.Image | None]:
    """Separate a picture into 8 bits per channel without transparency, and its alpha as mode L, or None."""
    if deep is not None:
        return _eight_bits(picture, *deep), _key_colour(picture)
    if picture.mode in ("La", "RGBa"):  # premultiplied alpha
        picture = picture.convert(picture.mode.upper())
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
        return picture.convert("RGB"), None if alpha.getextrema() == (255, 255) else alpha
    if picture.mode == "1":
        return picture.convert("L"), None
    if picture.mode in ("L", "RGB", "CMYK", "LAB"):
        return picture, None
    return picture.convert("RGB"), None


def _range(picture: Image.Image) -> tuple[float, float] | None:
    """The values of black and white in a grey picture with more than 8 bits; None for other pictures.

    The format defines them, except for 32-bit integers and floats: for these it is the smallest usual range that fits.
    """
    if not (picture.mode in ("I", "F") or picture.mode.startswith("I;16")):
        return None
    tags = getattr(picture, "tag_v2", {})  # a TIFF's; 258 BitsPerSample, 262 PhotometricInterpretation: 0 WhiteIsZero
    if picture.mode.startswith("I;16") or picture.format == "PPM":
        white = 2.0 ** tags.get(258, (16,))[0] - 1
        return (white, 0.0) if tags.get(262) == 0 else (0.0, white)
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds values that are not finite")
    if low < 0:
        return low, max(high, low + 1e-9)
    usual = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0, 2.0**32 - 1)
    return 0.0, next((limit for limit in usual if high <= limit), high)


def _eight_bits(picture: Image.Image, black: float, white: float) -> Image.Image:
    """Convert a grey picture with more than 8 bits to mode L."""
    scaled = (np.asarray(picture).astype(np.float32) - np.float32(black)) * np.float32(255 / (white - black))
    return Image.fromarray((scaled.clip(0, 255) + np.float32(0.5)).astype(np.uint8))


def _key_colour(picture: Image.Image) -> Image.Image | None:
    """The alpha of a grey PNG with more than 8 bits, which may declare one value transparent; None if it does not."""
    key = picture.info.get("transparency")
    if not isinstance(key, int):
        return None
    return Image.fromarray(np.where(np.asarray(picture) == key, 0, 255).astype(np.uint8))


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert L, RGB, CMYK or LAB to L or RGB, with the embedded ICC profile if it fits the mode."""
    if profile or picture.mode == "LAB":
        convert = _conversion(profile, picture.mode)
        if convert is not None:
            return ImageCms.applyTransform(picture, convert) or picture
    if picture.mode == "LAB":
        raise ValueError("its LAB colours cannot be converted")
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


@lru_cache(maxsize=16)
def _conversion(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB; None if the profile is sRGB already, is damaged, or is not for `mode`."""
    spaces = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
    try:
        if mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        if source.profile.xcolor_space.strip() != spaces[mode]:
            return None
        if (source.profile.profile_description or "").startswith(("sRGB IEC61966", "sRGB built-in")):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
