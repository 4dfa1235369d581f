"""A starting replica imports its models at low priority."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fireedit.serve.preload import NICENESS

ROOT = Path(__file__).parents[2]
WATCH = """
import json, os, sys, threading

priorities = {}

class Watch:
    def find_spec(self, name, *_):
        priorities.setdefault(name, os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

sys.meta_path.insert(0, Watch())
import fireedit.serve.unet
print(json.dumps([priorities["torch"], priorities["transformers"], os.getpriority(os.PRIO_PROCESS, 0)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="priorities by thread are Linux's")
def test_models_are_imported_at_low_priority_and_run_at_the_process_own() -> None:
    output = subprocess.run([sys.executable, "-c", WATCH], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert json.loads(output) == [min(own + NICENESS, 19)] * 2 + [own]


@pytest.mark.parametrize("module", ["unet", "vlm", "text", "detector"])
def test_module_of_each_deployment_imports_it_before_the_models(module: str) -> None:
    tree = ast.parse((ROOT / "serve" / f"{module}.py").read_text())
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [getattr(node, "module", None) or node.names[0].name for node in imports]
    first = next(index for index, name in enumerate(names) if name.partition(".")[0] not in sys.stdlib_module_names)
    assert [alias.name for alias in imports[first].names] == ["preload"]
