#!/usr/bin/env python3
"""Makes the checkpoints and results of this folder: small random models, and what PyPI's diffusers draws with them.

    make_reference.py                       # the results, of the checkpoints that are here
    make_reference.py --tokenizers FOLDER   # the checkpoints too, with tokenizer{,_2,_3}/ of a diffusers folder (models/demo)

README.md says what is written; requirements.txt lists the packages.
"""

import argparse
import copy
import json
import math
import re
import shutil
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "pipeline/tool/reference"))
import diffusers_stages as stages  # noqa: E402
from cases import CASES  # noqa: E402

SHIFTS = (1.0, 1.5, 3.0, 6.0)
STEP_COUNTS = (*range(1, 51), 100, 1000)

POSITIONS = 77
JOINT_DIM, CLIP_L_DIM, CLIP_G_DIM = 64, 24, 32
CLIP_L_PROJECTION, CLIP_G_PROJECTION = 24, 40

# Shapes as in the real checkpoints, in small. Head sizes and counts differ from each other, so that one taken for another
# shows. `store`: the type of the files. `parts`: what the folder holds; the rest comes from its base.
CHECKPOINTS = {
    "medium": dict(
        transformer=dict(num_layers=3, num_attention_heads=2, attention_head_dim=24, dual_attention_layers=(0, 1),
                         qk_norm="rms_norm", pos_embed_max_size=24),
        vae=dict(block_out_channels=(8, 8, 16, 16), layers_per_block=2, norm_num_groups=8),
        clip_eos=2, own_t5=True, shift=3.0, store=torch.bfloat16, vae_store=torch.bfloat16, tokenizer_files="original"),
    "large": dict(
        transformer=dict(num_layers=2, num_attention_heads=3, attention_head_dim=16, dual_attention_layers=(),
                         qk_norm="rms_norm", pos_embed_max_size=16),
        vae=dict(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4),
        base="medium", clip_eos=869, shift=3.0, store=torch.bfloat16, vae_store=torch.bfloat16, shard="100KB", tokenizer_files="json"),
    "sd3": dict(
        transformer=dict(num_layers=2, num_attention_heads=1, attention_head_dim=64, dual_attention_layers=(), qk_norm=None,
                         pos_embed_max_size=12),
        vae=dict(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4),
        base="medium", shift=3.0, store=torch.bfloat16, vae_store=torch.bfloat16),
    "no_t5": dict(
        transformer=dict(num_layers=2, num_attention_heads=2, attention_head_dim=16, dual_attention_layers=(0,),
                         qk_norm="rms_norm", pos_embed_max_size=16),
        vae=dict(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4),
        clip_eos=869, no_t5=True, shift=2.0, store=torch.float16, vae_store=torch.float16, variant="fp16", tokenizer_files="both"),
}

def randomise(module, seed):
    """Every parameter random, none zero or one: what is left out or mixed up shows in the result."""
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.copy_(noise * weight_scale(name, parameter))
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.1)
            else:
                parameter.copy_(1 + noise * 0.2)  # the weight of a norm
    return module.eval()


def weight_scale(name, parameter):
    if "token_embedding" in name or "shared" in name or "relative_attention_bias" in name:
        return 1.0
    if "position_embedding" in name:
        return 0.5
    gain = 1.0
    if "SelfAttention.q" in name:  # T5 does not divide by sqrt(d_kv)
        gain = parameter.shape[0] ** -0.25
    return gain / math.sqrt(parameter[0].numel())


def make_clip(width, heads, layers, projection, act, eos, pad):
    return CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=870, hidden_size=width, intermediate_size=width * 2, num_attention_heads=heads, num_hidden_layers=layers,
        projection_dim=projection, hidden_act=act, max_position_embeddings=POSITIONS, bos_token_id=0 if eos == 2 else 868,
        eos_token_id=eos, pad_token_id=pad))


def make_t5():
    return T5EncoderModel(T5Config(
        vocab_size=868, d_model=JOINT_DIM, d_kv=12, d_ff=96, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        dropout_rate=0.0, is_encoder_decoder=False, use_cache=False, tie_word_embeddings=True))


def make_transformer(config, seed):
    inner = config["num_attention_heads"] * config["attention_head_dim"]
    model = randomise(SD3Transformer2DModel(
        **config, sample_size=16, patch_size=2, in_channels=16, out_channels=16, joint_attention_dim=JOINT_DIM,
        caption_projection_dim=inner, pooled_projection_dim=CLIP_L_PROJECTION + CLIP_G_PROJECTION), seed)
    with torch.no_grad():  # attention that looks somewhere, and text that changes the picture
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("norm_q", "norm_k", "norm_added", "to_q.weight", "to_k.weight")):
                parameter.mul_(1.4)
            elif "add_v_proj.weight" in name or "attn.to_out.0.weight" in name:
                parameter.mul_(2)
    return model


def make_vae(config, seed):
    model = randomise(AutoencoderKL(
        **config, in_channels=3, out_channels=3, latent_channels=16, sample_size=32, scaling_factor=1.5305, shift_factor=0.0609,
        use_quant_conv=False, use_post_quant_conv=False, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4), seed)
    with torch.no_grad():  # pictures of middling contrast: neither grey nor saturated
        model.decoder.conv_out.weight.mul_(0.8)
    return model


def save_tokenizers(source, folder, spec):
    """`tokenizer_files`: "original" (vocab.json + merges.txt, spiece.model), "json" (tokenizer.json), or "both"."""
    parts = [("tokenizer", "<|endoftext|>", POSITIONS), ("tokenizer_2", "!", POSITIONS)]
    parts += [("tokenizer_3", "<pad>", 512)] if spec.get("own_t5") else []
    for part, pad, length in parts:
        tokenizer = AutoTokenizer.from_pretrained(source / part, pad_token=pad, model_max_length=length)
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(folder / part)
        if spec["tokenizer_files"] != "json":
            for name in ("vocab.json", "merges.txt", "spiece.model"):
                if (source / part / name).exists():
                    shutil.copyfile(source / part / name, folder / part / name)
        if spec["tokenizer_files"] == "original":
            (folder / part / "tokenizer.json").unlink()


def text_encoders(spec, seed):
    eos = spec["clip_eos"]
    parts = {
        "text_encoder": randomise(make_clip(CLIP_L_DIM, 2, 3, CLIP_L_PROJECTION, "quick_gelu", eos, 1 if eos == 2 else 869), seed),
        "text_encoder_2": randomise(make_clip(CLIP_G_DIM, 4, 3, CLIP_G_PROJECTION, "gelu", eos, 1 if eos == 2 else 0), seed + 1),
    }
    if spec.get("own_t5"):
        parts["text_encoder_3"] = randomise(make_t5(), seed + 2)
    return parts


def model_index(spec):
    t5 = not spec.get("no_t5")
    return {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"] if t5 else [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": ["transformers", "T5Tokenizer"] if t5 else [None, None],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def make_checkpoint(name, spec, tokenizers, seed):
    folder = HERE / "checkpoints" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    variant = {"variant": spec["variant"]} if "variant" in spec else {}
    shard = {"max_shard_size": spec["shard"]} if "shard" in spec else {}
    make_transformer(spec["transformer"], seed).to(spec["store"]).save_pretrained(folder / "transformer", **variant, **shard)
    make_vae(spec["vae"], seed + 1).to(spec["vae_store"]).save_pretrained(folder / "vae", **variant)
    FlowMatchEulerDiscreteScheduler(shift=spec["shift"]).save_pretrained(folder / "scheduler")
    if "clip_eos" in spec:
        for part, model in text_encoders(spec, seed + 2).items():
            model.to(spec["store"]).save_pretrained(folder / part, **variant)
        save_tokenizers(tokenizers, folder, spec)
    (folder / "model_index.json").write_text(json.dumps(model_index(spec), indent=2) + "\n")


def make_schedules():
    tensors = {}
    for shift in SHIFTS:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        for steps in STEP_COUNTS:
            scheduler.set_timesteps(steps)
            tensors[f"shift_{shift}.sigmas.{steps}"] = scheduler.sigmas.clone()
            if shift == 3.0:
                tensors[f"shift_{shift}.timesteps.{steps}"] = scheduler.timesteps.clone()
    stages.save(HERE / "results/schedules.safetensors", tensors, {"diffusers": diffusers.__version__})


class Loaded(stages.Checkpoint):
    """Keeps what it has loaded: many requests are drawn of one checkpoint."""

    def __init__(self, name):
        spec = CHECKPOINTS[name]
        super().__init__(HERE / "checkpoints" / name, HERE / "checkpoints" / spec["base"] if "base" in spec else None)
        self._parts = {}

    def load(self, part, dtype):
        key = (part, dtype)
        if part == "scheduler" or part.startswith("text_encoder"):
            return super().load(part, dtype)  # these are hooked or wrapped anew for each request
        if key not in self._parts:
            self._parts[key] = super().load(part, dtype)
        return copy.deepcopy(self._parts[key])


def make_results():
    checkpoints = {name: Loaded(name) for name in CHECKPOINTS}
    images = {}
    for case in CASES:
        for dtype in case["dtypes"]:
            pattern = re.compile("image|" + case["stages"].get(dtype, "image"))
            request = {**case["request"], "dtype": dtype}
            tensors, metadata = stages.run(checkpoints[case["checkpoint"]], request, pattern.match)
            images[f"{case['name']}.{dtype}"] = tensors.pop("image")
            if tensors:
                stages.save(HERE / f"results/{case['name']}.{dtype}.safetensors", tensors, metadata)
            print(case["name"], dtype)
    stages.save(HERE / "results/images.safetensors", images, {"versions": metadata["versions"]})


def write_cases():
    """cases.json: what C++ reads."""
    cases = [{**case, "base": CHECKPOINTS[case["checkpoint"]].get("base"), "stages": list(case["stages"])}
             for case in CASES]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=Path, help="diffusers folder; without it the checkpoints stay as they are")
    args = parser.parse_args()
    if args.tokenizers:
        for i, (name, spec) in enumerate(CHECKPOINTS.items()):
            make_checkpoint(name, spec, args.tokenizers, 1000 * (i + 1))
    shutil.rmtree(HERE / "results", ignore_errors=True)
    (HERE / "results").mkdir()
    write_cases()
    make_schedules()
    make_results()


if __name__ == "__main__":
    main()
