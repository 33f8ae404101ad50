"""Writes a model folder in diffusers' layout, all weights in bf16."""

import copy
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from transformers import AutoTokenizer

import glyphs

DEFAULTS = "steps: 20\nguidance_scale: 3.0\nwidth: 128\nheight: 128\nmax_sequence_length: 16\n"


def write(model, init, vae_folder, tokenizers, data, target):
    """`model` is train_transformer's, `data` the latents' dictionary (its shift and scale go into the VAE)."""
    target = Path(target)
    vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32)
    vae.register_to_config(shift_factor=data["shift"], scaling_factor=data["scale"])
    parts = {"vae": vae, "transformer": model.transformer, "text_encoder": model.clip,
             "text_encoder_2": model.clip_2, "text_encoder_3": model.t5}
    pipeline = StableDiffusion3Pipeline(
        **{name: copy.deepcopy(part).to("cpu", torch.bfloat16) for name, part in parts.items()},
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(f"{init}/scheduler"),
        **{n: AutoTokenizer.from_pretrained(f"{tokenizers}/{n}") for n in ("tokenizer", "tokenizer_2", "tokenizer_3")})
    pipeline.save_pretrained(target, safe_serialization=True)
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):  # all readings of them, as vocabulary.py wrote them
        shutil.copytree(f"{tokenizers}/{name}", target / name, copy_function=shutil.copyfile, dirs_exist_ok=True)
    tidy(target)
    (target / "fresco.yaml").write_text(DEFAULTS)
    subjects = [{"name": s["name"], "codepoint": s["codepoint"]} for s in glyphs.subjects()]
    (target / "subjects.json").write_text(json.dumps(subjects, ensure_ascii=False, indent=1) + "\n")


def tidy(folder):
    """Drops what the libraries note about this machine, and makes every file readable."""
    for config in folder.rglob("*.json"):
        data = json.loads(config.read_text())
        if isinstance(data, dict) and data.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(data, indent=2) + "\n")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def weight_bytes(folder):
    """Bytes of all safetensors in a model folder."""
    return sum(f.stat().st_size for f in Path(folder).rglob("*.safetensors"))
