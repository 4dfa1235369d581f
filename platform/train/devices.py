"""Peak speeds of GPUs, for the share of it that a run uses (MFU)."""

import torch

PEAKS = {"A100": 312e12, "A10G": 70e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "L40S": 362e12, "L4": 121e12}
"""Operations a second in bfloat16 with float32 sums, dense, by a word of the device's name.

Source: NVIDIA's data sheets; of H100 and H200 those of the SXM boards.
"""


def peak_flops(device: torch.device) -> float | None:
    """Look up a device's peak; None if it is not known."""
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    return next((PEAKS[word] for word in words if word in PEAKS), None)
