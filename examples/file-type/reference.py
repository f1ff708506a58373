#!/usr/bin/env python3
"""Writes reference.json: what the magika package itself says about some small files.

    reference.py          needs the package magika (see examples/models.toml)

Each case has `label` (the answer, high-confidence mode, the package's default), `score`, and `model_label`, the network's own guess
("undefined" where it was not asked).

Unclear texts of a few words are left out. The network takes variances as the mean of the squares less the square of the mean, over
512 numbers; for these texts that leaves so few digits that the order of the additions shows in the third digit of the score, and
ONNX Runtime (which adds one by one) and rten (which does not, and is nearer to the sum) differ there.

The way from a file to its answer, with the figures of models/config.json:

1. No bytes: "empty". Fewer than 8 (`min_file_size_for_dl`): "txt" if they are UTF-8, else "unknown". Score 1; the network is not asked.
2. Of at most the first 4096 bytes (`block_size`), white space (space, \\t, \\n, \\r, \\v, \\f) is stripped at the beginning; the first
   1024 (`beg_size`) are taken, and padded at the end with 256 (`padding_token`). Of at most the last 4096, white space is stripped
   at the end; the last 1024 (`end_size`) are taken, padded at the beginning.
3. If the eighth of the first numbers is padding: as with few bytes, for (at most) the first 4096 bytes as they are.
4. Input `bytes`, i32[1, 2048]: both, one after the other. Output `target_label`, f32[1, 214]: the largest is the score, its place
   the model_label in `target_labels_space`.
5. label = `overwrite_map` of the model_label, or itself. Where the score is below `thresholds` of the model_label (0.5,
   `medium_confidence_threshold`, without an entry), label becomes "txt" if `is_text` of label in models/content-types.json, else "unknown".
"""

import base64
import io
import json
import random
import struct
import zipfile
import zlib
from pathlib import Path

from magika import Magika

PYTHON = '''import os
import sys


def walk(folder):
    """Yields every file below a folder."""
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            yield os.path.join(root, name)


if __name__ == "__main__":
    for path in walk(sys.argv[1]):
        print(path)
'''
RUST = '''use std::collections::HashMap;

fn main() {
    let mut counts: HashMap<char, usize> = HashMap::new();
    for c in "hello".chars() {
        *counts.entry(c).or_insert(0) += 1;
    }
    println!("{counts:?}");
}
'''
HTML = "<!DOCTYPE html>\n<html><head><title>A page</title></head>\n<body><p>Hello</p></body></html>\n"
PROSE = "It was a quiet morning, and nobody in the village had anything in particular to do. " * 40
PDF = b"""%PDF-1.4
1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj
2 0 obj << /Type /Pages /Kids [3 0 R] /Count 1 >> endobj
3 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] >> endobj
xref
0 4
trailer << /Size 4 /Root 1 0 R >>
startxref
190
%%EOF
"""


def png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(16)) for y in range(16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def archive():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in ("one.txt", "two.txt"):
            file.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), "some text\n" * 20)
    return out.getvalue()


def wav():
    samples = b"".join(struct.pack("<h", (i * 997) % 20000 - 10000) for i in range(400))
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16) + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", len(head) + len(samples)) + head + samples


def files():
    noise = random.Random(1)
    yield "empty", b""
    yield "one-byte", b"x"
    yield "seven-bytes", b"seven b"
    yield "seven-bytes-binary", b"\xff\xfe\x00\x80\x81\x82\x83"
    yield "eight-bytes", b"12345678"
    yield "white-space", b" \n\t" * 100
    yield "white-space-and-three", b"   \n\n   abc  \n\n     "
    yield "prose.txt", PROSE.encode()
    yield "long-prose.txt", (PROSE * 5).encode()
    yield "data.json", json.dumps({"name": "vesta", "list": list(range(40)), "nested": {"a": None}}, indent=2).encode()
    yield "walk.py", PYTHON.encode()
    yield "main.rs", RUST.encode()
    yield "indented.py", ("\n\n    " + PYTHON.replace("\n", "\n    ") + "   \n\n").encode()
    yield "page.html", HTML.encode()
    yield "table.csv", ("id,name,price\n" + "".join(f"{i},item {i},{i * 1.5:.2f}\n" for i in range(60))).encode()
    yield "notes.md", b"# Notes\n\n* one\n* two\n\n```sh\nls -l\n```\n\nSee [this](https://example.com).\n" * 3
    yield "Makefile", b"all: main.o\n\tcc -o main main.o\n\nmain.o: main.c\n\tcc -c main.c\n\n.PHONY: all\n"
    yield "paper.pdf", PDF
    yield "image.png", png()
    yield "files.zip", archive()
    yield "sound.wav", wav()
    yield "random.bin", noise.randbytes(3000)
    yield "random-5000.bin", noise.randbytes(5000)
    # Guesses that fall short of their threshold: of a text, of a binary, and one above 0.5 that needs 0.9.
    yield "unclear.txt", b"def f(x) x + 1 end\n"
    yield "unclear.bin", bytes(range(256))
    yield "list.txt", b"Title\n=====\n\nSome words, and a list:\n\n- one\n- two\n\n" * 12
    yield "white-space-and-two", b"\n\n ab \n\n      "
    yield "umlauts.txt", "Übermäßig schöne Grüße aus Köln, mit fünf Äpfeln.\n".encode() * 3
    yield "latin1.txt", "Übermäßig schöne Grüße aus Köln, mit fünf Äpfeln.\n".encode("latin-1") * 3


def main():
    magika = Magika()
    cases = []
    for name, content in files():
        result = magika.identify_bytes(content).prediction
        cases.append(
            {
                "name": name,
                "label": str(result.output.label),
                "score": round(float(result.score), 6),
                "model_label": str(result.dl.label),
                "content_b64": base64.b64encode(content).decode(),
            }
        )
    target = Path(__file__).parent / "reference.json"
    target.write_text('{"cases": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]}\n")


main()
