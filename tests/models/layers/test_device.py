"""Tensors are copied to other devices, those that torch has; the copies to a GPU need one."""

import pytest
import torch

from fireedit.models.layers.device import require_device, to_device


def test_a_tensor_that_is_there_already_is_not_copied() -> None:
    tensor = torch.arange(3)
    assert to_device(tensor, "cpu") is tensor and to_device(tensor, torch.device("meta")).is_meta


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_one_sentence(device: str) -> None:
    require_device("cpu")
    with pytest.raises(ValueError, match=f"^--device {device}: torch cannot use it (.*); write cpu") as caught:
        require_device(device)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_copy_to_a_gpu_does_not_wait_for_it() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        copied = to_device(torch.arange(3), "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert copied.tolist() == [0, 1, 2]
