"""Trains the autoencoder, encoder and decoder jointly, on 64x64 crops of compositions.

Crops that show only background teach nothing, so every crop holds a part of the subject. The loss
weighs pixels by how much the picture changes there: eyes and outlines are few pixels, but they are
what one looks at. Progress is the share of `--minutes` spent (training time, summed over restarts).
"""

import argparse
import json
import queue
import random
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import glyphs
import scenes
from optim import Average, MuonAdamW, save_atomically
from precision import autocast

CROP = 64


def random_crop(rng):
    """One 64x64 RGB crop around some part of a subject, at any size the model may draw it."""
    if rng.random() < 0.06:
        codepoint = rng.choice(glyphs.other_emoji())
    else:
        codepoint = rng.choice(glyphs.subjects())["codepoint"]
    picture = glyphs.glyph(codepoint)
    if rng.random() < 0.4:
        picture = picture.transpose(scenes.Image.FLIP_LEFT_RIGHT)
    longest = rng.choice([rng.uniform(38, 62), rng.uniform(72, 82), rng.uniform(95, 104), rng.uniform(95, 104),
                          rng.uniform(95, 104), rng.uniform(95, 104), rng.uniform(116, 125), rng.uniform(120, 200)])
    picture = scenes.scaled(picture, longest)
    colour = rng.choice(list(scenes.BACKGROUNDS.values()))
    if rng.random() < 0.15:
        colour = tuple(rng.randrange(256) for _ in range(3))
    canvas = scenes.Image.new("RGB", (CROP, CROP), colour)
    reach = [0.5 * side - 12 for side in picture.size]  # how far the crop may lie off the subject's centre
    x, y = (CROP / 2 + rng.uniform(-r, r) for r in reach)
    scenes.paste_centred(canvas, picture, x, y)
    return canvas


def to_tensor(pictures, device="cpu"):
    """PIL pictures of one size -> [n, 3, h, w] in -1..1."""
    array = np.stack([np.asarray(p) for p in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div(127.5).sub(1).to(device)


def batches(seed, size, ahead=8):
    """An endless stream of crop batches, prepared by a thread."""
    rng, ready = random.Random(seed), queue.Queue(ahead)

    def fill():
        while True:
            ready.put(to_tensor([random_crop(rng) for _ in range(size)]))

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield ready.get()


def held_out(count=32):
    """Whole 128x128 compositions from a seed that training never uses."""
    rng = random.Random(987654321)
    return to_tensor([scenes.draw(scenes.random_scene(rng)) for _ in range(count)])


@torch.no_grad()
def psnr(vae, images, bf16_weights=False):
    """Mean PSNR over images of encode (mean) -> decode, values clamped and rounded to 8 bits."""
    if bf16_weights:  # the weights as they will be stored, computed in fp32
        kept = [p.data.clone() for p in vae.parameters()]
        for p in vae.parameters():
            p.data.copy_(p.data.bfloat16())
    scores = []
    for part in images.split(8):
        out = vae.decode(vae.encode(part).latent_dist.mode()).sample.clamp(-1, 1)
        error = (((out + 1) * 127.5).round() - ((part + 1) * 127.5).round()).square().mean((1, 2, 3))
        scores += (10 * torch.log10(255 ** 2 / error.clamp_min(1e-3))).tolist()
    if bf16_weights:
        for p, value in zip(vae.parameters(), kept):
            p.data.copy_(value)
    return float(np.mean(scores))


def gradients(x):
    """Horizontal and vertical differences."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def loss_of(out, target, posterior):
    """L1 + 4 L2, heavier where the target has detail, + gradient L1 + a trace of KL."""
    dx, dy = gradients(target)
    detail = F.pad(dx.abs(), (0, 1)) + F.pad(dy.abs(), (0, 0, 0, 1))
    weight = 1 + 2 * F.avg_pool2d(detail.mean(1, keepdim=True), 3, 1, 1).clamp(max=0.5)
    error = out - target
    ox, oy = gradients(out)
    sharp = (ox - dx).abs().mean() + (oy - dy).abs().mean()
    kl = posterior.kl().mean()
    return (weight * (error.abs() + 4 * error.square())).mean() + 0.3 * sharp + 1e-6 * kl


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--init", help="a diffusers VAE folder to start from (its config is used)", required=True)
    p.add_argument("--from-scratch", action="store_true", help="take only the config of --init")
    p.add_argument("--work", type=Path, required=True, help="folder for the checkpoint and the log")
    p.add_argument("--minutes", type=float, default=45)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    p.add_argument("--hold", type=float, default=0.2, help="share of the time at the full learning rate")
    p.add_argument("--average", type=float, default=0.998)
    p.add_argument("--decoder-only", action="store_true", help="keep the latent space as it is")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(args.init, torch_dtype=torch.float32)
    if args.from_scratch:
        vae = AutoencoderKL.from_config(vae.config)
    vae.to(args.device, memory_format=torch.channels_last)
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
    trained = [p for p in vae.parameters() if p.requires_grad]
    muon = args.optimizer == "muon"
    optimizer = MuonAdamW(vae.named_parameters(), args.lr,
                          lambda n, p: muon and p.ndim >= 2 and "conv_in" not in n and n != "decoder.conv_out.weight")
    average = Average(trained, args.average)
    spent, step = 0.0, 0
    checkpoint = args.work / "vae.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=args.device, weights_only=False)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        average.values, average.count = state["average"], state["average_count"]
        spent, step = state["spent"], state["step"]
    encode, decode = vae.encoder, vae.decoder
    if args.compile:
        encode, decode = torch.compile(encode), torch.compile(decode)
    validation = held_out().to(args.device)
    log = (args.work / "vae.log").open("a", buffering=1)
    log.write(json.dumps({"start": vars(args) | {"work": ""}, "psnr": psnr(vae, validation), "step": step}, default=str) + "\n")

    def store():
        with torch.no_grad():
            average.swap(trained)
            score = psnr(vae, validation)
            vae.save_pretrained(args.work / "vae")
            average.swap(trained)
        log.write(json.dumps({"step": step, "minutes": round(spent / 60, 2), "loss": round(mean_loss, 5),
                              "psnr": round(score, 3)}) + "\n")
        save_atomically({"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values,
                         "average_count": average.count, "spent": spent, "step": step}, checkpoint)

    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    mean_loss, stored = 0.0, spent
    for images in batches(args.seed * 1_000_003 + step, args.batch):
        began = time.time()
        progress = spent / (60 * args.minutes)
        if progress >= 1:
            break
        warm = min(1, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * min(1, (1 - progress) / (1 - args.hold))
        images = images.to(args.device, memory_format=torch.channels_last)
        with autocast(args.device):
            moments = encode(images)
            posterior = DiagonalGaussianDistribution(moments.float())
            out = decode(posterior.sample())
        loss = loss_of(out.float(), images, posterior)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(trained)
        step += 1
        mean_loss += (loss.item() - mean_loss) * max(0.01, 1 / step)
        spent += min(time.time() - began, 60)
        if spent - stored > 150:
            stored = spent
            store()
    store()


if __name__ == "__main__":
    main()
