"""Images that come from the browser, kept as files so that a command line can name them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image


def keep_image(folder: Path, image: Image.Image) -> Path:
    """Writes an image as a PNG that is named after its content, and returns the file."""
    content = io.BytesIO()
    image.convert("RGB").save(content, format="PNG")
    return _keep(folder, "image", content.getvalue())


def keep_mask(folder: Path, layers: list[Image.Image]) -> Path | None:
    """Writes a mask that is white where a layer is painted.

    Args:
        folder: The folder for the file.
        layers: What was painted, as images with an alpha channel, of the size of the image below.

    Returns:
        The file; None if nothing is painted.
    """
    painted = [np.asarray(layer.convert("RGBA"))[..., 3] > 0 for layer in layers]
    if not painted or not (mask := np.logical_or.reduce(painted)).any():
        return None
    content = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(content, format="PNG")
    return _keep(folder, "mask", content.getvalue())


def _keep(folder: Path, kind: str, content: bytes) -> Path:
    file = folder / f"{kind}-{hashlib.sha256(content).hexdigest()[:12]}.png"
    folder.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        file.write_bytes(content)
    return file
