"""Contact sheets and training curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_GAP, _LABEL_HEIGHT = 6, 26
_PAPER, _INK = (240, 240, 240), (40, 40, 40)
_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def sheet(rows: Sequence[tuple[Sequence[Tensor], Sequence[str]]], zoom: float = 1.0) -> Image.Image:
    """Rows of pictures, uint8 (3, P, P), each with a label of up to two lines under it."""
    side = round(rows[0][0][0].shape[-1] * zoom)
    columns = max(len(pictures) for pictures, _ in rows)
    cell, height = side + _GAP, side + _GAP + _LABEL_HEIGHT
    made = Image.new("RGB", (columns * cell + _GAP, len(rows) * height + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(made), ImageFont.truetype(str(_FONT), 9)
    for row, (pictures, labels) in enumerate(rows):
        for column, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            x, y = _GAP + column * cell, _GAP + row * height
            image = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
            made.paste(image.resize((side, side), Image.Resampling.LANCZOS), (x, y))
            draw.text((x, y + side + 1), _wrapped(label, font, side), font=font, fill=_INK, spacing=1)
    return made


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < 2:
            lines.append(word)
        else:
            break
    return "\n".join(lines)


def curves(log: Path, png: Path) -> None:
    """What log.jsonl says of both phases, against seconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    figure = Figure(figsize=(10, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    wanted = (("vae", "pixels", "VAE: mean absolute error"), ("vae", "kl", "VAE: KL, nats a latent number"),
              ("base", "loss", "painter: velocity loss"))  # fmt: skip
    for axes, (phase, key, title) in zip(panels, wanted, strict=True):
        points = [(entry["step"], entry[key]) for entry in entries if entry["phase"] == phase and key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), color="#1f4e8c", linewidth=1)
        axes.set(title=title, xlabel="step")
        if key != "kl":
            axes.set_yscale("log")
        axes.grid(color="#dddddd")
    figure.savefig(png)
