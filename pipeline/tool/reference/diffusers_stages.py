#!/usr/bin/env python3
"""Runs diffusers' StableDiffusion3Pipeline on the CPU for one request and writes what every stage computed.

    diffusers_stages.py CHECKPOINT [--base FOLDER] --request REQUEST.json --output STAGES.safetensors

The modules are diffusers' and transformers' own, observed by hooks; nothing is computed here. tests/reference/README.md
lists the tensors of the output file and the keys of a request. `fresco-model verify` runs this script and compares, and
tests/reference/make_reference.py imports it.
"""

import argparse
import json
import os
import re
import sys
import warnings
from pathlib import Path

NEEDED = "torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 safetensors sentencepiece accelerate"
FORMAT = "fresco-stages-1"
TEXT_ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5"}
# What the names in a single file of Stability AI's layout begin with: those that diffusers' from_single_file knows.
SINGLE_FILE_NAMES = {
    "transformer": ("joint_blocks.", "model.diffusion_model.joint_blocks."),
    "text_encoder": ("text_encoders.clip_l.transformer.",),
    "text_encoder_2": ("text_encoders.clip_g.transformer.",),
    "text_encoder_3": ("text_encoders.t5xxl.transformer.",),
    "vae": ("first_stage_model.",),
}
TEXT_PARTS = ("tokenizer", "tokenizer_2", "tokenizer_3", *TEXT_ENCODERS)
REQUEST_DEFAULTS = {
    "prompt": "",
    "prompt_2": None,
    "prompt_3": None,
    "negative_prompt": "",
    "negative_prompt_2": None,
    "negative_prompt_3": None,
    "width": 1024,
    "height": 1024,
    "steps": 28,
    "guidance_scale": 7.0,
    "seed": 0,
    "max_sequence_length": 256,
    "clip_skip": 0,
    "dtype": "fp32",
}


class Unusable(Exception):
    """What a person can put right; the message says how."""


def _import_libraries():
    try:
        import diffusers
        import safetensors.torch
        import torch
        import transformers
    except ImportError as error:
        raise Unusable(f"{sys.executable}: {error}. Needed: {sys.executable} -m pip install {NEEDED}") from error
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    return torch, diffusers, transformers, safetensors.torch


def read_request(values):
    """The request with its defaults filled in; Unusable for what is not one."""
    if not isinstance(values, dict):
        raise Unusable("the request is not a JSON object")
    unknown = sorted(set(values) - set(REQUEST_DEFAULTS))
    if unknown:
        raise Unusable(f"request: unknown key '{unknown[0]}'; known: {', '.join(REQUEST_DEFAULTS)}")
    request = {**REQUEST_DEFAULTS, **values}
    for key, value in request.items():
        default = REQUEST_DEFAULTS[key]
        kinds = (int, float) if isinstance(default, float) else (str, type(None)) if default is None else type(default)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise Unusable(f"request: {key} is {value!r}")
    if request["dtype"] not in ("fp32", "bf16"):
        raise Unusable(f"request: dtype is '{request['dtype']}': it takes fp32 or bf16")
    return request


class Checkpoint:
    """The parts of a diffusers folder or a single file, each loaded when asked for, from `base` where they lack it."""

    def __init__(self, path, base=None):
        self.torch, self.diffusers, self.transformers, _ = _import_libraries()
        self.file = Path(path) if Path(path).is_file() else None
        self.folders = [Path(p) for p in (None if self.file else path, base) if p]
        if not self.folders:
            raise Unusable(f"{path}: a single file needs --base, a diffusers folder that supplies what it lacks")
        for folder in self.folders:
            if not folder.is_dir():
                raise Unusable(f"{folder}: not a folder (a diffusers folder is needed: model_index.json, transformer/, vae/ …)")
        indices = [p / "model_index.json" for p in self.folders if (p / "model_index.json").is_file()]
        if not indices:
            raise Unusable(f"{self.folders[0]}: no model_index.json, so this is no diffusers folder")
        self.index = json.loads(indices[0].read_text())

    def dtype(self, name):
        return {"fp32": self.torch.float32, "bf16": self.torch.bfloat16}[name]

    def has(self, part):
        return (self.index.get(part) or [None, None])[1] is not None

    def load(self, part, dtype):
        """The part, or None where model_index.json says null."""
        if not self.has(part):
            return None
        folder = self._folder(part)
        cls = self._class(part)
        if part == "scheduler" or part.startswith("tokenizer"):
            return cls.from_pretrained(folder)
        if self._in_file(part):
            return self._from_file(part, dtype).eval()
        arguments = {"variant": _variant(folder), "dtype" if part in TEXT_ENCODERS else "torch_dtype": self.dtype(dtype)}
        return cls.from_pretrained(folder, **arguments).eval()

    def transformer_config(self):
        """A transformer without weights: what encode_prompt wants of one."""
        cls = self._class("transformer")
        with self.torch.device("meta"):
            return cls.from_config(cls.load_config(self._folder("transformer")))

    def _in_file(self, part):
        if self.file is None:
            return False
        import safetensors
        with safetensors.safe_open(self.file, framework="pt") as file:
            return any(name.startswith(SINGLE_FILE_NAMES[part]) for name in file.keys())

    def _from_file(self, part, dtype):
        """The part as StableDiffusion3Pipeline.from_single_file makes it, configured by the folder."""
        from diffusers.loaders import single_file, single_file_utils
        checkpoint = single_file_utils.load_single_file_checkpoint(str(self.file))
        # transformers 5 breaks two habits of these loaders: they leave buffers that no file holds on the meta device when
        # accelerate is there, and take T5's two names of one tensor for two.
        single_file_utils.is_accelerate_available = lambda: False
        tokens = "text_encoders.t5xxl.transformer.{}.weight"
        if tokens.format("shared") in checkpoint:
            checkpoint.setdefault(tokens.format("encoder.embed_tokens"), checkpoint[tokens.format("shared")])
        library, name = self.index[part]
        model = single_file.load_single_file_sub_model(
            library_name=library, class_name=name, name=part, checkpoint=checkpoint, pipelines=None,
            is_pipeline_module=False, cached_model_config_path=str(self._folder(part).parent), local_files_only=True,
            torch_dtype=self.dtype(dtype))
        return model.to(self.dtype(dtype))

    def _folder(self, part):
        for folder in self.folders:
            if (folder / part).is_dir():
                return folder / part
        raise Unusable(f"{self.folders[0]}: model_index.json names '{part}', but there is no such folder"
                       + (f", nor in {self.folders[1]}" if len(self.folders) > 1 else " (--base can supply it)"))

    def _class(self, part):
        library, name = self.index[part]
        cls = getattr({"diffusers": self.diffusers, "transformers": self.transformers}.get(library), name, None)
        if cls is None:
            raise Unusable(f"model_index.json: {part} is {library}.{name}, which this installation does not have")
        return cls


def _variant(folder):
    """The variant of the folder's weights where only variants are there: "fp16" for model.fp16.safetensors."""
    names = [p.name for p in folder.iterdir() if ".safetensors" in p.name]
    stem = r"(?:model|diffusion_pytorch_model)(?:\.safetensors\.index)?"
    if any(re.fullmatch(stem + r"(-\d+-of-\d+)?\.(safetensors|json)", n) for n in names):
        return None
    found = sorted({m[1] for n in names if (m := re.match(r"[a-z_]+(?:\.safetensors\.index)?\.(\w+?)[-.]", n))})
    return found[0] if found else None


class Recorder:
    """Collects tensors by name; `wanted` decides which."""

    def __init__(self, wanted):
        self.wanted, self.tensors = wanted, {}

    def put(self, name, tensor):
        if self.wanted(name):
            self.tensors[name] = tensor.detach().clone().contiguous()


def _encode_texts(checkpoint, request, recorder):
    """encode_prompt's four results; the encoders are freed on return."""
    parts = {p: checkpoint.load(p, request["dtype"]) for p in TEXT_PARTS}
    pipe = checkpoint.diffusers.StableDiffusion3Pipeline(
        transformer=checkpoint.transformer_config(), vae=None, scheduler=None, **parts)
    clip_skip = request["clip_skip"]
    calls = dict.fromkeys(TEXT_ENCODERS, 0)

    def observe(part):
        def hook(module, args, output):
            positive = calls[part] == 0
            name = f"{'positive' if positive else 'negative'}.{TEXT_ENCODERS[part]}"
            calls[part] += 1
            recorder.put(f"{name}.ids", args[0][0])
            if part == "text_encoder_3":
                recorder.put(f"{name}.hidden", output[0][0])
            else:
                recorder.put(f"{name}.hidden", output.hidden_states[-2 - (clip_skip if positive else 0)][0])
                recorder.put(f"{name}.pooled", output[0][0])
        return hook

    for part in TEXT_ENCODERS:
        if parts[part] is not None:
            parts[part].register_forward_hook(observe(part))
    texts = {k: request[k] for k in request if "prompt" in k}
    return pipe.encode_prompt(
        **texts, device="cpu", do_classifier_free_guidance=request["guidance_scale"] > 1,
        clip_skip=clip_skip or None, max_sequence_length=request["max_sequence_length"])


def _observe_first_forward(transformer, recorder):
    """Hooks for the first call of the transformer; returns those to remove after it."""
    def put(name, pick=lambda output: output):
        return lambda module, args, output: recorder.put(name, pick(output))

    handles = [
        transformer.pos_embed.register_forward_hook(put("transformer.patches")),
        transformer.time_text_embed.register_forward_hook(put("transformer.temb")),
        transformer.context_embedder.register_forward_hook(put("transformer.context")),
        transformer.norm_out.register_forward_hook(put("transformer.norm_out")),
        transformer.register_forward_hook(put("transformer.output", lambda output: output[0])),
    ]
    for i, block in enumerate(transformer.transformer_blocks):
        handles.append(block.register_forward_hook(put(f"transformer.block.{i}.image", lambda output: output[1])))
        if not block.context_pre_only:
            handles.append(block.register_forward_hook(put(f"transformer.block.{i}.context", lambda output: output[0])))
    return handles


def _kept_steps(steps, count):
    """At most `count` of the steps 0..steps-1, the first and the last among them."""
    if steps <= count:
        return set(range(steps))
    return {round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)}


def _observe_steps(pipe, recorder, request, kept):
    """Records noise, schedule, velocities and latents as the pipeline goes, by wrapping scheduler.step."""
    step = pipe.scheduler.step
    state = {"index": 0, "handles": _observe_first_forward(pipe.transformer, recorder)}

    def observed(velocity, timestep, latents, **arguments):
        index = state["index"]
        if index == 0:
            for handle in state["handles"]:
                handle.remove()
            recorder.put("sigmas", pipe.scheduler.sigmas)
            recorder.put("timesteps", pipe.scheduler.timesteps)
            recorder.put("latents.0", latents)
        result = step(velocity, timestep, latents, **arguments)
        if index in kept:
            recorder.put(f"velocity.{index}", velocity)
            recorder.put(f"latents.{index + 1}", result[0])
        state["index"] += 1
        print(f"step {state['index']}/{request['steps']}", file=sys.stderr)
        return result

    pipe.scheduler.step = observed


def _observe_vae(vae, recorder):
    decode = vae.decode

    def observed(latents, *args, **arguments):
        recorder.put("vae.decode.input", latents)
        result = decode(latents, *args, **arguments)
        recorder.put("vae.decode.output", result[0])
        if recorder.wanted("vae.encode.mean") or recorder.wanted("vae.encode.logvar"):
            posterior = vae.encode(result[0]).latent_dist
            recorder.put("vae.encode.mean", posterior.mean)
            recorder.put("vae.encode.logvar", posterior.logvar)
        return result

    vae.decode = observed


def run(checkpoint, values, wanted=lambda name: True, max_steps=8):
    """(tensors by name, metadata) of one request; `wanted(name)` decides which tensors are kept."""
    request = read_request(values)
    torch = checkpoint.torch
    recorder = Recorder(wanted)
    with torch.inference_mode():
        print("text encoders", file=sys.stderr)
        positive, negative, pooled, negative_pooled = _encode_texts(checkpoint, request, recorder)
        recorder.put("positive.prompt_embeds", positive[0])
        recorder.put("positive.pooled", pooled[0])
        if negative is not None:
            recorder.put("negative.prompt_embeds", negative[0])
            recorder.put("negative.pooled", negative_pooled[0])
        print("transformer", file=sys.stderr)
        image = _draw(checkpoint, request, recorder, max_steps, dict(
            prompt_embeds=positive, negative_prompt_embeds=negative,
            pooled_prompt_embeds=pooled, negative_pooled_prompt_embeds=negative_pooled))
    recorder.put("image", torch.from_numpy((image * 255).round().astype("uint8")))
    versions = {m.__name__: m.__version__ for m in (torch, checkpoint.diffusers, checkpoint.transformers)}
    return recorder.tensors, {"format": FORMAT, "request": json.dumps(request, ensure_ascii=False),
                              "versions": json.dumps(versions)}


def _draw(checkpoint, request, recorder, max_steps, embeddings):
    torch = checkpoint.torch
    parts = {p: checkpoint.load(p, request["dtype"]) for p in ("transformer", "vae", "scheduler")}
    pipe = checkpoint.diffusers.StableDiffusion3Pipeline(**parts, **dict.fromkeys(TEXT_PARTS))
    pipe.set_progress_bar_config(disable=True)
    _observe_steps(pipe, recorder, request, _kept_steps(request["steps"], max_steps))
    _observe_vae(parts["vae"], recorder)
    # The pipeline draws noise in its own type; Fresco in fp32, then rounds. In fp32 they are one, so there the pipeline draws.
    shape = (1, parts["transformer"].config.in_channels,
             request["height"] // pipe.vae_scale_factor, request["width"] // pipe.vae_scale_factor)
    noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(request["seed"]))
    recorder.put("noise", noise)
    latents = None if request["dtype"] == "fp32" else noise.to(checkpoint.dtype(request["dtype"]))
    return pipe(**embeddings, width=request["width"], height=request["height"], num_inference_steps=request["steps"],
                guidance_scale=request["guidance_scale"], max_sequence_length=request["max_sequence_length"],
                generator=torch.Generator("cpu").manual_seed(request["seed"]), latents=latents, output_type="np").images[0]


def save(path, tensors, metadata):
    *_, safetensors_torch = _import_libraries()
    safetensors_torch.save_file(tensors, path, metadata=metadata)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="diffusers folder, or single .safetensors file with --base")
    parser.add_argument("--base", help="diffusers folder that supplies what the checkpoint lacks")
    parser.add_argument("--request", required=True, help="JSON file; '-' reads standard input")
    parser.add_argument("--output", required=True, help="safetensors file to write")
    parser.add_argument("--only", default="", help="regular expression: only tensors whose name it matches at the start")
    parser.add_argument("--max-steps", type=int, default=8, help="velocity and latents of at most so many steps (default 8)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
    args = parser.parse_args()
    try:
        text = sys.stdin.read() if args.request == "-" else Path(args.request).read_text(encoding="utf-8")
        try:
            values = json.loads(text)
        except ValueError as error:
            raise Unusable(f"request {args.request}: {error}") from error
        checkpoint = Checkpoint(args.checkpoint, args.base)
        if args.threads:
            checkpoint.torch.set_num_threads(args.threads)
        pattern = re.compile(args.only)
        save(args.output, *run(checkpoint, values, lambda name: pattern.match(name) is not None, args.max_steps))
    except (Unusable, OSError, RuntimeError, ValueError) as error:
        print(f"diffusers_stages.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
