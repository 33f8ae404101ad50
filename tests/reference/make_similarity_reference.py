#!/usr/bin/env python3
"""Writes similarity.json: PSNR and SSIM of pairs of pictures, by scikit-image 0.26.0 (SSIM with the settings of Wang et al. 2004).

    pip install scikit-image==0.26.0 pillow
    make_similarity_reference.py

A case: two of models/demo/reference's pictures, `a` and `b`, cut to `width` and `height` from their upper left corner. To each
value of the second, at x, y and channel c, is added (7 x + 13 y + 5 c) mod (2 noise + 1) - noise, cut off at 0 and 255.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

HERE = Path(__file__).resolve().parent
PICTURES = HERE.parent.parent / "models" / "demo" / "reference"
CASES = [
    {"a": 0, "b": 1, "width": 128, "height": 128, "noise": 0},
    {"a": 2, "b": 2, "width": 128, "height": 128, "noise": 1},
    {"a": 3, "b": 3, "width": 128, "height": 128, "noise": 40},
    {"a": 4, "b": 4, "width": 45, "height": 11, "noise": 6},
    {"a": 5, "b": 4, "width": 11, "height": 64, "noise": 100},
]


def picture(number, case, noise=0):
    values = np.asarray(Image.open(PICTURES / f"{number}.png").convert("RGB"))[: case["height"], : case["width"]].astype(int)
    y, x, c = np.indices(values.shape)
    return np.clip(values + (7 * x + 13 * y + 5 * c) % (2 * noise + 1) - noise, 0, 255).astype(np.uint8)


for case in CASES:
    a, b = picture(case["a"], case), picture(case["b"], case, case["noise"])
    case["psnr"] = float(peak_signal_noise_ratio(a, b, data_range=255))
    case["ssim"] = float(structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                               data_range=255, channel_axis=2))
(HERE / "similarity.json").write_text(json.dumps(CASES, indent=1) + "\n")
