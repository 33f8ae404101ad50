"""Draws scenes, encodes them once, and hands out batches of latents with tokenised captions."""

import argparse
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import AutoTokenizer

import captions
import glyphs
import scenes
from precision import autocast
from train_vae import to_tensor

# (width, height): scenes per subject, and the share of batches that use the size.
SIZES = {(128, 128): (112, 0.84), (192, 192): (14, 0.07), (192, 128): (4, 0.02), (128, 192): (4, 0.02),
         (256, 256): (9, 0.05)}
CAPTIONS = 6  # phrasings stored for each scene
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")


def tokenise(tokenizers, texts):
    """[3, n, 16] token ids."""
    return torch.stack([t(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
                        for t in tokenizers])


@torch.no_grad()
def encode(vae, pictures, device):
    """Latent means of PIL pictures of one size, not normalised."""
    parts = []
    for start in range(0, len(pictures), 16):
        images = to_tensor(pictures[start:start + 16], device).to(memory_format=torch.channels_last)
        with autocast(device):
            parts.append(vae.encode(images).latent_dist.mode().float().cpu())
    return torch.cat(parts)


def build(vae_folder, tokenizer_folder, seed, device="cpu", scale=1.0):
    """Everything the transformer learns from, as one dictionary of tensors."""
    vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32).to(device, memory_format=torch.channels_last)
    tokenizers = [AutoTokenizer.from_pretrained(f"{tokenizer_folder}/{n}") for n in TOKENIZERS]
    rng, data = random.Random(seed), {"empty": tokenise(tokenizers, [""]), "sizes": {}}
    for size, (count, _) in SIZES.items():
        drawn = [scenes.random_scene(rng, subject) for _ in range(max(1, round(count * scale)))
                 for subject in range(len(glyphs.subjects()))]
        texts = [captions.caption(s, rng) for s in drawn for _ in range(CAPTIONS)]
        ids = tokenise(tokenizers, texts).view(3, len(drawn), CAPTIONS, 16).short()
        latents = torch.cat([encode(vae, [scenes.draw(s, *size) for s in drawn[i:i + 64]], device).half()
                             for i in range(0, len(drawn), 64)])
        data["sizes"][size] = {"latents": latents, "ids": ids}
        print(size, len(drawn), flush=True)
    main = data["sizes"][128, 128]["latents"].float()
    data["shift"], data["scale"] = main.mean().item(), 1 / main.std().item()
    return data


def batch(data, rng, size, empty=0.1):
    """Random normalised latents [n, 16, h/8, w/8] of one picture size and ids [3, n, 16]."""
    shapes = list(SIZES)
    shape = rng.choices(shapes, [SIZES[s][1] for s in shapes])[0]
    part = data["sizes"][shape]
    # Larger pictures cost more tokens: fewer of them keep a step's time even.
    size = max(8, size * 128 * 128 // (shape[0] * shape[1]))
    index = torch.tensor([rng.randrange(len(part["latents"])) for _ in range(size)])
    variant = torch.tensor([rng.randrange(CAPTIONS) for _ in range(size)])
    ids = part["ids"][:, index, variant].long()
    ids[:, torch.tensor([rng.random() < empty for _ in range(size)])] = data["empty"].long()
    return shape, (part["latents"][index].float() - data["shift"]) * data["scale"], ids


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--vae", required=True)
    p.add_argument("--tokenizers", required=True, help="folder that holds tokenizer, tokenizer_2, tokenizer_3")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--scale", type=float, default=1.0, help="share of the scenes to draw (for trials)")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.save(build(args.vae, args.tokenizers, args.seed, args.device, args.scale), args.out)


if __name__ == "__main__":
    main()
