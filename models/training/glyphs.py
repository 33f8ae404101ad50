"""The pictures everything is learned from: colour glyphs, cut out, with their names."""

import json
import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
ANNOTATIONS = "/usr/share/unicode/cldr/common/annotations/en.xml"
STRIKE = 109  # the only size the font's bitmaps exist in

PLURAL_NAMES = {"grapes", "cherries", "french fries"}  # names without a singular: never counted

SUBJECTS_FILE = Path(__file__).parent / "subjects.json"


@lru_cache(maxsize=None)
def subjects():
    """The subjects the model knows: [{"name", "codepoint"}], in the order of subjects.json."""
    return json.loads(SUBJECTS_FILE.read_text())


@lru_cache(maxsize=1)
def _font():
    return ImageFont.truetype(FONT, STRIKE)


@lru_cache(maxsize=None)
def glyph(codepoint):
    """RGBA cut-out of one emoji, cropped to its box; None where the font has no such glyph."""
    canvas = Image.new("RGBA", (STRIKE * 2, STRIKE * 2))
    ImageDraw.Draw(canvas).text((20, 20), codepoint, font=_font(), embedded_color=True)
    box = canvas.getbbox()
    return canvas.crop(box) if box else None


@lru_cache(maxsize=1)
def other_emoji():
    """Characters CLDR names beyond the subjects: the VAE sees some, to stay general."""
    known = {subject["codepoint"] for subject in subjects()}
    root = ElementTree.parse(ANNOTATIONS).getroot()
    named = {a.get("cp") for a in root.iter("annotation") if a.get("type") == "tts"}
    single = sorted(c for c in named if len(c) == 1 and ord(c) >= 0x1F300 and c not in known)
    return [c for c in single if glyph(c)]


def cldr_name(codepoint):
    """CLDR's short English name of a character ("sun with face")."""
    root = ElementTree.parse(ANNOTATIONS).getroot()
    for annotation in root.iter("annotation"):
        if annotation.get("cp") == codepoint and annotation.get("type") == "tts":
            return annotation.text
    return None
