"""Answers to edits, in the shapes of OpenAI's images API. Imports no torch."""

import base64
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fireedit.platform import images
from fireedit.platform.provenance import Provenance, Signer, xmp_packet
from fireedit.platform.restoration import Edit, restore
from fireedit.serve.fields import editable
from fireedit.serve.prompts import ServedModel
from fireedit.serve.schema import Edited, EditRequest
from fireedit.serve.stage import StageTimes


class Answers:
    """Builder of answers: results at the source's size, encoded, marked as edited by an AI, and signed with a key."""

    def __init__(self, served: ServedModel, signer: Signer | None):
        self._served, self._signer = served, signer

    def files(self, request: EditRequest, edited: Edited, request_id: str) -> list[bytes]:
        """Bring the edited canvases back to the source's size and encode them."""
        mask = None if request.mask is None else editable(request.mask)
        ground = images.WHITE if request.opaque else None
        settings = asdict(self._served.settings.but(**request.settings))
        files = []
        for canvas, changed, seed in zip(edited.canvases, edited.changed, request.seeds, strict=True):
            edit = Edit(request.source.canvas, canvas, changed)
            result = restore(images.Picture(request.source.file), edit, request.size, mask, ground)
            facts = Provenance(request_id=request_id, weights=self._served.fingerprint, seed=seed, settings=settings)
            file: bytes = images.encode(result, request.output_format, request.output_compression, xmp_packet(facts))
            files.append(file if self._signer is None else self._signer.sign(file, facts, request.source.file))
        return files

    def body(self, request: EditRequest, edited: Edited, request_id: str) -> dict[str, Any]:
        """Build the JSON body: OpenAI's, with seeds and, on request, `regions` added.

        `revised_prompt` is there for typed clients; the prompt is used unchanged.
        """
        files = self.files(request, edited, request_id)
        data = [
            {"b64_json": base64.b64encode(file).decode(), "revised_prompt": None, "seed": seed}
            for file, seed in zip(files, request.seeds, strict=True)
        ]
        body = {"created": int(time.time()), "data": data, **description(request), "usage": usage(edited)}
        body["seed"] = request.seed
        if request.return_regions:
            body["regions"] = regions(edited)
        return body


def description(request: EditRequest) -> dict[str, Any]:
    """Describe the pictures of an answer."""
    width, height = request.size
    return {
        "output_format": request.output_format,
        "size": f"{width}x{height}",
        "quality": "auto",
        "background": "opaque" if request.opaque else "auto",
    }


def usage(edited: Edited) -> dict[str, Any]:
    """Count the tokens that the models read and wrote; nothing is billed."""
    tokens = edited.tokens
    read = tokens.text + tokens.image
    return {
        "input_tokens": read,
        "output_tokens": tokens.output,
        "total_tokens": read + tokens.output,
        "input_tokens_details": {"text_tokens": tokens.text, "image_tokens": tokens.image},
    }


def regions(edited: Edited) -> list[dict[str, Any]]:
    """List the regions that the VLM looked at, best first."""
    boxes = zip(edited.boxes.tolist(), edited.scores.tolist(), strict=True)
    return [{"box": box, "score": score} for box, score in boxes]


def timing_headers(times: Sequence[StageTimes], steps: int) -> dict[str, str]:
    """Tell the denoising steps, and the time of each stage in the milliseconds of `Server-Timing`."""
    timings = [f"{each.stage};dur={1000 * each.run_s:.1f}" for each in times]
    queued = f"queue;dur={1000 * sum(each.queue_s for each in times):.1f}"
    return {"x-fireedit-steps": str(steps), "server-timing": ", ".join([queued, *timings])}
