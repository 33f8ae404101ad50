#!/usr/bin/env python3
"""Makes corpus/: a few small inputs for each fuzzer, most of them valid, from which libFuzzer starts.

What crashed once is in regressions/, which this does not touch. Run it where a format or a fuzzer's input has changed;
it needs Python alone, and makes the same bytes each time.
"""

import json
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def put(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def sections(**files):
    """Files of one input, as fuzz.h's Sections reads them; "__" in a name stands for a dot."""
    parts = []
    for name, content in files.items():
        parts.append(b"=== " + name.replace("__", ".").encode() + b"\n" + (content if isinstance(content, bytes) else content.encode()))
    return b"\n".join(parts)


# ---- safetensors -------------------------------------------------------------------------------------------------

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "I64": 8, "F4": 1}


def tensors(entries, metadata=None):
    """A header line and its data, as fuzz.h's SafetensorsBytes reads them. entries: name -> (type, shape[, data])."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, *given) in entries.items():
        count = 1
        for extent in shape:
            count *= extent
        size = count * SIZES[dtype]
        content = given[0] if given else bytes(0x38 + i % 3 for i in range(size))
        assert len(content) == size, name
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += content
    return json.dumps(header, separators=(",", ":")).encode() + b"\n" + data


def f32(*values):
    return struct.pack(f"<{len(values)}f", *values)


def text(content):
    return ("U8", [len(content)], content.encode())


def make_safetensors():
    put("safetensors", "types", tensors({"a": ("F32", [2, 3]), "b": ("BF16", []), "c": ("I64", [1]), "d": ("U8", [0, 5])}, {"format": "pt"}))
    put("safetensors", "unknown_type", tensors({"x": ("F4", [3]), "y": ("F16", [2])}))
    plain = tensors({"w": ("F32", [1])})
    header = plain.split(b"\n")[0]
    put("safetensors", "raw", struct.pack("<Q", len(header)) + header + f32(1))
    put("safetensors", "empty", "{}\n")
    scale = ("F32", [3], f32(0.5, 1, 2))
    put("safetensors", "comfy_old", tensors({"b.fc.weight": ("F8_E4M3", [3, 2]), "b.fc.scale_weight": scale, "b.fc.scale_input": ("F32", [], f32(2)), "scaled_fp8": ("F8_E4M3", [2])}))
    put("safetensors", "comfy_new", tensors({"b.fc.weight": ("F8_E4M3", [3, 2]), "b.fc.weight_scale": scale, "b.fc.input_scale": ("F32", [1], f32(2)),
                                             "b.fc.comfy_quant": text('{"format":"float8_e4m3fn","full_precision_matrix_mult":true}')}))
    put("safetensors", "comfy_metadata", tensors({"b.fc.weight": ("I8", [3, 2]), "b.fc.weight_scale": ("F16", [3, 1], bytes.fromhex("003c003c003c"))},
                                                 {"_quantization_metadata": '{"layers":{"b.fc":{"format":"int8_tensorwise"}}}'}))
    put("safetensors", "quanto", tensors({"q.weight._data": ("I8", [3, 2]), "q.weight._scale": ("BF16", [3, 1], bytes.fromhex("803f803f803f"))}))
    put("safetensors", "cast", tensors({"c.weight": ("F8_E5M2", [2, 2]), "n.weight": ("F16", [2])}))
    put("safetensors", "blocks", tensors({"b.weight": ("U8", [2, 2]), "b.weight_scale_2": ("F32", [])}))


def make_checkpoint_folder():
    one, two = tensors({"a.weight": ("F32", [2])}), tensors({"b.weight": ("F16", [1, 2])}, {"format": "pt"})
    index = json.dumps({"metadata": {}, "weight_map": {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}})
    put("checkpoint_folder", "whole", sections(model__safetensors=one))
    shards = {"model-00001-of-00002__safetensors": one, "model-00002-of-00002__safetensors": two}
    put("checkpoint_folder", "shards", sections(model__safetensors__index__json=index, **shards))
    put("checkpoint_folder", "variant", sections(variant="fp16", model__fp16__safetensors=one, model__safetensors=two))
    put("checkpoint_folder", "old_variant_index", sections(model__safetensors__index__fp16__json=index, **shards))
    put("checkpoint_folder", "missing_shard", sections(model__safetensors__index__json=index, **{"model-00001-of-00002__safetensors": one}))
    put("checkpoint_folder", "outside", sections(model__safetensors__index__json='{"weight_map":{"a":"../a.safetensors"}}'))


def make_single_file():
    transformer = {
        "x_embedder.proj.weight": ("F16", [4, 1, 2, 2]), "pos_embed": ("F16", [1, 4, 4]), "context_embedder.weight": ("F16", [4, 3]),
        "y_embedder.mlp.0.weight": ("F16", [4, 2]), "final_layer.linear.weight": ("F16", [4, 4]), "final_layer.adaLN_modulation.1.weight": ("F16", [8, 4]),
        "joint_blocks.0.x_block.attn.qkv.weight": ("F8_E4M3", [12, 4]), "joint_blocks.0.x_block.attn.qkv.weight_scale": ("F32", [12], f32(*[1] * 12)),
        "joint_blocks.0.x_block.attn.ln_q.weight": ("F16", [2]), "joint_blocks.0.x_block.attn.proj.weight": ("F16", [4, 4]),
        "joint_blocks.0.context_block.adaLN_modulation.1.weight": ("F16", [8, 4]), "joint_blocks.0.x_block.attn2.qkv.bias": ("F16", [12]),
    }
    put("single_file", "transformer", tensors({"model.diffusion_model." + name: entry for name, entry in transformer.items()}))
    put("single_file", "bare", tensors(transformer))
    put("single_file", "quantised", tensors({"joint_blocks.0.x_block.mlp.fc1.weight": ("I8", [2, 2]), "joint_blocks.0.x_block.mlp.fc1.weight_scale": ("F32", [2], f32(1, 1))},
                                            {"_quantization_metadata": '{"layers":{"model.diffusion_model.joint_blocks.0.x_block.mlp.fc1":{"format":"int8_tensorwise"}}}'}))
    put("single_file", "diffusers", tensors({"transformer.transformer_blocks.0.attn.to_q.weight": ("F16", [2, 2]), "transformer.norm_out.linear.weight": ("F16", [4, 2]),
                                             "vae.decoder.up_blocks.0.resnets.0.conv1.weight": ("F16", [1, 1, 1, 1])}))
    put("single_file", "all", tensors({
        "joint_blocks.0.x_block.attn.proj.bias": ("F16", [2]), "text_encoders.clip_l.transformer.text_model.embeddings.position_embedding.weight": ("F16", [2, 3]),
        "text_encoders.clip_g.transformer.text_projection.weight": ("F16", [2, 2]), "text_encoders.clip_g.transformer.text_model.final_layer_norm.weight": ("F16", [2]),
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": ("F8_E4M3", [2, 2]), "text_encoders.t5xxl.transformer.scaled_fp8": ("F8_E4M3", [0]),
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.scale_weight": ("F32", [1], f32(1)),
        "first_stage_model.decoder.up.3.block.0.nin_shortcut.weight": ("F16", [1, 1, 1, 1]), "first_stage_model.decoder.mid.attn_1.q.weight": ("F16", [2, 2, 1, 1])}))


# ---- tokenizers --------------------------------------------------------------------------------------------------

VOCABULARY = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "r": 3, "e": 4, "d</w>": 5, "re": 6, "red</w>": 7, "a</w>": 8}
NAMED = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 77}


def make_clip_tokenizer():
    vocabulary, merges = json.dumps(VOCABULARY), "#version: 0.2\nr e\nre d</w>"
    put("clip_tokenizer", "two_files", sections(vocab__json=vocabulary, merges__txt=merges, prompt="a red fox, Dearer!"))
    put("clip_tokenizer", "configured", sections(vocab__json=vocabulary, merges__txt=merges, tokenizer_config__json=json.dumps(NAMED), prompt="red"))
    put("clip_tokenizer", "one_file", sections(tokenizer__json=json.dumps({
        "model": {"type": "BPE", "vocab": VOCABULARY, "merges": ["r e", ["re", "d</w>"]]},
        "added_tokens": [{"id": 1, "content": "<|endoftext|>", "special": True, "normalized": False}, {"id": 9, "content": "fox", "single_word": True, "lstrip": True}]}),
        prompt="a fox <|endoftext|>"))
    put("clip_tokenizer", "maps", sections(
        vocab__json=vocabulary, merges__txt=merges, added_tokens__json='{"<new>": 9}',
        special_tokens_map__json=json.dumps({"bos_token": {"content": "<|startoftext|>", "normalized": True}, "additional_special_tokens": ["<x>"]}), prompt="<new><x>"))
    put("clip_tokenizer", "decoder", sections(
        vocab__json=vocabulary, merges__txt=merges, prompt=" ! red",
        tokenizer_config__json=json.dumps({"added_tokens_decoder": {"10": {"content": "!", "rstrip": True, "special": False}}, "pad_token": "!"})))


def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def piece(content, score, kind=1):
    return field(1, field(1, content.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))


def charsmap():
    """'a' becomes "x": a root whose children are counted from 1, and one leaf."""
    units = [0] * 256
    units[0] = 1 << 10
    units[ord("a") ^ 1] = ord("a") | 1 << 8 | ((ord("a") ^ 1) ^ 200) << 10
    units[200] = 0x80000000
    return struct.pack("<I", 1024) + struct.pack("<256I", *units) + b"x\0"


def make_t5_tokenizer():
    pieces = piece("<pad>", 0, 3) + piece("</s>", 0, 3) + piece("<unk>", 0, 2) + piece("▁", -2) + piece("▁red", -1) + piece("e", -3.5) + piece("fo", -4)
    put("t5_tokenizer", "pieces", sections(spiece__model=pieces, prompt="red fox"))
    put("t5_tokenizer", "charsmap", sections(spiece__model=pieces + field(3, field(2, charsmap())), prompt="a red"))
    put("t5_tokenizer", "configured", sections(spiece__model=pieces, tokenizer_config__json='{"extra_ids": 2, "eos_token": "</s>", "model_max_length": 512}', prompt="<extra_id_1> red"))
    vocabulary = [["<pad>", 0], ["</s>", 0], ["<unk>", 0], ["▁", -2.5], ["▁red", -1], ["<extra_id_0>", 0]]
    put("t5_tokenizer", "json", sections(tokenizer__json=json.dumps({
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary},
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": ""}]},
        "added_tokens": [{"id": 1, "content": "</s>", "special": True}]}, ensure_ascii=False),
        tokenizer_config__json='{"extra_ids": 1, "additional_special_tokens": ["<extra_id_0>"]}', prompt="red </s>"))


def make_prompt():
    put("prompt", "plain", "a red fox on a light blue background")
    put("prompt", "special", "<|startoftext|>don't <|endoftext|></s> <extra_id_3>")
    put("prompt", "unicode", "ﬁ\u0301 ÀÉ İ １２３ 東京 👩\u200d🚀 e\u0301\u0316\u0315 \u0f73\u0f71 ▁▁ ﷺ")
    put("prompt", "broken", b"a\xc3 \xed\xa0\x80 \xff")
    put("prompt", "long", "a very " * 40 + "long prompt")


# ---- JSON and YAML -----------------------------------------------------------------------------------------------

def make_model_json():
    for component in ("transformer", "text_encoder", "text_encoder_3", "vae"):
        put("model_json", component, (ROOT / "models/demo" / component / "config.json").read_bytes())
    put("model_json", "scheduler", (ROOT / "models/demo/scheduler/scheduler_config.json").read_bytes())
    put("model_json", "index", (ROOT / "models/demo/model_index.json").read_bytes())
    put("model_json", "numbers", '{"a":[0,-0.0,1e308,-1,18446744073709551615,0.1],"b":null,"c":true,"d":"\\ud83d\\ude00\\u0000","num_layers":1.0}')
    put("model_json", "deep", "[" * 32 + "]" * 32)


def calibration():
    ranges = {"count": 7, "min": -0.5, "max": 0.1, "percentiles": [0.01, 0.02, 1e-38]}
    layer = {"names": ["transformer_blocks.0.attn.to_q"], "outputs": 96, "tokens": 12345678901, "ranges": [ranges, {**ranges, "count": 0}], "channel_absmax": [0.3, 1e20],
             "channel_mean": [-0.3, 0], "sensitivity": {"fp8": 0.0123}, "input_sensitivity": {"fp8": 0.004}, "scheme": {"fp8": "high", "int8": "int8-weight-only"}}
    bucket = {"scale": [1.001, 0.999], "offset": [0, -0.3]}
    return {"format": "fresco-calibration", "version": 1, "model": "models/demo", "weights_digest": "sha256:00", "prompts": 3, "steps": 20, "width": 128, "height": 128,
            "guidance_scale": 3.1, "seed": 2**64 - 1, "sigma_buckets": [1, 0.3], "rounded_weights": {"fp8": "c.fp8.safetensors"},
            "noise_correction": {"fp8": {"buckets": [bucket, bucket]}}, "layers": [layer]}


def make_calibration():
    put("calibration", "full", json.dumps(calibration()))
    put("calibration", "bare", json.dumps({**calibration(), "layers": [], "noise_correction": {}, "rounded_weights": {}, "sigma_buckets": [1]}))
    put("calibration", "wrong", json.dumps({**calibration(), "version": 2}))


def make_model_yaml():
    put("model_yaml", "demo", (ROOT / "models/demo/fresco.yaml").read_bytes())
    put("model_yaml", "full", 'steps: 4\nguidance_scale: 1.0\nwidth: 1024\nheight: 1024\nmax_sequence_length: 256\nlayers: {"*.ff.net.2": high, "a*b*c": fp8}\n')
    put("model_yaml", "aliases", "layers: &a {x: high}\nsteps: *a\n")
    put("model_yaml", "empty", "")


def make_server_yaml():
    page = (ROOT / "docs/CONFIGURATION.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    # Without what must be there as files.
    lines = [line.split("#")[0].rstrip() for line in example.splitlines() if not any(key in line for key in ("base:", "calibration:", "cost_model:"))]
    put("server_yaml", "full", "\n".join(lines).replace("models/demo", "model") + "\n")
    put("server_yaml", "small", 'server: {address: "[::1]:0", grace_period: 1m30s, max_request_bytes: 1MiB}\nmodels:\n- path: model\n  devices: [cpu, "cuda:1"]\n  layers: {"*.ff.net.2": high}\n')
    put("server_yaml", "tenants", "scheduler: {tenants: {studio: {weight: 3}}, policy: fifo, classes: {batch: {max_wait: 1h}}}\ncompute: {memory_budget: {cpu: 1GiB}}\n")
    put("server_yaml", "wrong", "server: {adress: 1}\nlog: [x]\nlimits: {max_width: .nan, max_width: 1}\n--- 2\n")
    put("server_yaml", "aliases", "log: &a {level: info, x: *a}\nlimits: *a\n")


def make_token_file():
    one = "  - {name: studio, sha256: " + "0123456789abcdef" * 4 + ", scopes: [generate, operate], requests_per_minute: 90, burst: 5, max_concurrent: 2, expires: 2027-12-31}\n"
    put("token_file", "full", "tokens:\n" + one + "  - name: shop\n    certificate: shop.example\n    tenant: shops\n    names_tenants: true\n    scopes: reflect\n    expires: 2027-12-31T18:00:00Z\n")
    put("token_file", "twice", "tokens:\n" + one + one)
    put("token_file", "empty", "tokens: []\n")
    put("token_file", "wrong", "tokens: [{name: a b, sha256: fresco_secret, scopes: [all], expires: soon}]\nmore: 1\n")


def make_cost_model():
    step = {"model": "demo", "tokens": 4429, "rows": 2, "seconds": 0.081, "count": 1200, "activation_bytes": 1610612736}
    steps = [step, {**step, "rows": 4, "seconds": 0.15}, {**step, "type": "cuda", "tokens": 1}, {**step, "type": "cpu", "activation_bytes": 0}]
    put("cost_model", "full", json.dumps({"format": "fresco-cost-model", "version": 1, "steps": steps}))
    put("cost_model", "empty", '{"format": "fresco-cost-model", "version": 1, "steps": []}')
    put("cost_model", "version", '{"format": "fresco-cost-model", "version": [2], "steps": []}')


# ---- the client's files ------------------------------------------------------------------------------------------

def make_batch_file():
    def options(csv=False, given=False, template=0, folder=True, seed=False, twice=False):
        return bytes([csv | given << 1 | template << 2 | folder << 4 | seed << 5 | twice << 6])

    put("batch_file", "lines", options() + "a red fox\n\n  a blue fish, \"quoted\"\r\n".encode())
    put("batch_file", "csv", options(csv=True) + b'prompt,negative,seed,width,height,steps,guidance,output\n"a ""red"" fox",blurry,7,128,128,4,3.5,a/fox.png\nb,,,,,,,\n')
    put("batch_file", "template", options(csv=True, template=1) + "\ufeffanimal,colour\nfox,red\n".encode())
    put("batch_file", "outside", options(csv=True) + b"prompt,output\na,../x.png\nb,/etc/x.png\n")
    put("batch_file", "pattern", options(csv=True, folder=False, seed=True, twice=True) + b"prompt,output\na,{prompt}-{seed}.webp\nb,\n")


def make_journal():
    request = {"count": 1, "format": "png", "guidance": 4.5, "height": 0, "model": "", "negative": "", "output": "out/fox.png", "prompt": "a fox", "quality": 0,
               "seed": 7, "steps": 0, "width": 0}
    entry = json.dumps({"images": [{"file": "out/fox.png", "seed": 7}], "request": request}, separators=(",", ":"))
    put("journal", "entry", entry + "\n")
    put("journal", "torn", entry + "\n" + entry[:30])
    put("journal", "other", '{"request":1,"images":[]}\n{"request":{},"images":[{"file":"x","seed":"7"}]}\nnot JSON\n')


# ---- requests ----------------------------------------------------------------------------------------------------

def number(index, value):
    return varint(index << 3) + varint(value & (1 << 64) - 1)


def real(index, value):
    return varint(index << 3 | 5) + struct.pack("<f", value)


def make_headers():
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    put("headers", "trace", parent + "\nrojo=00f067aa0ba902b7,congo=t61rcWkgMzE\ntenant@system=1 , ,x=y")
    put("headers", "later_version", "cc" + parent[2:] + "-what-comes\n")
    put("headers", "zeros", "00-" + "0" * 32 + "-" + "0" * 16 + "-00\na=b,a=c")


def make_request():
    def generate(content, choice=0):
        return bytes([choice, 5]) + content

    def create(content, choice=0):
        return bytes([choice | 1, 5]) + content

    whole = (field(1, b"demo") + field(2, b"a red fox") + field(3, b"blurry") + number(4, 512) + number(5, 512) + number(6, 20) + real(7, 4.5) + number(8, 7) + number(9, 2)
             + number(10, 3) + number(11, 5) + number(12, 1) + field(13, b"id-1:a.b_c") + number(14, 90) + number(15, 77) + field(16, b"two") + field(17, b"three")
             + number(18, 2) + number(19, 1) + number(50, 1))
    put("request", "generate", generate(whole))
    put("request", "generate_small_server", generate(whole, 2 | 4))
    put("request", "generate_refused_by_engine", generate(field(2, b"x"), 8))
    put("request", "generate_all_wrong", generate(number(4, 17) + number(5, -1) + number(6, -7) + real(7, float("nan")) + number(9, 10000) + number(10, 9) + number(11, -1)
                                                  + number(12, 77) + field(13, b"no id!" * 30) + number(14, 101) + number(15, 9999) + number(18, 11) + field(2, b"\xff" * 20), 2))
    put("request", "generate_texts", generate(field(2, b"\xff\xfe") + field(3, b"\xc3\x28") + field(16, b"\xed\xa0\x80") + field(2, b"good") + field(99, b"\xff")))
    put("request", "create", create(field(1, b"demo") + field(2, b"a red fox") + number(3, 2) + field(4, b"512x256") + field(5, b"b64_json") + field(6, b"webp") + field(7, b"high")
                                    + number(12, 80) + field(20, b"blurry") + number(21, 4) + real(22, 1) + number(23, 3)))
    put("request", "create_with_id", create(field(2, b"x") + field(24, b"id-1")))
    put("request", "create_wrong", create(field(4, b"0x7" * 40) + field(5, b"url") + field(6, b"gif") + number(3, 99) + field(2, b"\xff")))
    put("request", "empty", generate(b""))
    put("request", "garbage", generate(b"\xff" * 40 + b"\x0b" * 120))


# ---- pictures ----------------------------------------------------------------------------------------------------

def make_image():
    for path in sorted((ROOT / "tests/pipeline/image/data").iterdir()):
        if path.suffix in (".png", ".jpg", ".webp"):
            put("image", path.name, path.read_bytes())


def make_picture_texts():
    jpeg = (ROOT / "tests/pipeline/image/data/little_endian.jpg").read_bytes()
    start = jpeg.index(b"Exif\0\0")
    put("picture_texts", "exif", b"e" + jpeg[start:start + struct.unpack(">H", jpeg[start - 2:start])[0] - 2])
    jpeg = (ROOT / "tests/pipeline/image/data/big_endian.jpg").read_bytes()
    start = jpeg.index(b"Exif\0\0")
    put("picture_texts", "exif_big", b"e" + jpeg[start:start + struct.unpack(">H", jpeg[start - 2:start])[0] - 2])
    put("picture_texts", "xmp", "x<rdf:Description xmlns:fresco=\"urn:fresco:v1:\"><fresco:parameters>a &lt;red&gt; fox&#xD;é</fresco:parameters><fresco:Creation_x0020_Time>now</fresco:Creation_x0020_Time><fresco:a/>")
    put("picture_texts", "formats", "f=== a\nparameters=a fox\nSteps: 4\n=== b\nfresco:provenance={\"é\": 1}\n=== c\nSoftware=fresco <&>\x01\x00\r\n")
    put("picture_texts", "formats_generated", "g=== a\nprompt=a fox\n")
    put("picture_texts", "formats_wrong", b"f bad =x\n=== b\nkey=\xff\n")


if __name__ == "__main__":
    for name, make in sorted(globals().items()):
        if name.startswith("make_"):
            make()
