#!/usr/bin/env python3
"""Makes tests/engine/quantize/golden/blocks.json: random blocks of every quantized type, and the
float32 values that the `gguf` package expands them to, bit for bit."""

import json
import pathlib
from importlib.metadata import version

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

OUT = pathlib.Path(__file__).resolve().parents[1] / "engine/quantize/golden/blocks.json"
SCALES = {  # where a block's f16 scales lie: random bits there could be NaN
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}


def main():
    rng = np.random.default_rng(3)
    types = {}
    for name, offsets in SCALES.items():
        kind = GGMLQuantizationType[name]
        _, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (4, size), dtype=np.uint8)
        for row, scale in zip(blocks, (1.0, -0.03125, 6.1e-5, 3e-7)):  # the last are subnormal halves
            for offset in offsets:
                row[offset:offset + 2] = np.frombuffer(np.float16(scale * rng.uniform(1, 2)).tobytes(), np.uint8)
        values = dequantize(blocks, kind).astype(np.float32)
        types[name] = {"type": int(kind), "blocks": blocks.tobytes().hex(), "floats": values.tobytes().hex()}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"reference": f"gguf {version('gguf')}", "types": types}, indent=1) + "\n")


main()
