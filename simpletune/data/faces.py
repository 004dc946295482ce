"""Where the largest face of a picture is, for crops that keep it.

The detector is OpenCV's cascade classifier with its own frontal and profile models (Viola and Jones 2001, Lienhart and
Maydt 2002): they come with the library, need no download and run on the processor. It misses faces that are turned
far, covered or drawn; a picture in which none is found is cropped in the middle.
"""

from __future__ import annotations

import io
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from simpletune.data.header import open_picture, orientation, upright
from simpletune.data.sources import SourceError

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet

INSTALL = "pip install 'simpletune[faces]'"

Focus = tuple[float, float]
"""The middle of what a crop has to keep, as shares of the upright picture's width and height."""

NO_FACE: Focus = (0.5, 0.5)
"""What a picture without a face is cropped around: its middle."""

_SEEN_AT = 640  # pixels of the longer edge: faces from about 5% of it are found
_SMALLEST = 0.05
_MODELS = ("haarcascade_frontalface_default.xml", "haarcascade_profileface.xml")


def wants_faces(image_set: ImageSet) -> bool:
    """Whether a data set's crops depend on where faces are."""
    return image_set.crop and image_set.crop_style == "face"


def check_detector() -> None:
    """Raises SourceError with what to install when there is no detector."""
    if find_spec("cv2") is None:
        raise SourceError("crop_style face needs OpenCV, which is not installed", INSTALL)


def find_focus(data: bytes) -> Focus:
    """The middle of the largest face in a picture's file; NO_FACE where none is found or it can't be read."""
    import numpy as np
    from PIL import Image, ImageOps

    try:
        image = open_picture(io.BytesIO(data))
        turn = orientation(image)
        image.draft("L", (_SEEN_AT, _SEEN_AT))
        grey = image.convert("L")
    except Exception:  # damaged files make Pillow raise nearly anything; encoding names this one
        return NO_FACE
    scale = min(1.0, _SEEN_AT / max(grey.size))
    small = grey.resize((max(1, round(grey.width * scale)), max(1, round(grey.height * scale))), Image.Resampling.BOX)
    pixels = np.asarray(upright(ImageOps.equalize(small), turn))
    boxes = [box for found in (_frontal(pixels), _profiles(pixels)) for box in found]
    if not boxes:
        return NO_FACE
    left, top, width, height = max(boxes, key=lambda box: (box[2] * box[3], box))
    return round((left + width / 2) / pixels.shape[1], 4), round((top + height / 2) / pixels.shape[0], 4)


def _frontal(pixels: Any) -> list[tuple[int, int, int, int]]:
    return _detected(0, pixels)


def _profiles(pixels: Any) -> list[tuple[int, int, int, int]]:
    """Faces seen from the side: the model knows those that look to the left, so the mirrored picture is asked too."""
    import numpy as np

    width = pixels.shape[1]
    mirrored = _detected(1, np.ascontiguousarray(pixels[:, ::-1]))
    return _detected(1, pixels) + [(width - left - wide, top, wide, high) for left, top, wide, high in mirrored]


def _detected(model: int, pixels: Any) -> list[tuple[int, int, int, int]]:
    least = max(20, round(_SMALLEST * max(pixels.shape)))
    found = _classifier(model).detectMultiScale(pixels, scaleFactor=1.1, minNeighbors=5, minSize=(least, least))
    return [(int(left), int(top), int(width), int(height)) for left, top, width, height in found]


@cache
def _classifier(model: int) -> Any:
    import cv2

    folder: str = getattr(cv2, "data").haarcascades  # noqa: B009 - its type stubs leave it out
    return cv2.CascadeClassifier(folder + _MODELS[model])
