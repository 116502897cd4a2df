"""One small picture per notebook, for the README: python figures/thumbnails.py, a part of `make figures`.

Each is cut from a picture that the notebook itself has among its committed outputs; the two appendices that have none
(proofs and a computer's part of one) are shown by a figure of another notebook about the same bounds.
"""

import base64
import io
import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "figures" / "thumbnails"
SIZE = (240, 150)


class Cut(NamedTuple):
    """A part of a picture: its number among a notebook's outputs, or the name of a figure, and a box in fractions."""

    picture: int | str
    box: tuple[float, float, float, float] = (0, 0, 1, 1)  # left, top, right, bottom


CUTS = {
    "00_start_here": Cut(1, (0.3, 0, 0.755, 0.92)),
    "01_train_collapse": Cut(2, (0, 0.09, 0.685, 1)),
    "02_test_generalization": Cut(1),
    "03_new_classes": Cut(1, (0.5, 0.085, 1, 0.84)),
    "04_few_shot_bound": Cut(1, (0, 0.07, 0.82, 0.93)),
    "05_class_separation": Cut(0, (0, 0.08, 0.45, 1)),
    "06_depth": Cut(0, (0, 0.08, 0.49, 1)),
    "07_prototypical_networks": Cut(1, (0, 0.045, 0.5, 0.46)),
    "08_paper_table": Cut(1, (0, 0, 0.57, 0.43)),
    "09_enforcing_collapse": Cut(1, (0.5, 0.08, 1, 0.87)),
    "10_your_own_model": Cut(6),
    "constant": Cut("04_tightness.png", (0, 0, 0.5, 0.83)),
    "controls": Cut(1, (0.498, 0.08, 1, 0.9)),
    "images": Cut(0, (0, 0.1, 0.63, 1)),
    "objectives": Cut(1, (0, 0.08, 0.685, 0.9)),
    "other_distributions": Cut(1, (0, 0.08, 0.485, 0.88)),
    "predictors": Cut(0, (0, 0, 0.49, 0.9)),
    "proofs": Cut("explorer_bound.png", (0.3, 0.155, 0.7, 0.79)),
    "samples": Cut(0, (0, 0.08, 0.33, 1)),
    "superclasses": Cut(0, (0.34, 0.05, 0.66, 0.475)),
    "tightness": Cut(0, (0, 0, 0.65, 0.9)),
}


def pictures(notebook: Path) -> list[Image.Image]:
    """PNG outputs of a notebook, in order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [Image.open(io.BytesIO(base64.b64decode("".join(d["image/png"])))) for d in data if "image/png" in d]


def thumbnail(notebook: Path) -> Image.Image:
    """Its picture, cut and made small, in the middle of a white sheet of SIZE."""
    cut = CUTS[notebook.stem]
    named = isinstance(cut.picture, str)
    whole = Image.open(ROOT / "figures" / cut.picture) if named else pictures(notebook)[cut.picture]
    whole = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole.convert("RGBA")).convert("RGB")
    part = whole.crop(tuple(round(f * s) for f, s in zip(cut.box, whole.size * 2, strict=True)))
    part.thumbnail(SIZE, Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", SIZE, "white")
    sheet.paste(part, ((SIZE[0] - part.width) // 2, (SIZE[1] - part.height) // 2))
    return sheet


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        thumbnail(path).save(FOLDER / f"{path.stem}.webp", quality=85, method=6)
