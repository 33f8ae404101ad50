#!/usr/bin/env python3
"""Writes single_file_names.txt: what the tensors of the checkpoints here are called in a single file of Stability AI's layout,
by what diffusers' own converters make of such a file.

    make_single_file_names.py

A section per component, "[CHECKPOINT COMPONENT PREFIX]"; then a line per tensor of diffusers: its name, the name it has in the
file behind PREFIX, and which of that tensor's rows it is: "all"; "0/3" the first third; "1/2+0/2" the second half above the
first; "all 1x1" where the file's tensor has two more dimensions of 1.

The transformer's converter is given tensors that are made as it asks for them, with their rows numbered, so that both names and
rows are its own. The VAE's goes by the names it finds: they are those of Latent Diffusion's autoencoder. At the end the
checkpoints' tensors themselves are put into such a file and converted: they must come out as they are here.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint, convert_ldm_vae_checkpoint, convert_sd3_t5_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
ROWS = 6
PARTS = {(0, 1, 2, 3, 4, 5): "all", (0, 1): "0/3", (2, 3): "1/3", (4, 5): "2/3", (3, 4, 5, 0, 1, 2): "1/2+0/2"}
PREFIXES = {
    "transformer": "model.diffusion_model.", "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.clip_g.transformer.", "text_encoder_3": "text_encoders.t5xxl.transformer.",
    "vae": "first_stage_model.",
}


class Numbered(dict):
    """Tensors with numbered rows, made when they are asked for."""

    def __init__(self, names=(), prefix=""):
        super().__init__()
        self.made = []
        for name in names:
            self[prefix + name] = self.make(name)

    def make(self, name):
        self.made.append(name)
        shape = (ROWS, 1, 1, 1) if ".attn_1." in name and name.endswith("weight") and "norm" not in name else (ROWS,)
        return (torch.arange(ROWS) + ROWS * (len(self.made) - 1)).reshape(shape)

    def pop(self, name):
        return super().pop(name, None) if name in self.made else self.make(name)

    def lines(self, converted):
        for name, tensor in sorted(converted.items()):
            original = self.made[int(tensor.flatten()[0]) // ROWS]
            parts = PARTS[tuple(int(row) % ROWS for row in tensor.flatten())]
            pointwise = ".attn_1." in original and original.endswith("weight") and "norm" not in original
            assert tensor.dim() == (2 if pointwise else 1), name
            yield name, original, parts + (" 1x1" if pointwise else "")


def transformer_names(config):
    numbered = Numbered()
    for block in range(config["num_layers"]):  # only what the converter counts by: it asks for the rest
        numbered[f"joint_blocks.{block}"] = None
        if block in config["dual_attention_layers"]:
            numbered[f"joint_blocks.{block}.attn2."] = None
    if config["qk_norm"]:
        numbered["joint_blocks.0.ln_q"] = None
    numbered["context_embedder.weight"] = numbered.make("context_embedder.weight")
    return list(numbered.lines(convert_sd3_transformer_checkpoint_to_diffusers(numbered)))


def with_parameters(*modules):
    return [f"{module}.{parameter}" for module in modules for parameter in ("weight", "bias")]


def ldm_resnet(prefix, shortcut):
    return with_parameters(*(f"{prefix}.{part}" for part in ("norm1", "conv1", "norm2", "conv2") + (("nin_shortcut",) if shortcut else ())))


def ldm_coder(side, level, sampler, channels, resnets):
    """`channels`: those that go in and those of each level, by the way through it; level(i) is what the i-th is called."""
    names = with_parameters(*(f"{side}.{part}" for part in ("conv_in", "norm_out", "conv_out")))
    names += ldm_resnet(f"{side}.mid.block_1", False) + ldm_resnet(f"{side}.mid.block_2", False)
    names += with_parameters(*(f"{side}.mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out")))
    for i, (before, after) in enumerate(zip(channels, channels[1:])):
        for j in range(resnets):
            names += ldm_resnet(f"{side}.{level(i)}.block.{j}", j == 0 and before != after)
        if i + 2 < len(channels):
            names += with_parameters(f"{side}.{level(i)}.{sampler}.conv")
    return names


def vae_names(config):
    channels, resnets = config["block_out_channels"], config["layers_per_block"]
    last = len(channels) - 1
    names = ldm_coder("encoder", lambda i: f"down.{i}", "downsample", channels[:1] + channels, resnets)
    names += ldm_coder("decoder", lambda i: f"up.{last - i}", "upsample", channels[-1:] + channels[::-1], resnets + 1)
    numbered = Numbered(names, PREFIXES["vae"])
    return list(numbered.lines(convert_ldm_vae_checkpoint(numbered, config)))


def text_names(component, tensors):
    numbered = Numbered(tensors, PREFIXES[component])
    return list(numbered.lines(convert(component, numbered, None)))


def convert(component, checkpoint, config):
    if component == "transformer":
        return convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    if component == "vae":
        return convert_ldm_vae_checkpoint(checkpoint, config)
    if component == "text_encoder_3":
        return convert_sd3_t5_checkpoint_to_diffusers(checkpoint)
    return convert_ldm_clip_checkpoint(checkpoint, PREFIXES[component])


def to_single_file(component, names, tensors):
    pieces = {}
    for name, original, rows in names:
        parts = ["0/1"] if rows.startswith("all") else rows.split("+")
        for part, rows_of_part in zip(parts, tensors[name].chunk(len(parts))):
            pieces.setdefault(original, {})[part] = rows_of_part[..., None, None] if "1x1" in rows else rows_of_part
    return {PREFIXES[component] + original: torch.cat([parts[part] for part in sorted(parts)]) for original, parts in pieces.items()}


def main():
    out = []
    for checkpoint in ("medium", "large", "sd3"):
        for component in PREFIXES:
            folder = HERE / "checkpoints" / checkpoint / component
            if not folder.is_dir():
                continue
            config = json.loads((folder / "config.json").read_text())
            tensors = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
            if component == "transformer":
                names = transformer_names(config)
            elif component == "vae":
                names = vae_names(config)
            else:
                names = text_names(component, tensors)
            assert [name for name, _, _ in names] == sorted(tensors), folder
            converted = convert(component, to_single_file(component, names, tensors), config)
            assert converted.keys() == tensors.keys() and all(torch.equal(converted[name], tensors[name]) for name in tensors), folder
            out.append(f"[{checkpoint} {component} {PREFIXES[component]}]")
            out += [" ".join(line) for line in names]
    (HERE / "single_file_names.txt").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    sys.exit(main())
