"""Adds the captions' words to a model's three tokenizers, so that 16 positions are enough.

The CLIP merges and the T5 unigram of the checkpoint that training starts from know most words; what
they would cut in pieces gets a merge, or a piece, of its own. Old tokens keep their embeddings, a new
one starts as the mean of the pieces it replaces.
"""

import json
import shutil
from pathlib import Path

import torch
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer

import captions

START, END = "<|startoftext|>", "<|endoftext|>"


def bpe(word, ranks):
    """Byte-pair pieces of a lower-case ASCII word, lowest-ranked merge first."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        pairs = [(ranks.get(pair, 1 << 30), i) for i, pair in enumerate(zip(pieces, pieces[1:]))]
        rank, i = min(pairs)
        if rank == 1 << 30:
            break
        pieces[i:i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


def extended_merges(merges, words):
    """`merges` with what is missing for every word to become one token, appended in order."""
    merges = [tuple(m) for m in merges]
    ranks = {pair: i for i, pair in enumerate(merges)}
    for word in words:
        while len(pieces := bpe(word, ranks)) > 1:
            ranks[tuple(pieces[:2])] = len(merges)
            merges.append(tuple(pieces[:2]))
    broken = [w for w in words if len(bpe(w, ranks)) > 1]
    assert not broken, f"a later merge got in the way of {broken}"
    return merges


def replaced_ids(node, ids):
    """A copy of a JSON tree with the special tokens' ids (wherever they stand) replaced."""
    if isinstance(node, dict):
        node = {k: replaced_ids(v, ids) for k, v in node.items()}
        if node.get("content") in ids:
            node["id"] = ids[node["content"]]
        if node.get("pad_token") in ids:
            node["pad_id"] = ids[node["pad_token"]]
        return node
    if isinstance(node, list):
        if len(node) == 2 and node[0] in (START, END):
            return [node[0], ids[node[0]]]
        return [replaced_ids(v, ids) for v in node]
    return node


def extend_clip(source, target, words):
    """Writes the extended CLIP tokenizer; returns its token strings in order of id."""
    shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    data = json.loads((Path(source) / "tokenizer.json").read_text())
    old = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    merges = extended_merges(data["model"]["merges"], words)
    tokens = [t for t in old if t not in (START, END)]
    known = set(tokens)
    for left, right in merges:
        if left + right not in known:
            tokens.append(left + right)
            known.add(left + right)
    tokens += [START, END]
    model = data.pop("model")
    data = replaced_ids(data, {START: len(tokens) - 2, END: len(tokens) - 1})
    data["model"] = model | {"vocab": {t: i for i, t in enumerate(tokens)}, "merges": [list(m) for m in merges]}
    target = Path(target)
    (target / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, indent=1))
    (target / "vocab.json").write_text(json.dumps(data["model"]["vocab"], ensure_ascii=False))
    (target / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return tokens


def extend_t5(source, target, words):
    """Writes the extended unigram tokenizer; returns its token strings in order of id."""
    shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((Path(source) / "spiece.model").read_bytes())
    data = json.loads((Path(source) / "tokenizer.json").read_text())
    vocab = data["model"]["vocab"]
    extras = [entry for entry in vocab if entry[0].startswith("<extra_id_")]
    pieces = [entry for entry in vocab if entry not in extras]
    known = {piece for piece, _ in pieces}
    for word in words:
        if "▁" + word in known:
            continue
        score = -5.0  # better than any two pieces together, so that the word always wins
        pieces.append(["▁" + word, score])
        proto.pieces.add(piece="▁" + word, score=score, type=1)
    data["model"]["vocab"] = pieces + extras
    ids = {piece: i for i, (piece, _) in enumerate(pieces + extras)}
    data["added_tokens"] = [t | {"id": ids[t["content"]]} for t in data["added_tokens"]]
    proto.trainer_spec.vocab_size = len(proto.pieces)
    for path in ("input", "model_prefix"):  # of the machine that trained it
        proto.trainer_spec.ClearField(path)
    (Path(target) / "spiece.model").write_bytes(proto.SerializeToString(deterministic=True))
    (Path(target) / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, indent=1))
    return list(ids)


@torch.no_grad()
def carry_embeddings(encoder, old_tokenizer, tokens, plain):
    """Resizes the encoder's table to `tokens`: old rows by string, new ones from their old pieces."""
    table = encoder.get_input_embeddings().weight
    old = old_tokenizer.get_vocab()
    rows = []
    for token in tokens:
        if token in old:
            rows.append(table[old[token]])
        else:
            ids = old_tokenizer(plain(token), add_special_tokens=False, truncation=False, padding=False).input_ids
            rows.append(table[ids].mean(0))
    encoder.resize_token_embeddings(len(tokens), mean_resizing=False)
    encoder.get_input_embeddings().weight.copy_(torch.stack(rows))
    encoder.config.vocab_size = len(tokens)


def extend(source, target, encoders):
    """Extends the tokenizers of folder `source` into `target` and the encoders' embeddings with them."""
    words = captions.every_word()
    for name, encoder in zip(("tokenizer", "tokenizer_2", "tokenizer_3"), encoders):
        old = AutoTokenizer.from_pretrained(f"{source}/{name}")
        if name == "tokenizer_3":
            tokens = extend_t5(f"{source}/{name}", f"{target}/{name}", words)
            carry_embeddings(encoder, old, tokens, lambda t: t.replace("▁", ""))
            continue
        tokens = extend_clip(f"{source}/{name}", f"{target}/{name}", words)
        carry_embeddings(encoder, old, tokens, lambda t: t.replace("</w>", ""))
        encoder.config.bos_token_id, encoder.config.eos_token_id = len(tokens) - 2, len(tokens) - 1
        encoder.config.pad_token_id = len(tokens) - 1 if name == "tokenizer" else 0
        # The model copied these when it was built; pooling looks at the copy.
        encoder.text_model.eos_token_id = encoder.config.eos_token_id


def prepare(source, target):
    """Writes only the extended tokenizers (train_transformer.py extends the encoders by itself)."""
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    words = captions.every_word()
    for name in ("tokenizer", "tokenizer_2"):
        extend_clip(f"{source}/{name}", target / name, words)
    extend_t5(f"{source}/tokenizer_3", target / "tokenizer_3", words)
    print("longest caption:", check(target), "tokens")


def check(folder):
    """Every word is one token, both readings of the T5 agree, and captions fit into 16 tokens."""
    import random

    import sentencepiece

    import scenes
    clip, clip_2, t5 = (AutoTokenizer.from_pretrained(f"{folder}/{n}") for n in ("tokenizer", "tokenizer_2", "tokenizer_3"))
    plain = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer_3/spiece.model")
    rng, longest = random.Random(5), 0
    for _ in range(5000):
        text = captions.caption(scenes.random_scene(rng), rng)
        assert t5.tokenize(text) == plain.encode(text, out_type=str), text
        assert clip.tokenize(text) == clip_2.tokenize(text), text
        longest = max(longest, len(t5.tokenize(text)) + 1, len(clip.tokenize(text)) + 2)
    assert longest <= 16, longest
    return longest
