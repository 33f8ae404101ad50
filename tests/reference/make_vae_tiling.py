#!/usr/bin/env python3
"""Makes vae_tiling.safetensors: what diffusers' AutoencoderKL computes in tiles with the VAE of the checkpoint `medium`.

For each case NAME, in fp32: NAME.z [1, 16, h, w] and NAME.decoded, its picture in tiles; NAME.moments, mean and clamped
logvar of that picture, encoded in tiles. The sizes leave last tiles of one latent, of a few, and of a full step.
"""

import sys
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "pipeline/tool/reference"))
import diffusers_stages as stages  # noqa: E402

# By the side of a tile in pixels: height and width in latents.
CASES = {"tile_32": (32, 10, 7), "tile_64": (64, 9, 15), "wide": (32, 3, 11)}


def main():
    vae = AutoencoderKL.from_pretrained(HERE / "checkpoints/medium/vae", torch_dtype=torch.float32).eval()
    vae.enable_tiling()
    downscale = 2 ** (len(vae.config.block_out_channels) - 1)
    tensors = {}
    with torch.inference_mode():
        for seed, (name, (tile, height, width)) in enumerate(CASES.items()):
            vae.tile_sample_min_size, vae.tile_latent_min_size = tile, tile // downscale
            z = torch.randn(1, vae.config.latent_channels, height, width, generator=torch.Generator("cpu").manual_seed(seed))
            decoded = vae.decode(z).sample
            posterior = vae.encode(decoded).latent_dist
            tensors[f"{name}.z"], tensors[f"{name}.decoded"] = z, decoded
            tensors[f"{name}.moments"] = torch.cat([posterior.mean, posterior.logvar], dim=1)
    stages.save(HERE / "vae_tiling.safetensors", tensors, {"diffusers": diffusers.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
