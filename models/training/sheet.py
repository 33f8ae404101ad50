"""Picture sheets for the model card: true rendering, the checkpoint started from, this model."""

import argparse
import warnings
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import evaluate
import glyphs
import scenes

FACES = ["fox", "castle", "robot", "owl", "birthday cake", "tiger", "bus", "cityscape at dusk"]
WORDS = ["two foxes on a light blue background", "a small penguin on a yellow background", "a large lion on a green background",
         "two strawberries, white background", "cityscape at dusk", "sunset", "a rainbow on a black background",
         "a medium cactus on a pink background"]


def grid(rows, labels, cell, path, margin=6):
    """Rows of pictures under one line of labels, saved as a palette PNG (small, and close enough)."""
    width = margin + (cell + margin) * len(labels)
    page = Image.new("RGB", (width, 18 + (cell + margin) * len(rows)), (250, 250, 250))
    pen = ImageDraw.Draw(page)
    for column, label in enumerate(labels):
        pen.text((margin + column * (cell + margin), 4), label[:24], fill=(40, 40, 40))
    for line, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            page.paste(picture.resize((cell, cell), Image.LANCZOS) if picture.width != cell else picture,
                       (margin + column * (cell + margin), 18 + line * (cell + margin)))
    page.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def side_by_side(before, after, path, seed=1):
    """Rows: the true rendering, `before`, `after`, for subjects with fine structure."""
    names = [s["name"] for s in glyphs.subjects()]
    prompts = [f"{name} on a white background" for name in FACES]
    true = [scenes.reference(names.index(name)) for name in FACES]
    grid([true] + [painter.draw(prompts, seed) for painter in (before, after) if painter], FACES, 128, path)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model")
    p.add_argument("--before", help="the checkpoint that training started from")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--all", action="store_true", help="also every subject")
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    after = evaluate.Painter(args.model)
    with torch.no_grad():
        side_by_side(evaluate.Painter(args.before) if args.before else None, after, args.out / "side-by-side.png")
        grid([after.draw(WORDS, 7), after.draw(WORDS, 70)], WORDS, 128, args.out / "words.png")
        large = [f"a {n} on a light blue background" for n in ("fox", "castle", "panda", "rocket")]
        grid([after.draw(large, 3, 256, 256, 2)], large, 256, args.out / "large.png")
        if args.all:
            names = [s["name"] for s in glyphs.subjects()]
            pictures = after.draw([f"{n} on a white background" for n in names], 11)
            grid([pictures[i:i + 9] for i in range(0, 72, 9)], [""] * 9, 64, args.out / "all.png")


if __name__ == "__main__":
    main()
