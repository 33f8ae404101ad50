"""Trains the transformer and the three text encoders, jointly, on latents computed once.

Rectified flow: x = (1 - s) * latent + s * noise, the model predicts noise - latent. Noise levels are
logit-normal, shifted the way the sampler's are (it spends most of its steps at high noise), mixed with
plain logit-normal ones, because eyes and edges are decided at low noise.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection, T5EncoderModel

import export
import latents
import vocabulary
from optim import Average, MuonAdamW, save_atomically
from precision import autocast


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--init", required=True, help="model folder to start from")
    p.add_argument("--vae", required=True, help="VAE folder that the latents come from")
    p.add_argument("--latents", required=True, help="file written by latents.py")
    p.add_argument("--tokenizers", required=True, help="folder of the extended tokenizers")
    p.add_argument("--work", type=Path, required=True, help="folder for the checkpoint, the log and the model")
    p.add_argument("--minutes", type=float, default=60)
    p.add_argument("--batch", type=int, default=96)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    p.add_argument("--hold", type=float, default=0.3, help="share of the time at the full learning rate")
    p.add_argument("--average", type=float, default=0.998)
    p.add_argument("--compile", action="store_true", help="compile the 128x128 graph")
    p.add_argument("--store-minutes", type=float, default=4)
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


class Model(torch.nn.Module):
    """Tokens, noisy latents and noise levels in, velocity out: the pipeline's own wiring."""

    def __init__(self, folder, tokenizer_folder):
        super().__init__()
        clip, fp32 = CLIPTextModelWithProjection, dict(torch_dtype=torch.float32)
        self.clip = clip.from_pretrained(f"{folder}/text_encoder", **fp32)
        self.clip_2 = clip.from_pretrained(f"{folder}/text_encoder_2", **fp32)
        self.t5 = T5EncoderModel.from_pretrained(f"{folder}/text_encoder_3", **fp32)
        vocabulary.extend(folder, tokenizer_folder, self.encoders())
        self.transformer = SD3Transformer2DModel.from_pretrained(f"{folder}/transformer", **fp32)

    def encoders(self):
        return [self.clip, self.clip_2, self.t5]

    def text(self, ids):
        """ids [3, n, 16] -> sequence [n, 32, d] and pooled [n, d], as diffusers builds them."""
        outs = [clip(ids[i], output_hidden_states=True) for i, clip in enumerate((self.clip, self.clip_2))]
        clips = torch.cat([o.hidden_states[-2] for o in outs], -1)
        t5 = self.t5(ids[2]).last_hidden_state
        clips = torch.nn.functional.pad(clips, (0, t5.shape[-1] - clips.shape[-1]))
        return torch.cat([clips, t5], 1), torch.cat([o.text_embeds for o in outs], -1)

    def forward(self, noisy, sigma, ids):
        sequence, pooled = self.text(ids)
        return self.transformer(noisy, encoder_hidden_states=sequence, pooled_projections=pooled,
                                timestep=sigma * 1000, return_dict=False)[0]


def use_muon(name, parameter):
    """Hidden matrices; not tables, not the first and the last layer."""
    outside = ("embed_tokens", "embedding", "shared", "relative_attention_bias", "pos_embed", "proj_out")
    return parameter.ndim == 2 and not any(part in name for part in outside)


def noise_levels(count, device):
    """Half as the sampler's shifted schedule sees them, half unshifted."""
    t = torch.sigmoid(torch.randn(count, device=device))
    shifted = 3 * t / (1 + 2 * t)
    return torch.where(torch.rand(count, device=device) < 0.5, shifted, t)


def loss_of(model, clean, ids):
    """Mean squared error of the velocity, in fp32."""
    sigma = noise_levels(len(clean), clean.device)
    noise = torch.randn_like(clean)
    s = sigma.view(-1, 1, 1, 1)
    with autocast(clean.device):
        velocity = model((1 - s) * clean + s * noise, sigma, ids)
    return (velocity.float() - (noise - clean)).square().mean()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    data = torch.load(args.latents, weights_only=False)
    model = Model(args.init, args.tokenizers).to(args.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = MuonAdamW(model.named_parameters(), args.lr, use_muon if args.optimizer == "muon" else lambda n, p: False)
    average = Average(trained, args.average)
    spent, step, mean_loss = 0.0, 0, None
    checkpoint = args.work / "transformer.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=args.device, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values, average.count = state["average"], state["average_count"]
        spent, step, mean_loss = state["spent"], state["step"], state["loss"]
    compiled = torch.compile(model) if args.compile else model
    log = (args.work / "transformer.log").open("a", buffering=1)
    log.write(json.dumps({"start": vars(args), "step": step}, default=str) + "\n")

    def store():
        log.write(json.dumps({"step": step, "minutes": round(spent / 60, 2), "loss": round(mean_loss, 5)}) + "\n")
        average.swap(trained)
        export.write(model, args.init, args.vae, args.tokenizers, data, args.work / "model")
        average.swap(trained)
        save_atomically({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values,
                         "average_count": average.count, "spent": spent, "step": step, "loss": mean_loss}, checkpoint)

    stored, rng = spent, random.Random(args.seed * 1_000_003 + step)
    torch.manual_seed(args.seed * 1_000_003 + step)
    while (progress := spent / (60 * args.minutes)) < 1:
        began = time.time()
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 50) * min(1, (1 - progress) / (1 - args.hold))
        shape, clean, ids = latents.batch(data, rng, args.batch)
        run = compiled if shape == (128, 128) else model
        loss = loss_of(run, clean.to(args.device), ids.to(args.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(trained)
        step += 1
        mean_loss = loss.item() if mean_loss is None else mean_loss + (loss.item() - mean_loss) * 0.02
        spent += min(time.time() - began, 60)
        if step % 50 == 0:
            log.write(json.dumps({"step": step, "minutes": round(spent / 60, 2), "loss": round(mean_loss, 5)}) + "\n")
        if spent - stored > 60 * args.store_minutes:
            stored = spent
            store()
    store()


if __name__ == "__main__":
    main()
