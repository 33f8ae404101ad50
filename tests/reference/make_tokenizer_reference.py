#!/usr/bin/env python3
"""Writes tests/reference/tokenizers: small tokenizers in each of their file forms, and what transformers makes of some
thousands of texts with them. The tokenizer tests hold Fresco to these ids.

Run by a developer, not by the tests, after changing it or its versions:

    pip install transformers==5.23.0 tokenizers==0.23.3 sentencepiece==0.2.3 protobuf torch
    python tests/reference/make_tokenizer_reference.py [--out tests/reference/tokenizers] [--model DIFFUSERS_FOLDER]

Everything is seeded: two runs write the same bytes. Layout:

    texts.jsonl          one text (a JSON string) a line
    <name>/              a tokenizer's folder
    ids/<name>.jsonl     for each `stride`-th text a line [untruncated_length, ids…]: ids without the padding
    cases.json           for each name: kind (clip, t5), max_length, stride, pad, model_max_length, largest_id

`clip*` (byte-level BPE) and `t5*` (unigram) are trained here, on a corpus of prompts. `demo*` are copied from the model that
--model names, and kept as they lie in --out without it.
"""

import argparse
import io
import json
import random
import shutil
import string
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import CLIPTokenizer, T5Tokenizer

SEED = 20261123
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CLIP_MERGES = 640
T5_PIECES = 600
EXTRA_IDS = 100

SUBJECTS = (
    "cat dog fox horse elephant butterfly dolphin sunset cityscape mountain apple strawberry pizza rocket sailboat bicycle castle"
    " lighthouse astronaut wizard dragon robot teapot guitar umbrella snowman rainbow volcano cactus mushroom"
).split()
COLOURS = "red orange yellow green teal light-blue blue purple pink white black grey golden silver".split()
STYLES = (
    "oil painting|watercolour|35mm photograph, f/1.8|pixel art|charcoal sketch|ukiyo-e woodblock print|low-poly 3D render"
    "|children's book illustration|studio lighting, 8k, highly detailed|film noir, 1940s|don't look back, it's art|we're sure they'll"
    " say I'd've won"
).split("|")
OTHER_SCRIPTS = [
    "Ein großer Hund läuft über die Straße – schön!", "Un château près de l'océan à l'aube, où naît l'été", "¿Dónde está el niño? ¡Aquí!",
    "Красная площадь зимой, снег и ёлка", "Ἀρχιμήδης ὁ Συρακόσιος ΣΊΣΥΦΟΣ ΟΔΥΣΣΕΎΣ σοφός", "東京タワーの夜景、雨に濡れた路地", "富士山と桜ﾊﾝｶｸｶﾀｶﾅ",
    "一只红色的狐狸坐在雪地里。", "서울의 밤거리와 네온사인 한글", "مدينة قديمة عند الغروب ١٢٣٤", "ירושלים של זהב שָׁלוֹם", "ताजमहल सूर्योदय के समय क्षत्रिय ४२",
    "ภาพวาดวัดในกรุงเทพ ๙", "Thành phố Hồ Chí Minh về đêm", "საქართველო მთები ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ", "Հայաստան ԵՐԵՎԱՆ և", "İstanbul'da ılık bir akşam IŞIK",
    "ꦗꦮ ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ 𐐔𐐯𐑅𐐨𐑉𐐯𐐻 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚", "தமிழ் எழுத்து கொ க்ஷௌ", "မြန်မာ ខ្មែរ ລາວ བོད་ཡིག",
]
SIGNS = [
    "👨‍👩‍👧‍👦", "👩🏽‍🚀", "🏳️‍🌈", "🇯🇵🇩🇪", "❤️‍🔥", "1️⃣", "☕︎", "🧑🏿‍🤝‍🧑🏻", "©️®™", "½ ⅷ ² ₃ ①", "ﬁ ﬃ ﬀ", "㎏ ㍿ ℡ ﷺ", "…—–“”‘’«»", "±×÷√∞≠≤", "→⇒↔",
]
MARKS = "\u0301\u0308\u0327\u0323\u0315\u0334\u0345\u0338\u20dd\u093c\u05b0\u0651\u3099\ufe0f\u200d"
SPACES = "\t\n\r\v\f\x1c\x1f \x85\xa0\u1680\u2000\u2003\u2007\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
CONTROLS = "\x00\x01\x07\x08\x0e\x1b\x7f\x80\x90\x9f\xad\u200c\u200e\u202a\u202e\u2066\ufff9\ufffd\ue000\ufdd0\U000e0041\U0010ffff"
SPECIALS = [
    BOS, EOS, "</s>", "<s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_42>", "<extra_id_99>", "<extra_id_100>", "!", "<tool>",
    "<|ENDOFTEXT|>", "<|EndOfText|>", "<|endoftext", "＜pad＞", "＜/s＞", "</w>", "▁", "▁▁", "<0x41>", "!<|endoftext|>", "<user>", "<strip>",
]
CORPUS_LINES = 1500


def prompt(rng):
    subject, other = rng.sample(SUBJECTS, 2)
    colour, background = rng.sample(COLOURS, 2)
    return rng.choice([
        f"a {colour} {subject} on a {background} background", f"two {subject}s beside a {other}, {rng.choice(STYLES)}",
        f"{subject.capitalize()} and {other.upper()}: {rng.choice(STYLES)}", f"the {other}'s {subject} ({rng.randint(0, 99999)}x{rng.randint(1, 9)})",
    ])


def corpus(rng):
    return [prompt(rng) if rng.random() < 0.8 else rng.choice(OTHER_SCRIPTS + SIGNS) for _ in range(CORPUS_LINES)]


def any_character(rng):
    """One that some Unicode version may or may not know, but no surrogate."""
    while True:
        c = rng.choice([rng.randrange(0x80), rng.randrange(0x800), rng.randrange(0x10000), rng.randrange(0x20000), rng.randrange(0x110000)])
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def known_character(rng):
    while True:
        c = chr(rng.choice([rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x1F000, 0x1FB00)]))
        if unicodedata.category(c) not in ("Cn", "Cs", "Co"):
            return c


def mixed(rng):
    parts = []
    for _ in range(rng.randint(1, 6)):
        kind = rng.randrange(8)
        if kind == 0:
            parts.append(prompt(rng))
        elif kind == 1:
            parts.append(rng.choice(OTHER_SCRIPTS))
        elif kind == 2:
            parts.append(rng.choice(SIGNS))
        elif kind == 3:
            parts.append(rng.choice(string.ascii_letters + "üıİßΣ\u2126\u1e9bㄱ가") + "".join(rng.choices(MARKS, k=rng.randint(1, 5))))
        elif kind == 4:
            parts.append("".join(rng.choices(SPACES, k=rng.randint(1, 4))))
        elif kind == 5:
            parts.append(rng.choice(CONTROLS))
        elif kind == 6:
            parts.append(rng.choice(SPECIALS))
        else:
            parts.append("".join(rng.choices(string.punctuation + string.digits + "'", k=rng.randint(1, 8))))
    return rng.choice(["", " ", ""]).join(parts)


def lookalikes():
    """Clusters whose first character the charsmap knows, words that newer Unicode cases, and the like."""
    return [
        "ﬁ\u0301", "ª\u0897x", "\xa0\u1ad0x", "ª\u0308x", "\xa0\u0301q", "ǆ\u0323", "Å", "Å", "가", "각", "ㅏㅏ", "\u0344", "\u0f73\u0f71\u0f72", "\u2f9ff\u0345",
        "a\u0315\u0316\u0323", "a\u07fd\u0334", "\u11935\u0334\u11930", "\U00011935\U00011930", "\r\n\r\r\n", "\u0600" + "1\u06dd٢", "ΑΣ ΑΣΑ ΣΑΣ. Σ",
        "ẞ ß ŉ ΐ և ﬓ", "İıIi", "Ǆ ǅ ǆ", "\U0001d7d8a", "𞤀𞤢", "Ა ა", "\ua7cb \ua7dc \u1c89", "'S 'T 'RE 'Ve 'M 'LL 'D", "rock'n'roll's", "''s '''ll", "o'’s",
        "x's<|startoftext|>'d", "<|ENDOFTEXT|>'s", "!<|STARTOFTEXT|>'s!", "<|EndOfText|>!!<|ENDOFTEXT|><|startofTEXT|>\u0301",
        "<|EndOfText|", "&amp; &#39; <br/>", "   ", " \n", "", "a", "0123456789", "3.14159e-10", "a  b\t c", "\u3000全角　ＡＢＣ１２３", "ｱﾞ ﾊﾟ",
        "\ufeffa", "a\ufeff", "▁a▁b", "a▁", "▁", "x ▁y", "<pad><pad> <pad>", "</s></s>", "<extra_id_5>x<extra_id_6>", "<extra_id_5 >", " <strip> \n<strip>x<strip>",
        "a<user>b <user> c", "\U0001f9d1\u200d\U0001f680" * 9, "é" * 40, "e\u0301" * 40, "word" * 200, "a" * 1000, "あ" * 300, "!" * 99, "'" * 50, "1" * 120,
        "the quick brown fox " * 60, "red apple, " * 25, "\u0301" * 60, "\u0316\u0315" * 40, "x" + "\u0323\u0301" * 50,
    ]


def texts(rng):
    out = lookalikes() + OTHER_SCRIPTS + SIGNS + SPECIALS + [c + "x" for c in SPACES + CONTROLS] + ["x" + m + "y " + m for m in MARKS]
    out += [prompt(rng) for _ in range(400)]
    out += [mixed(rng) for _ in range(1000)]
    out += ["".join(any_character(rng) for _ in range(rng.randint(1, 10))) for _ in range(250)]
    out += ["".join(known_character(rng) for _ in range(rng.randint(1, 16))) for _ in range(350)]
    out += [" ".join(prompt(rng) for _ in range(rng.randint(4, 40))) for _ in range(25)]
    return list(dict.fromkeys(out))


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    path.write_bytes(text.encode())


def train_clip(lines):
    """A CLIP tokenizer's vocabulary, in CLIP's order, and merges. By hand: `tokenizers`' trainer breaks ties by chance."""
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    splitter = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    words = Counter(word for line in lines for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)))
    words = {(*word[:-1], word[-1] + "</w>"): count for word, count in words.items()}
    merges = []
    while len(merges) < CLIP_MERGES:
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {merged(word, best): count for word, count in words.items()}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: (ord(c) >= 256, ord(c)))
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(m) for m in merges]
    return {t: i for i, t in enumerate(dict.fromkeys(tokens + [BOS, EOS]))}, merges


def merged(word, pair):
    out = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def train_t5(lines, path, **options):
    """Through iterator and writer: a model trained from a file names its path."""
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=writer, vocab_size=T5_PIECES, model_type="unigram", character_coverage=0.98, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2, hard_vocab_limit=False, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(writer.getvalue())


def added(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True, **flags}


def write_clip(out, lines):
    vocabulary, merges = train_clip(lines)
    merges_text = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)
    end = vocabulary[EOS]
    # As the real tokenizer/ of SD 3.5: its special tokens are matched in normalised text.
    decoder = {str(vocabulary[t]): added(t, normalized=True) for t in (BOS, EOS)}
    write(out / "clip_l" / "vocab.json", vocabulary)
    write(out / "clip_l" / "merges.txt", merges_text)
    write(out / "clip_l" / "tokenizer_config.json", {
        "added_tokens_decoder": decoder, "bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS, "model_max_length": 77})
    # As the real tokenizer_2/: pads with "!"; here with nothing else said, and the older files for special tokens.
    write(out / "clip_g" / "vocab.json", vocabulary)
    write(out / "clip_g" / "merges.txt", merges_text)
    write(out / "clip_g" / "tokenizer_config.json", {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})
    write(out / "clip_g" / "special_tokens_map.json", {
        "bos_token": {"content": BOS, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}, "pad_token": "!",
        "eos_token": {"content": EOS, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}})
    write(out / "clip_g" / "added_tokens.json", {"<tool>": end + 1, "<user>": end + 2})
    # tokenizer.json alone, with tokens of every kind.
    tokenizer = CLIPTokenizer.from_pretrained(out / "clip_g")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.backend_tokenizer.save(folder + "/tokenizer.json")
        file = json.loads(Path(folder, "tokenizer.json").read_text())
    file["added_tokens"] += [
        {"id": end + 3, **added("<strip>", lstrip=True, rstrip=True)},
        {"id": end + 4, **added("Fox", normalized=True, special=False, single_word=True)}]
    write(out / "clip_json" / "tokenizer.json", file)


def write_t5(out, lines):
    # No charsmap, user-defined pieces, a token that the vocabulary lacks.
    train_t5(lines, out / "t5_plain" / "spiece.model", normalization_rule_name="identity",
             user_defined_symbols=["<user>", "<tool>"])
    write(out / "t5_plain" / "tokenizer_config.json", {"model_max_length": 512, "extra_ids": 10})
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rules.tsv").write_text(charsmap_rules())
        train_t5(lines, Path(folder, "spiece.model"), normalization_rule_tsv=folder + "/rules.tsv")
        tokenizer = T5Tokenizer.from_pretrained(folder)
        tokenizer.backend_tokenizer.save(folder + "/tokenizer.json")
        file = json.loads(Path(folder, "tokenizer.json").read_text())
    # tokenizer.json alone, as the real tokenizer_3/ has it: Precompiled within a Sequence, extra ids that take whitespace.
    write(out / "t5_json" / "tokenizer.json", {**file, "normalizer": {"type": "Sequence", "normalizers": [file["normalizer"]]}})
    names = {t["id"]: t["content"] for t in file["added_tokens"]}
    decoder = {str(i): added(c, lstrip="extra" in c, rstrip="extra" in c) for i, c in names.items()}
    write(out / "t5_json" / "tokenizer_config.json", {
        "added_tokens_decoder": decoder, "additional_special_tokens": [f"<extra_id_{i}>" for i in range(EXTRA_IDS)], "extra_ids": EXTRA_IDS,
        "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 512})


def charsmap_rules():
    """A charsmap that is small and has every kind of rule: to one character, to several, to none, from several."""
    ranges = [(0xA0, 0x180), (0x2000, 0x2010), (0x2100, 0x2140), (0x2460, 0x2474), (0xFB00, 0xFB07), (0xFF01, 0xFF5F), (0xFDFA, 0xFDFB)]
    sources = [chr(c) for first, end in ranges for c in range(first, end)]
    sources += [unicodedata.normalize("NFD", c) for c in sources]
    rules = {c: unicodedata.normalize("NFKC", c) for c in sources if unicodedata.normalize("NFKC", c) != c}
    rules.update({c: "" for c in "\x01\x7f\xad\u200b"} | {c: " " for c in "\t\n\r"})
    hexes = lambda text: " ".join(f"{ord(c):X}" for c in text)
    return "".join(f"{hexes(k)}\t{hexes(v)}\n" for k, v in sorted(rules.items()))


def copy_demo(out, model):
    """In different forms, so that one model covers all: CLIP-L as tokenizer.json, CLIP-G as vocabulary and merges, T5 as spiece.model."""
    for name, source, files in [("demo_l", "tokenizer", ["tokenizer.json"]), ("demo_g", "tokenizer_2", ["vocab.json", "merges.txt"]),
                                ("demo_t5", "tokenizer_3", ["spiece.model"])]:
        (out / name).mkdir(parents=True, exist_ok=True)
        for file in [*files, "tokenizer_config.json"]:
            if file.endswith(".json"):
                write(out / name / file, json.loads((model / source / file).read_text()))
            else:
                data = (model / source / file).read_bytes()
                (out / name / file).write_bytes(without_paths(data) if file == "spiece.model" else data)


def without_paths(data):
    model = sentencepiece_model_pb2.ModelProto.FromString(data)
    model.trainer_spec.ClearField("input")
    model.trainer_spec.ClearField("model_prefix")
    return model.SerializeToString(deterministic=True)


def expected(tokenizer, text, max_length):
    ids = tokenizer(text, padding="max_length", max_length=max_length, truncation=True).input_ids
    whole = len(tokenizer(text, truncation=False, padding=False).input_ids)
    assert len(ids) == max_length
    return [whole, *(ids if whole > max_length else ids[:whole])], ids[whole:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tokenizers")
    parser.add_argument("--model", type=Path, help="a diffusers folder whose tokenizers become demo_l, demo_g and demo_t5")
    arguments = parser.parse_args()
    out = arguments.out
    for name in ["ids", "clip_l", "clip_g", "clip_json", "t5_plain", "t5_json"]:
        shutil.rmtree(out / name, ignore_errors=True)
    if arguments.model:
        copy_demo(out, arguments.model)
    rng = random.Random(SEED)
    lines = corpus(rng)
    all_texts = texts(rng)
    write_clip(out, lines)
    write_t5(out, lines)
    write(out / "texts.jsonl", "".join(json.dumps(t, ensure_ascii=False) + "\n" for t in all_texts))
    cases = {}
    for name, kind, max_length, stride in [
        ("clip_l", "clip", 77, 1), ("clip_g", "clip", 16, 2), ("clip_json", "clip", 77, 3), ("t5_plain", "t5", 16, 2), ("t5_json", "t5", 77, 1),
        ("demo_l", "clip", 16, 1), ("demo_g", "clip", 77, 3), ("demo_t5", "t5", 256, 1),
    ]:
        tokenizer = (CLIPTokenizer if kind == "clip" else T5Tokenizer).from_pretrained(out / name)
        rows = []
        for text in all_texts[::stride]:
            row, padding = expected(tokenizer, text, max_length)
            assert set(padding) <= {tokenizer.pad_token_id}
            rows.append(json.dumps(row, separators=(",", ":")) + "\n")
        write(out / "ids" / f"{name}.jsonl", "".join(rows))
        cases[name] = {"kind": kind, "max_length": max_length, "stride": stride, "pad": tokenizer.pad_token_id,
                       "model_max_length": min(tokenizer.model_max_length, 2**31 - 1), "largest_id": max(tokenizer.get_vocab().values())}
    write(out / "cases.json", json.dumps(cases, indent=1) + "\n")
    print(f"{len(all_texts)} texts, {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e6:.2f} MB in {out}")


if __name__ == "__main__":
    main()
