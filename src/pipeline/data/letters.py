"""Digits and letters in many typefaces, drawn when loaded: 62 classes that are harder than clothes or ten digits.

Every image is a glyph of a random face, turned, slanted, scaled and shifted a little. In some faces, pairs such as O
and 0 or l and I differ only in size or not at all, so no network can classify all images correctly.
"""

from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.images import Images, ImageSet
from pipeline.errors import ConfigError

CLASSES = digits + ascii_uppercase + ascii_lowercase
SIZE = 28
SEED = 62

#: Faces of matplotlib with Latin letters; its others hold symbols.
FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)

# Sides of the canvas of a glyph, and of that of a distorted image, which is then halved for smooth edges.
_GLYPH, _FINE = 4 * SIZE, 2 * SIZE
# Size of the font / side of the canvas; the rest is room for turning and shifting.
_EM = 0.68
# Standard deviations: radians, slant, logarithm of scale, and shift in widths of the image.
_TURN, _SLANT, _SCALE, _SHIFT = 0.12, 0.12, 0.1, 0.05


@dataclass(frozen=True, kw_only=True)
class Letters(Images):
    """24,800 + 6,200 digits and letters of 28 x 28 pixels in many typefaces, 62 classes.

    The same faces and the same version of Pillow give the same pixels.

    Attributes:
        directory: Folder of TrueType and OpenType files whose faces are drawn, such as Debian's
            /usr/share/fonts/truetype/dejavu; null takes 21 faces of matplotlib, the same on every machine.
    """

    name: ClassVar[str] = "letters"
    N_TRAIN: ClassVar[int] = 400 * len(CLASSES)
    N_TEST: ClassVar[int] = 100 * len(CLASSES)

    directory: Path | None = None

    def load(self, cache: Path) -> ImageSet:
        """Draw the images; a face that cannot be read or lacks a class is an error, and so is a folder without any."""
        files = _faces_of(self.directory)
        glyphs = np.array([[_glyph(file, letter) for letter in CLASSES] for file in files])
        rng = np.random.default_rng(SEED)
        parts = []
        for n in (self.N_TRAIN, self.N_TEST):
            labels = rng.permutation(np.arange(n, dtype=np.int64) % len(CLASSES))
            faces = rng.integers(len(files), size=n)
            changes = rng.standard_normal((n, 5))
            images = [
                _distorted(glyphs[face, label], *change)
                for face, label, change in zip(faces, labels, changes.tolist(), strict=True)
            ]
            parts.append((np.array(images), labels))
        where = self.directory if self.directory is not None else "matplotlib"
        return ImageSet(
            *parts[0],
            *parts[1],
            classes=list(CLASSES),
            source=f"digits and letters in {len(files)} typefaces of {where}",
        )


def _faces_of(directory: Path | None) -> list[Path]:
    if directory is None:
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        return [folder / f"{name}.ttf" for name in FACES]
    files = sorted(path for path in directory.glob("*") if path.suffix.lower() in (".ttf", ".otf"))
    if not files:
        raise ConfigError(
            f"dataset.directory: wanted .ttf or .otf files in {directory}, found none; name a folder of typefaces, or "
            "leave it out"
        )
    return files


def _glyph(file: Path, letter: str) -> NDArray[np.uint8]:
    """Draw a letter large, on a line whose capitals are centered, so that size tells capitals from small letters."""
    from PIL import Image, ImageDraw, ImageFont

    try:
        font = ImageFont.truetype(file, round(_EM * _GLYPH), layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise ConfigError(f"{file}: not a typeface that can be read ({error}); leave it out") from None
    canvas = Image.new("L", (_GLYPH, _GLYPH))
    middle, top = _GLYPH / 2, font.getbbox("H", anchor="ls")[1]
    ImageDraw.Draw(canvas).text((middle, middle - top / 2), letter, font=font, fill=255, anchor="ms")
    drawn = np.asarray(canvas)
    if not drawn.any():
        raise ConfigError(f"{file}: has no letter {letter!r}; leave this typeface out")
    return drawn


def _distorted(
    glyph: NDArray[np.uint8], turn: float, slant: float, scale: float, right: float, down: float
) -> NDArray[np.uint8]:
    """Turn, slant, scale and shift a glyph; the arguments are in standard deviations."""
    from PIL import Image

    angle, factor = _TURN * turn, _GLYPH / _FINE * np.exp(-_SCALE * scale)
    cos, sin = np.cos(angle), np.sin(angle)
    # The map from positions in the result to positions in the glyph, both relative to the middle.
    matrix = factor * np.array([[1.0, _SLANT * slant], [0.0, 1.0]]) @ np.array([[cos, sin], [-sin, cos]])
    start = _GLYPH / 2 - matrix @ np.array([_FINE * (0.5 + _SHIFT * right), _FINE * (0.5 + _SHIFT * down)])
    coefficients = (*matrix[0], start[0], *matrix[1], start[1])
    fine = Image.fromarray(glyph).transform(
        (_FINE, _FINE), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR
    )
    return np.asarray(fine.reduce(2))
