"""Count parameters: `python jobs/params.py [--config paper|nano] [--stage N]`.

Shows the trained parameters of each part by stage, and the count of the paper's Table 1. No weights are loaded.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any

import torch

from fireedit.models.model import FireEdit, FireEditConfig, preset
from fireedit.models.stages import LORA, NEW_ROWS, STAGES
from fireedit.models.weights import SMARTEDIT_TOKENS

MEBI = 2**20
"""The paper's unit M: SmartEdit's 1163.8 M are 1,220,383,748 parameters, exactly 1163.8 times 2^20."""

IMAGE_ATTENTION = r"unet\..*image_attention\."
TABLE_1 = (
    (
        "UNet",
        r"unet\.(?!.*image_attention\.)",
        "as the paper: Stable Diffusion 1.5 with 8 input channels, trained whole",
    ),
    ("image attention", IMAGE_ATTENTION, "as the paper: decoupled cross-attention; assumed: new keys and values only"),
    ("Q-Former", r"qformer\.", "as the paper, which keeps SmartEdit's: 6 layers, 77 queries"),
    ("LoRA", LORA, "as the paper: rank 8; assumed, as in SmartEdit: on queries and values"),
    ("TATI", r"tati\.", "as the paper: 2 layers, 77 queries, 768 channels; the rest chosen so that the sum fits"),
    ("HVCA", r"hvca\.", "as the paper: 2 layers, 16 queries, 1024 to 768 channels; the rest likewise"),
)
"""Lines of Table 1 but for the LLM's table: label, pattern of parameter names, and whose choice the size is."""


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    report = {"config": args.config, **count(preset(args.config), args.stage)}
    print("\n".join(table(report)), file=sys.stderr)
    print(json.dumps(report))
    return 0


def count(config: FireEditConfig, stage: int) -> dict[str, Any]:
    """Count the parameters for `table`; keys that end in `_mi` are in units of 2^20."""
    with torch.device("meta"):
        model = FireEdit.from_config(config)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    modules = {part: _module(part, sizes) for part, _ in model.named_children()}
    paper = {label: _matching(pattern, sizes) for label, pattern, _ in TABLE_1}
    paper["one table of the LLM"] = (config.vlm.vocab_size + len(SMARTEDIT_TOKENS)) * config.vlm.width
    trained = sum(module["trained"][stage] for module in modules.values())
    return {
        "stage": stage,
        "modules": modules,
        "parameters": sum(sizes.values()),
        "bf16_bytes": 2 * sum(sizes.values()),
        "trained": trained,
        "trained_mi": round(trained / MEBI, 3),
        "new_rows": _matching(NEW_ROWS, sizes),
        "paper": paper,
        "paper_total": sum(paper.values()),
        "paper_total_mi": round(sum(paper.values()) / MEBI, 3),
    }


def table(report: dict[str, Any]) -> list[str]:
    """Format the report as lines of text."""
    stages = "".join(f"{f'stage {number}':>15s}" for number in STAGES)
    lines = [f"{'':16s}{'parameters':>15s}{stages}   bf16 MiB"]
    for name, module in report["modules"].items():
        counts = "".join(f"{count:15,}" if count else f"{'.':>15s}" for count in module["trained"].values())
        lines.append(f"{name:16s}{module['parameters']:15,}{counts}{module['bf16_bytes'] / MEBI:11,.1f}")
    sums = [sum(module["trained"][number] for module in report["modules"].values()) for number in STAGES]
    counts = "".join(f"{value:15,}" for value in sums)
    lines += [f"{'all':16s}{report['parameters']:15,}{counts}{report['bf16_bytes'] / MEBI:11,.1f}", ""]
    lines.append("Count of the paper's Table 1 (its M is 2^20):")
    notes = {label: note for label, _, note in TABLE_1}
    notes["one table of the LLM"] = "inferred from the sum: embedding or head, with SmartEdit's 35 new rows"
    for label, value in report["paper"].items():
        lines.append(f"  {label:22s}{value:15,}{value / MEBI:9.3f}  {notes[label]}")
    published = "the paper: 1093.8" if report["config"] == "paper" else ""
    lines.append(f"  {'Table 1':22s}{report['paper_total']:15,}{report['paper_total_mi']:9.3f}  {published}".rstrip())
    label = f"this code, stage {report['stage']}"
    rows = f"without that table; the new tokens' rows of both tables, {report['new_rows']:,} parameters, are trained"
    lines.append(f"  {label:22s}{report['trained']:15,}{report['trained_mi']:9.3f}  {rows}")
    return lines


def _module(part: str, sizes: dict[str, int]) -> dict[str, Any]:
    parameters = {name: size for name, size in sizes.items() if name.startswith(f"{part}.")}
    trained = {
        number: sum(size for name, size in parameters.items() if stage.learns(name)) for number, stage in STAGES.items()
    }
    return {"parameters": sum(parameters.values()), "trained": trained, "bf16_bytes": 2 * sum(parameters.values())}


def _matching(pattern: str, sizes: dict[str, int]) -> int:
    return sum(size for name, size in sizes.items() if re.match(pattern, name))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=["paper", "nano"], default="paper", help="sizes (default: %(default)s)")
    help_text = "stage whose trained parameters are summed (default: %(default)s)"
    parser.add_argument("--stage", type=int, choices=sorted(STAGES), default=3, help=help_text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
