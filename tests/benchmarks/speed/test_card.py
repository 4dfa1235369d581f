"""The roofline of a device is measured by a product and a copy."""

import torch

from fireedit.benchmarks.speed.card import measure_roofline, name_of, peak_gib, seconds_of


def test_a_cpus_roofline_is_measured() -> None:
    cpu = torch.device("cpu")
    roofline = measure_roofline(cpu, torch.float32, side=64, copied=4096)
    assert roofline.matmul_flops > 0 and roofline.copy_bytes > 0 and roofline.peak_flops is None
    assert name_of(cpu) == "cpu" and peak_gib(cpu) is None
    calls = list[int]()
    assert seconds_of(lambda: calls.append(1), cpu, repeats=3) >= 0 and len(calls) == 3
