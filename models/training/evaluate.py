"""Measures a model folder: one table on the terminal, the same numbers as JSON.

Everything is drawn with diffusers in fp32 from the stored weights, with the folder's own defaults
(fresco.yaml). What a number means stands beside it in `ROWS`.
"""

import argparse
import json
import random
import warnings
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

import captions
import export
import glyphs
import scenes
from train_vae import held_out, psnr

ROWS = [
    ("weights_mib", "bf16 safetensors, MiB (at most 32)"),
    ("vae_psnr", "VAE reconstruction of 64 held-out compositions, dB (goal 28)"),
    ("subject", "\"NAME on a white background\": nearest to its own rendering, % (goal 95)"),
    ("background", "background colour right, % (goal 95)"),
    ("sizes", "small, medium, large followed, % (goal 80)"),
    ("counts", "\"two NAMEs\" shows two, % (goal 80)"),
    ("single", "without a count: exactly one, %"),
    ("match_db", "best match with the true rendering over shift, scale and mirror, dB"),
    ("detail", "gradient energy of the drawing over that of the true rendering, % (100: as crisp)"),
    ("subject_192", "192x192: nearest to its own rendering, and one of it, %"),
    ("subject_256", "256x256: the same, %"),
    ("alone", "\"NAME\" without a background phrase: nearest in shape on its own background, %"),
]


def settings(folder):
    """steps and guidance_scale of fresco.yaml (flat `key: value` lines)."""
    lines = (Path(folder) / "fresco.yaml").read_text().splitlines()
    values = dict(line.split(": ") for line in lines if ": " in line)
    return int(values["steps"]), float(values["guidance_scale"]), int(values["max_sequence_length"])


class Painter:
    """Draws prompts with diffusers, image k of a list with seed + k."""

    def __init__(self, folder, device="cpu"):
        self.pipe = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
        self.pipe.set_progress_bar_config(disable=True)
        self.steps, self.guidance, self.tokens = settings(folder)

    def draw(self, prompts, seed=0, width=128, height=128, at_once=8):
        pictures = []
        for start in range(0, len(prompts), at_once):
            part = prompts[start:start + at_once]
            # The CPU generator gives each image its own noise, whatever the batch.
            noise = [torch.randn(1, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(seed + start + k))
                     for k in range(len(part))]
            pictures += self.pipe(part, num_inference_steps=self.steps, guidance_scale=self.guidance,
                                  max_sequence_length=self.tokens, width=width, height=height,
                                  latents=torch.cat(noise).to(self.pipe.device)).images
        return pictures


def coarse(picture):
    """16x16 RGB, the resolution of the nearest-subject test."""
    return np.asarray(picture.resize((16, 16), Image.BOX), float)


def nearest_subject(picture):
    """Index of the subject whose rendering on white is nearest."""
    references = [coarse(scenes.reference(s)) for s in range(len(glyphs.subjects()))]
    return int(np.argmin([((coarse(picture) - r) ** 2).sum() for r in references]))


def border_colour(picture):
    """Median colour of the outermost three pixels."""
    a = np.asarray(picture.convert("RGB"), float)
    ring = np.concatenate([a[:3].reshape(-1, 3), a[-3:].reshape(-1, 3), a[:, :3].reshape(-1, 3), a[:, -3:].reshape(-1, 3)])
    return np.median(ring, axis=0)


def nearest_background(picture):
    colour = border_colour(picture)
    return min(scenes.BACKGROUNDS, key=lambda n: ((np.array(scenes.BACKGROUNDS[n]) - colour) ** 2).sum())


def mask(picture):
    """Where the picture differs from its background."""
    return np.abs(np.asarray(picture.convert("RGB"), float) - border_colour(picture)).max(-1) > 48


def extent(picture):
    """Longest side of what differs from the background, as a share of the shorter side; stray pixels left out."""
    m = mask(picture)
    if m.sum() < 20:
        return 0.0
    spans = []
    for axis in (0, 1):
        lines = np.flatnonzero(m.sum(axis) >= 2)
        spans.append(lines[-1] - lines[0] + 1 if len(lines) else 0)
    return max(spans) / min(m.shape)


def how_many(picture):
    """Number of separate things side by side: runs of occupied columns at least a tenth wide."""
    m = mask(picture)
    filled = np.concatenate([[False], m.sum(0) >= 2, [False]])
    starts, ends = np.flatnonzero(filled[1:] & ~filled[:-1]), np.flatnonzero(~filled[1:] & filled[:-1])
    return int(sum(end - start >= m.shape[1] / 10 for start, end in zip(starts, ends)))


def size_word(picture):
    """The size word whose span is nearest to what was drawn (None: the usual size)."""
    return min(scenes.SPAN, key=lambda word: abs(scenes.SPAN[word] - extent(picture)))


def measurable(scene, holds):
    """A background on which `holds` is true of the scene's own rendering (white cloud on white: not)."""
    order = random.Random(scene.subject).sample(list(scenes.BACKGROUNDS), len(scenes.BACKGROUNDS))
    for colour in order:
        candidate = scenes.Scene(scene.subject, colour, scene.size, scene.count)
        if holds(scenes.draw(candidate)):
            return candidate
    return None


def asked(scene):
    """The plain phrase for a scene."""
    name = glyphs.subjects()[scene.subject]["name"]
    return f"{captions.noun_phrase(scene, name)} on {captions.with_article(scene.background)} background"


def best_match(picture, subject):
    """(PSNR, gradient ratio) against the subject's rendering, over small shifts, scales and mirroring."""
    drawn = np.asarray(picture.convert("RGB"), np.float32)[8:-8, 8:-8]
    best = (np.inf, None)
    for scale in (0.94, 0.96, 0.98, 1.0, 1.02, 1.04, 1.06):
        canvas = Image.new("RGB", (128, 128), "white")
        scenes.paste_centred(canvas, scenes.scaled(glyphs.glyph(glyphs.subjects()[subject]["codepoint"]), 100 * scale), 64, 64)
        for true in (np.asarray(canvas, np.float32), np.asarray(canvas, np.float32)[:, ::-1]):
            for dy in range(17):
                for dx in range(17):
                    crop = true[dy:dy + 112, dx:dx + 112]
                    error = np.square(drawn - crop).mean()
                    if error < best[0]:
                        best = (error, crop)
    energy = [sum(np.abs(np.diff(a, axis=axis)).mean() for axis in (0, 1)) for a in (drawn, best[1])]
    return 10 * np.log10(255 ** 2 / best[0]), energy[0] / energy[1]


def share(flags):
    return round(100 * float(np.mean(flags)), 1)


def measure_words(painter, rng, seed, per_kind):
    """Sizes and counts, on backgrounds where they can be measured."""
    results = {}
    for key, kinds in (("sizes", [("small", 1), ("medium", 1), ("large", 1)]), ("counts", [(None, 2)])):
        flags = []
        for size, count in kinds:
            right = (lambda p: how_many(p) == 2) if count == 2 else (lambda p, s=size: size_word(p) == s)
            wanted = []
            for subject in rng.sample(range(len(glyphs.subjects())), len(glyphs.subjects())):
                if count == 2 and glyphs.subjects()[subject]["name"] in glyphs.PLURAL_NAMES:
                    continue
                scene = measurable(scenes.Scene(subject, "white", size, count), right)
                if scene and len(wanted) < per_kind * (2 if count == 2 else 1):
                    wanted.append(scene)
            pictures = painter.draw([asked(s) for s in wanted], seed)
            flags += [right(p) for p in pictures]
            results[f"{key}_{size or 'two'}"] = share([right(p) for p in pictures])
        results[key] = share(flags)
    return results


def measure_large(painter, rng, seed, side, count):
    """Larger canvases: still the subject, and one of it."""
    picked = rng.sample(range(len(glyphs.subjects())), count)
    pictures = painter.draw([f"{glyphs.subjects()[s]['name']} on a white background" for s in picked], seed, side, side, 4)
    return share([nearest_subject(p.resize((128, 128), Image.BOX)) == s
                  and how_many(p) <= max(1, how_many(scenes.reference(s))) for s, p in zip(picked, pictures)])


def measure_alone(painter, rng, seed, count):
    """Bare names: composed on the background that came out, the own rendering must be the nearest."""
    picked, flags = rng.sample(range(len(glyphs.subjects())), count), []
    for s, p in zip(picked, painter.draw([glyphs.subjects()[s]["name"] for s in picked], seed)):
        colour = nearest_background(p)
        distances = []
        for other in range(len(glyphs.subjects())):
            canvas = Image.new("RGB", (128, 128), scenes.BACKGROUNDS[colour])
            scenes.paste_centred(canvas, scenes.scaled(glyphs.glyph(glyphs.subjects()[other]["codepoint"]), 100), 64, 64)
            distances.append(((coarse(p) - coarse(canvas)) ** 2).sum())
        flags.append(int(np.argmin(distances)) == s)
    return share(flags)


def evaluate(folder, seed=0, subjects=25, quick=False, device="cpu"):
    """All measurements of a model folder as a dictionary with the keys of ROWS (and a few more)."""
    rng, painter = random.Random(seed), Painter(folder, device)
    result = {"weights_mib": round(export.weight_bytes(folder) / 2 ** 20, 2),
              "vae_psnr": round(psnr(painter.pipe.vae, held_out(64).to(device)), 2)}
    names = [s["name"] for s in glyphs.subjects()]
    picked = rng.sample(range(len(names)), subjects)
    pictures = painter.draw([f"{names[s]} on a white background" for s in picked], seed)
    missed = [names[s] for s, p in zip(picked, pictures) if nearest_subject(p) != s]
    matches = [best_match(p, s) for s, p in zip(picked, pictures)]
    result |= {"subject": share([names[s] not in missed for s in picked]), "subjects_missed": missed,
               "match_db": round(float(np.mean([m[0] for m in matches])), 2),
               "detail": round(100 * float(np.mean([m[1] for m in matches])), 1),
               "single": share([how_many(p) <= max(1, how_many(scenes.reference(s))) for s, p in zip(picked, pictures)])}
    colours = list(scenes.BACKGROUNDS) * (1 if quick else 3)
    prompts = [f"{rng.choice(names)} on {captions.with_article(c)} background" for c in colours]
    result["background"] = share([nearest_background(p) == c for c, p in zip(colours, painter.draw(prompts, seed + 100))])
    result |= measure_words(painter, rng, seed + 200, 4 if quick else 12)
    if not quick:
        result["subject_192"] = measure_large(painter, rng, seed + 300, 192, 16)
        result["subject_256"] = measure_large(painter, rng, seed + 400, 256, 12)
        result["alone"] = measure_alone(painter, rng, seed + 500, 24)
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("models", nargs="+", help="model folders, measured one after the other")
    p.add_argument("--json", type=Path)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--subjects", type=int, default=25)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    with torch.no_grad():
        results = [evaluate(m, args.seed, args.subjects, args.quick, args.device) for m in args.models]
    for key, meaning in ROWS:
        print("  ".join(f"{r.get(key, '-'):>7}" for r in results), "", meaning)
    print("missed:", [r["subjects_missed"] for r in results])
    if args.json:
        args.json.write_text(json.dumps([{"model": Path(m).name} | r for m, r in zip(args.models, results)], indent=1) + "\n")


if __name__ == "__main__":
    main()
