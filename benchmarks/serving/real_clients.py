"""Clients that people have, against the running service: OpenAI's, Hugging Face's, curl, a form of Go, a fuzzer."""

import base64
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fireedit.benchmarks.serving import openai_checks
from fireedit.benchmarks.serving.client import form
from fireedit.benchmarks.serving.figures import Figure
from fireedit.benchmarks.serving.server import Server
from fireedit.platform.cluster import local_session
from fireedit.platform.console import say
from fireedit.serve.keys import make_key

FUZZ_CASES = 500
FUZZ_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
FUZZED = "/v1/images/edits|/v1/models|/models/|/v1/images/generations|/v1/edits"
MODEL = "fireedit-nano"


async def real_clients(server: Server, scale: float, openai_folders: Sequence[str] = ()) -> list[Figure]:
    """Try the clients on a service with API keys."""
    key = lock(server)
    figures = []
    for folder in ("", *openai_folders):
        report = _openai(server.url, key, folder)
        say(f"  openai {report['version']}: {report['failures'] or 'all checks passed'}")
        name = f"failed checks of openai {report['version']}, of {report['checks']}"
        figures.append(Figure(name, len(report["failures"]), most=0))
    others = {"huggingface_hub": _hugging_face, "curl": _curl, "a form of Go with empty fields": _go_form}
    for name, check in others.items():
        figures.append(Figure(f"failures of {name}", int(not check(server.url, key)), most=0))
    return figures


async def fuzz(server: Server, scale: float) -> list[Figure]:
    """Send what the OpenAPI document allows, and what it does not."""
    key, wanted = lock(server), round(FUZZ_CASES * scale)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--checks", FUZZ_CHECKS]
    command += ["-H", f"Authorization: Bearer {key}", "--max-examples", str(max(2, wanted // 25)), "--no-color"]
    command += ["--request-timeout", "60", "--continue-on-failure", "--include-path-regex", FUZZED, "--mode", "all"]
    done = subprocess.run(command, cwd=server.folder, text=True, capture_output=True, check=False)
    (server.folder / "schemathesis.txt").write_text(done.stdout + done.stderr)
    generated = re.search(r"([\d,]+) generated", done.stdout)
    cases = int(generated[1].replace(",", "")) if generated else 0
    failed = re.search(r"found ([\d,]+) unique failures?", done.stdout)
    failures = int(failed[1].replace(",", "")) if failed else int(done.returncode != 0)
    say(f"  its report: {server.folder / 'schemathesis.txt'}")
    return [
        Figure("cases of schemathesis", cases, least=wanted),
        Figure("unique failures: 5xx, undocumented statuses and bodies", failures, most=0),
    ]


def lock(server: Server) -> str:
    """Give the service an API key; returns it."""
    file, stored = server.folder / "keys.txt", server.folder / "key.txt"
    if not file.exists():
        key, line = make_key("bench")
        file.write_text(line + "\n")
        stored.write_text(key)
        server.deploy({**server.changes, "keys": {"file": str(file)}})
        refused = 0
        while refused < 20:  # until both of the old gateways are gone
            time.sleep(0.5)
            is_refused = local_session().get(f"{server.url}/v1/models", timeout=60).status_code == 401
            refused = refused + 1 if is_refused else 0
    return stored.read_text()


def _openai(url: str, key: str, folder: str) -> dict:
    environment = os.environ | {"PYTHONPATH": folder}
    command = [sys.executable, str(Path(openai_checks.__file__)), url, key]
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _hugging_face(url: str, key: str) -> bool:
    if importlib.util.find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=f"{url}/models/{MODEL}", token=key, timeout=120)
    edited = client.image_to_image(openai_checks.SOURCE, prompt=openai_checks.PROMPT, num_inference_steps=4)
    return edited.size == (openai_checks.WIDTH, openai_checks.HEIGHT)


def _curl(url: str, key: str) -> bool:
    """Send a form with curl, and take Hugging Face's raw answer with it."""
    fields = ["-F", f"prompt={openai_checks.PROMPT}", "-F", "image=@-;filename=a b.png;type=image/png"]
    command = ["curl", "-sS", "-H", f"Authorization: Bearer {key}"]
    done = subprocess.run(
        [*command, *fields, f"{url}/v1/images/edits"], input=openai_checks.SOURCE, capture_output=True
    )
    picture = Image.open(io.BytesIO(base64.b64decode(json.loads(done.stdout)["data"][0]["b64_json"])))
    body = {"inputs": base64.b64encode(openai_checks.SOURCE).decode(), "parameters": {"prompt": "make it red"}}
    raw = [*command, "-H", "Content-Type: application/json", "-H", "Accept: image/jpeg", "--data-binary", "@-"]
    done = subprocess.run([*raw, f"{url}/models/{MODEL}"], input=json.dumps(body).encode(), capture_output=True)
    return picture.size == Image.open(io.BytesIO(done.stdout)).size and done.stdout.startswith(b"\xff\xd8")


def _go_form(url: str, key: str) -> bool:
    """Send every field of a struct, most of them empty."""
    names = ("model", "n", "size", "quality", "response_format", "user", "mask", "background", "output_format", "seed")
    body = form(openai_checks.SOURCE, dict.fromkeys(names, "") | {"prompt": openai_checks.PROMPT})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "multipart/form-data; boundary=fireedit-bench"}
    answer = local_session().post(f"{url}/v1/images/edits", data=body, headers=headers, timeout=120)
    return answer.status_code == 200 and np.isfinite(answer.json()["seed"])
