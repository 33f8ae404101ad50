"""What one training picture shows, and how it is drawn.

A scene is one subject (or two of it) on a plain background. All lengths are shares of the shorter
side of the canvas, so that the same scene is the same picture at 128x128, 192x192 and 256x256.
"""

from dataclasses import dataclass

from PIL import Image

import glyphs

BACKGROUNDS = {
    "white": (255, 255, 255), "black": (24, 24, 26), "gray": (144, 146, 150), "red": (228, 40, 46),
    "orange": (250, 150, 44), "yellow": (252, 220, 72), "green": (72, 170, 84), "blue": (58, 120, 224),
    "light blue": (178, 218, 255), "purple": (136, 76, 184), "pink": (254, 188, 212), "brown": (140, 88, 57),
}

# Longest side of the subject. Without a size word a subject spans 100 of 128 pixels.
SPAN = {None: 100 / 128, "small": 50 / 128, "medium": 76 / 128, "large": 121 / 128}
SPAN_OF_TWO = {None: 59 / 128, "small": 40 / 128}


@dataclass(frozen=True)
class Scene:
    """Everything that decides a picture but the canvas size. The subject stands in the middle: a caption that says all
    there is to know leaves nothing to average over, and what a small model can learn goes into edges and eyes."""

    subject: int
    background: str
    size: str | None = None
    count: int = 1
    mirrored: bool = False


def random_scene(rng, subject=None):
    """A scene as the captions should cover them: mostly one subject of the usual size."""
    if subject is None:
        subject = rng.randrange(len(glyphs.subjects()))
    draw = rng.random()
    count = 2 if draw < 0.2 and glyphs.subjects()[subject]["name"] not in glyphs.PLURAL_NAMES else 1
    size = None
    if count == 2:
        size = "small" if draw < 0.04 else None
    elif draw < 0.5:
        size = rng.choice(["small", "medium", "large"])
    return Scene(
        subject=subject, background=rng.choice(list(BACKGROUNDS)), size=size, count=count,
        mirrored=count == 1 and not size and rng.random() < 0.15)


def scaled(picture, longest):
    """`picture` resized so that its longest side has `longest` pixels."""
    factor = longest / max(picture.size)
    return picture.resize([max(1, round(side * factor)) for side in picture.size], Image.LANCZOS)


def paste_centred(canvas, picture, x, y):
    """Pastes an RGBA picture with its centre at (x, y)."""
    canvas.paste(picture, (round(x - picture.width / 2), round(y - picture.height / 2)), picture)


def draw(scene, width=128, height=128):
    """The scene as an RGB picture."""
    unit = min(width, height)
    canvas = Image.new("RGB", (width, height), BACKGROUNDS[scene.background])
    picture = glyphs.glyph(glyphs.subjects()[scene.subject]["codepoint"])
    if scene.mirrored:
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    if scene.count == 1:
        picture = scaled(picture, unit * SPAN[scene.size])
        paste_centred(canvas, picture, width / 2, height / 2)
        return canvas
    picture = scaled(picture, unit * SPAN_OF_TWO[scene.size])
    gap = width / 4 if width > height else unit / 4
    for side in (-1, 1):
        paste_centred(canvas, picture, width / 2 + side * gap, height / 2)
    return canvas


def reference(subject):
    """The subject's own rendering: the glyph's longest side 100 px, centred on white 128x128."""
    canvas = Image.new("RGB", (128, 128), "white")
    paste_centred(canvas, scaled(glyphs.glyph(glyphs.subjects()[subject]["codepoint"]), 100), 64, 64)
    return canvas
