"""The bytes of one image file to pixels: which formats are opened, how large they may be, what is black and what white.

Touches no files, and no warning filters, because it runs in threads. Called by `folder` and `omniglot`.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

Image.init()  # fills Image.OPEN: format -> (what opens it, what knows its first bytes)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # none that starts another program, as EPS does


def open_image(content: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The decoded image; as `PIL.Image.open`, but an image above Pillow's limit of pixels is an error, not a warning.

    Args:
        content: the file.
        formats: names of Pillow's formats; a file of another one is not opened.

    Raises:
        ValueError: no such image, or more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
        Exception: of a dozen types, from Pillow, for damaged bytes.
    """
    opener = next((Image.OPEN[name][0] for name in formats if Image.OPEN[name][1](content[:16]) is True), None)
    if opener is None:
        raise ValueError(f"no image of the formats {', '.join(formats)}")
    image, limit = opener(io.BytesIO(content), ""), Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} pixels; allowed: {limit} in all")
    if image.format == "PNG":
        image.verify()  # its checksums, which decoding passes over; closes the image
        image = opener(io.BytesIO(content), "")
        depth, key = content[24], image.info.get("transparency")
        if image.mode == "L" and key is not None:  # Pillow scales gray of 2 or 4 bits to 8, but not this
            image.info["transparency"] = key * 255 // (2**depth - 1)
        if image.mode == "RGB" and key is not None and depth == 16:  # nor this from 16 to 8
            raise ValueError("a transparent color of 16 bits per channel; allowed: 8 bits, or an alpha channel")
    image.load()
    return image


def on_white(image: Image.Image, mode: str) -> Image.Image:
    """The image in the mode "L" or "RGB": transparent parts on white, as on paper, and white is 255.

    Args:
        image: of any mode. White is 65535 in gray of 16 bits, 1 in floats.
        mode: "L" or "RGB".

    Raises:
        ValueError: floats outside [0, 1], or integers of 32 bits that are not gray of 16 bits.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 bits or floats, which Pillow would clip, as "L", or as "LA" if one value stands for transparency."""
    values = np.asarray(image)  # [height, width], uint16, int32 or float32
    low, high, white = values.min(), values.max(), 1 if image.mode == "F" else 65535
    ambiguous = image.mode == "I" and image.format != "PPM" and 0 < high <= 255  # 8 bits or 16? PPM says its largest
    if not (low >= 0 and high <= white) or ambiguous:  # NaN, too
        allowed = "floats from 0 to 1, or integers from 0 to 65535 (of 32 bits: some above 255)"
        raise ValueError(f"values from {low:g} to {high:g}; allowed: {allowed}")
    gray = Image.fromarray(np.rint(values * np.float32(255 / white)).astype(np.uint8))
    if "transparency" in image.info:
        gray.putalpha(Image.fromarray((values != image.info["transparency"]).astype(np.uint8) * 255))
    return gray


def pixels(content: bytes, image_size: int, channels: int) -> np.ndarray:
    """Pixels of an image file: turned as EXIF says, on white, cropped to the center square and scaled.

    Args:
        content: the file.
        image_size: height and width of the result.
        channels: 1 (gray) or 3.

    Returns:
        uint8 [channels, image_size, image_size].

    Raises:
        Exception: as `open_image`.
    """
    image = open_image(content)
    ImageOps.exif_transpose(image, in_place=True)
    image = on_white(image, "RGB" if channels == 3 else "L")
    if image.size != (image_size, image_size):  # in one step: a long, narrow image never becomes a large one
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)  # averages when it shrinks
    return np.asarray(image).reshape(image_size, image_size, channels).transpose(2, 0, 1)
