"""Devices: a check that torch has one, and copies that do not wait for its work."""

import torch
from torch import Tensor


def require_device(device: str) -> None:
    """Raise ValueError, in one sentence, unless torch can compute on a device of the command line."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        found = str(error).partition("\n")[0]
        raise ValueError(f"--device {device}: torch cannot use it ({found}); write cpu or one that is there") from None


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device; from the CPU through pinned memory, as a plain copy first waits for a GPU's work."""
    device = torch.device(device)
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=pinned is not tensor)
