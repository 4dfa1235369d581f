"""Hostile requests over raw sockets: each is refused in the envelope or handled right, and nothing stays behind."""

import base64
import io
import itertools
import json
import select
import socket
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image

from fireedit.platform import images
from tests.serve.conftest import MAX_BYTES, Client

EDITS = "/v1/images/edits"
BOUNDARY = b"b"
TIMEOUT_S, WAIT_S = 20, 1
AT_ONCE = 4
COUNT = 240
LEVEL_MB = 120
"""Megabytes by which the service may be larger afterwards."""
OK, BAD, EITHER = frozenset({200}), frozenset({400}), frozenset({200, 400})
TOO_LARGE = frozenset({400, 413, 431})
MALFORMED = (b"Invalid HTTP request received.",)
"""Bodies that uvicorn itself answers with 400 to what its parser cannot read; it closes the connection then."""


@dataclass(frozen=True)
class Hostile:
    """Request that a client would not send by mistake alone."""

    name: str
    data: bytes = field(repr=False)
    allowed: frozenset[int] = BAD
    is_http: bool = True
    """False for bytes that uvicorn's parser may refuse, with an answer of its own or by closing the connection."""


@dataclass(frozen=True)
class Reply:
    """Response; status 0 for a closed connection."""

    status: int
    headers: dict[str, str]
    body: bytes


def part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + value + b"\r\n"


def body(file: bytes, filename: bytes = b"x", **fields: object) -> bytes:
    """Build the form of an edit of one step, with fields changed, added, or left out if None."""
    texts = {"prompt": "make it red", "num_inference_steps": 1, "seed": 1, **fields}
    values = {name: text if isinstance(text, bytes) else str(text).encode() for name, text in texts.items()}
    parts = [part(name.encode(), value) for name, value in values.items() if texts[name] is not None]
    return b"".join([*parts, part(b"image", file, b'; filename="' + filename + b'"'), b"--b--\r\n"])


def post(
    content: bytes, *lines: str | bytes, kind: str = "multipart/form-data; boundary=b", length: object = None
) -> bytes:
    """Build a POST with extra header lines; `length` replaces the true Content-Length, "" leaves it out."""
    length = len(content) if length is None else length
    head = [f"POST {EDITS} HTTP/1.1", "Host: x", "Connection: close"]
    head += [f"Content-Type: {kind}"] if kind else []
    head += [f"Content-Length: {length}"] if length != "" else []
    raw = [line if isinstance(line, bytes) else line.encode() for line in (*head, *lines)]
    return b"\r\n".join(raw) + b"\r\n\r\n" + content


def encoded(kind: str = "PNG", size: tuple[int, int] = (12, 8), mode: str = "RGB", **how: object) -> bytes:
    """Encode a gradient."""
    file = io.BytesIO()
    image = Image.fromarray(np.tile(np.linspace(0, 255, size[0]).astype(np.uint8), (size[1], 1))).convert("RGB")
    image.convert(mode).save(file, kind, **how)  # type: ignore[arg-type]
    return file.getvalue()


PICTURE = encoded()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"", extra: bytes = b"", depth: int = 8, color: int = 2) -> bytes:
    """Build a PNG whose header may lie about its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def damaged() -> Iterator[Hostile]:
    """Truncated files, and files with bytes changed in the middle."""
    random = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP"):
        file = encoded(kind, (40, 30))
        for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
            yield Hostile(f"{kind} cut at {share:.0%}", post(body(file[: int(len(file) * share)])), EITHER)
        for number in range(6):
            changed = np.frombuffer(file, np.uint8).copy()
            changed[random.integers(8, len(file), 4)] = random.integers(0, 256, 4)
            yield Hostile(f"{kind} with changed bytes {number}", post(body(changed.tobytes())), EITHER)


def bombs() -> Iterator[Hostile]:
    """Pictures that are small as files and huge as pixels, texts or profiles."""
    for width, height in (
        (60_000, 60_000),
        (2**31 - 1, 2**31 - 1),
        (1, 60_000),
        (60_000, 1),
        (0, 8),
        (8, 0),
        (2**31, 1),
    ):
        yield Hostile(f"PNG that claims {width} x {height}", post(body(png(width, height))))
    yield Hostile("PNG with 20 MB of nothing", post(body(png(20, 20, bytes(20_000_000)))), EITHER)
    yield Hostile("PNG of 26 MP", post(body(png(5100, 5100))))
    pixels = bytes((3 * 8 + 1) * 8)
    bomb = zlib.compress(bytes(30_000_000))
    for kind, data in ((b"zTXt", b"a\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb), (b"iTXt", b"a\0\1\0\0\0" + bomb)):
        yield Hostile(f"PNG with a bomb in {kind.decode()}", post(body(png(8, 8, pixels, chunk(kind, data)))), EITHER)
    large = bytearray(encoded("JPEG"))
    at = large.index(b"\xff\xc0") + 5
    large[at : at + 4] = b"\xff\xdc\xff\xdc"
    yield Hostile("JPEG that claims 65500 x 65500", post(body(bytes(large))))
    yield Hostile("more bytes than allowed", post(body(PICTURE + bytes(MAX_BYTES))), TOO_LARGE)
    yield Hostile("a text of 2 MB", post(body(PICTURE, user="x" * 2_000_000)), TOO_LARGE)
    yield Hostile("gzip as Content-Encoding", post(zlib.compress(body(PICTURE)), "Content-Encoding: gzip"))


def sizes() -> Iterator[Hostile]:
    """Odd sizes; a side may be ten times the other."""
    for width, height in ((1, 1), (1, 2), (2, 1), (1, 10), (10, 1), (3, 7), (17, 13), (63, 65), (100, 10), (1000, 100)):
        yield Hostile(f"a picture of {width} x {height}", post(body(encoded(size=(width, height)))), OK)
    for width, height in ((1, 11), (11, 1), (3, 100), (1000, 7)):
        yield Hostile(f"a picture of {width} x {height}", post(body(encoded(size=(width, height)))))


def modes() -> Iterator[Hostile]:
    """Color modes and orientations, which are all pictures."""
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield Hostile(f"PNG of mode {mode}", post(body(encoded(mode=mode))), OK)
    for mode in ("L", "CMYK"):
        yield Hostile(f"JPEG of mode {mode}", post(body(encoded("JPEG", mode=mode))), OK)
    deep = b"".join(b"\0" + bytes(range(48)) for _ in range(8))
    yield Hostile("PNG of 16 bits a color", post(body(png(8, 8, deep, depth=16))), OK)
    yield Hostile("PNG of 3 bits a color", post(body(png(8, 8, deep, depth=3))))
    yield Hostile("progressive JPEG", post(body(encoded("JPEG", progressive=True))), OK)
    yield Hostile("transparent palette", post(body(encoded(mode="P", transparency=3))), OK)
    for turn in (0, 3, 6, 8, 9, 65_535):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield Hostile(f"EXIF orientation {turn}", post(body(encoded("JPEG", exif=exif.tobytes()))), OK)
    yield Hostile("broken EXIF", post(body(encoded("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))), OK)


def foreign() -> Iterator[Hostile]:
    """Other formats, animations and files that are two things at once."""
    for kind in ("GIF", "BMP", "TIFF", "PPM", "ICO"):
        yield Hostile(f"a {kind}", post(body(encoded(kind))))
    frames = [Image.new("RGB", (12, 8), color) for color in ("red", "blue")]
    for kind in ("PNG", "WEBP"):
        yield Hostile(f"animated {kind}", post(body(encoded(kind, save_all=True, append_images=frames))))
    for name, file in {
        "nothing": b"",
        "zeros": bytes(100),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "HTML": b"<html><script>alert(1)</script>",
        "PDF": b"%PDF-1.7",
        "pickle": b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "ELF": b"\x7fELF" + bytes(60),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9",
        "WebP without a picture": b"RIFF\x10\0\0\0WEBPVP8 ",
        "PNG signature alone": PICTURE[:8],
        "GIF before a PNG": encoded("GIF") + PICTURE,
        "Git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    }.items():
        yield Hostile(f"as a picture: {name}", post(body(file)))
    for name, tail in {"a zip": b"PK\5\6" + bytes(18), "HTML": b"<script>", "another PNG": PICTURE}.items():
        yield Hostile(f"PNG followed by {name}", post(body(PICTURE + tail)), OK)
        yield Hostile(f"JPEG followed by {name}", post(body(encoded("JPEG") + tail)), OK)


def fields() -> Iterator[Hostile]:
    """Known fields with bad values; empty ones mean left out."""
    numbers = ["many", "-1", "1.5e3x", "nan", "inf", "-inf", "1e999", "0x10", "١", "1\0", "9" * 400, "[1]"]
    for name, values in {
        "n": ["0", "11", *numbers[:3], numbers[8]],
        "seed": [str(2**63), *numbers[:4], *numbers[8:11]],
        "num_inference_steps": ["0", "1001", *numbers[:3]],
        "guidance_scale": ["101", *numbers[:8], *numbers[9:]],
        "keep_below": ["2", "-0.1", "nan"],
        "output_compression": ["101", "-1", "x"],
        "output_format": ["gif", "../png", "PNG\0", "svg"],
        "size": ["0x0", "99999x99999", "big"],
        "regions": ["perhaps", "2"],
        "response_format": ["url", "file:///etc/passwd"],
        "background": ["transparent", "\0"],
    }.items():
        for value in values:
            yield Hostile(f"{name}={value[:20]!r}", post(body(PICTURE, **{name: value})))
    for name in ("n", "seed", "guidance_scale", "output_format", "size", "user"):
        yield Hostile(f"{name} is empty", post(body(PICTURE, **{name: ""})), OK)
    for name, value in {
        "__proto__": "1",
        "a" * 500: "1",
        "prompt[]": "x",
        "model": "../../etc",
        "user": "'; --",
    }.items():
        yield Hostile(f"unknown field {name[:20]}", post(body(PICTURE, **{name: value})), OK)


def prompts() -> Iterator[Hostile]:
    """Instructions; those of a few tokens are edits, whatever they say."""
    for text in ("", "   ", "\n\t", "red " * 500, "x" * 40_000, b"\xff\xfe red", b"\xc3(", b"\xed\xa0\x80", b"\x80"):
        yield Hostile(f"prompt {text[:12]!r} of {len(text)}", post(body(PICTURE, prompt=text)))
    for text in (
        "{{7*7}} ${jndi:ldap://x}",
        "</s><image>[IMG]",
        "a\r\nX-Evil: 1",
        "\u202eder ti ekam",
        "🔥",
        "'; DROP TABLE",
    ):
        yield Hostile(f"prompt {text[:12]!r}", post(body(PICTURE, prompt=text)), OK)
    yield Hostile("prompt with NULs", post(body(PICTURE, prompt="make\0it\0red")), EITHER)
    yield Hostile("prompt as a file", post(body(PICTURE, prompt=None) + part(b"prompt", b"x", b'; filename="p"')))
    yield Hostile("no prompt", post(body(PICTURE, prompt=None)))


def names() -> Iterator[Hostile]:
    """File names, which are never used."""
    for name in (
        b"../../../etc/passwd",
        b"/etc/passwd",
        b"..\\..\\boot.ini",
        b"x\0.png",
        b"a" * 2000,
        b"\xff\xfe",
        b"'; rm -rf /",
        b"$(reboot).png",
        "🔥.png".encode(),
        b"CON",
    ):
        yield Hostile(f"file name {name[:20]!r}", post(body(PICTURE, name)), EITHER)


def forms() -> Iterator[Hostile]:
    """Multipart bodies of strange structure."""
    good, text = body(PICTURE), part(b"prompt", b"x")
    yield Hostile("no form", post(b"no form"))
    yield Hostile("an empty body", post(b""))
    yield Hostile("another boundary", post(good.replace(b"--b", b"--c")))
    yield Hostile("no last boundary", post(good[:-7]), EITHER)
    yield Hostile("text after the last boundary", post(good + b"junk"), EITHER)
    yield Hostile("two images", post(part(b"image", PICTURE, b'; filename="y"') + good))
    yield Hostile("a mask", post(part(b"mask", PICTURE, b'; filename="y"') + good))
    yield Hostile("the image as a text", post(text + part(b"image", b"x") + b"--b--\r\n"))
    yield Hostile("20 files", post(b"".join(part(b"f%d" % n, b"", b'; filename="f"') for n in range(20)) + good))
    yield Hostile("200 fields", post(b"".join(part(b"f%d" % n, b"") for n in range(200)) + good))
    yield Hostile("a field twice", post(text + good), EITHER)
    yield Hostile("a part without a name", post(b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + good), EITHER)
    yield Hostile("a part without headers", post(b"--b\r\n\r\nx\r\n" + good), EITHER)
    yield Hostile("a part with 20 kB of headers", post(part(b"x", b"", b"\r\nX-A: " + b"a" * 20_000) + good), EITHER)
    yield Hostile(
        "a nested form", post(part(b"x", good, b"\r\nContent-Type: multipart/mixed; boundary=b") + good), EITHER
    )
    yield Hostile("base64 as the part's encoding", post(body(base64.b64encode(PICTURE))))


def kinds() -> Iterator[Hostile]:
    """Content types."""
    for kind in (
        "",
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=b",
    ):
        yield Hostile(f"Content-Type {kind!r}", post(body(PICTURE), kind=kind), frozenset({400, 415}))
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 5000,
    ):
        yield Hostile(f"Content-Type {kind[:40]!r}", post(body(PICTURE), kind=kind))
    for charset in ("utf-7", "utf-16", "rot13", "x" * 100, "base64"):
        kind = f"multipart/form-data; boundary=b; charset={charset}"
        yield Hostile(f"charset {charset[:12]}", post(body(PICTURE), kind=kind), EITHER)
    yield Hostile("JSON that is none", post(b"{", kind="application/json"), frozenset({400, 415}))


def headers() -> Iterator[Hostile]:
    """Headers that are HTTP, with strange values."""
    good = body(PICTURE)
    for value in (
        "a" * 65,
        "a" * 5000,
        "${jndi:ldap://x}",
        "../../x",
        "a b",
        "<script>",
        "%0d%0aX: 1",
        "x" * 64,
        "",
        "☃",
    ):
        yield Hostile(f"x-request-id {value[:16]!r} of {len(value)}", post(good, f"x-request-id: {value}"), OK)
    for number in range(3):
        yield Hostile(f"the id of another request {number}", post(good, "x-request-id: same"), OK)
    for value in ("abc", "nan", "-1", "1e999", "1;2"):
        yield Hostile(f"timeout {value}", post(good, f"x-request-timeout-seconds: {value}"), frozenset({200, 400, 408}))
    for line in ("Authorization: Basic " + "A" * 4000, "Range: bytes=0-", "Upgrade: h2c", "X-Forwarded-For: 127.0.0.1"):
        yield Hostile(line[:24], post(good, line), frozenset({200, 401}))
    for line in ("serve_multiplexed_model_id: ../../x", "Accept: application/pickle", "Cookie: " + "a=b;" * 900):
        yield Hostile(line[:24], post(good, line), EITHER)
    yield Hostile(
        "40 kB of headers", post(good, *[f"X-{n}: {'a' * 1000}" for n in range(40)]), TOO_LARGE, is_http=False
    )
    yield Hostile("one header of 100 kB", post(good, "X-A: " + "a" * 100_000), TOO_LARGE, is_http=False)
    yield Hostile("1000 headers", post(good, *[f"X-{n}: a" for n in range(1000)]), frozenset({200, 431}), is_http=False)


def framing() -> Iterator[Hostile]:
    """Bodies whose length is told twice, wrongly or not at all."""
    good = body(PICTURE)
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(good), good)
    yield Hostile("chunked", post(chunked, "Transfer-Encoding: chunked", length=""), OK)
    yield Hostile("CL and TE", post(chunked, "Transfer-Encoding: chunked"), is_http=False)
    yield Hostile("TE and CL of another request", post(chunked, "Transfer-Encoding: chunked", length=4), is_http=False)
    yield Hostile("two lengths", post(good, f"Content-Length: {len(good) + 1}"), is_http=False)
    yield Hostile("a length that is no number", post(good, length="ten"), is_http=False)
    yield Hostile("a negative length", post(good, length=-1), is_http=False)
    yield Hostile("a length in arabic digits", post(good, length="١٠"), is_http=False)
    yield Hostile("a length of 400 digits", post(good, length="9" * 400), TOO_LARGE, is_http=False)
    yield Hostile("too short a length", post(good, length=len(good) // 2), is_http=False)
    yield Hostile("TE gzip", post(good, "Transfer-Encoding: gzip", length=""), is_http=False)
    yield Hostile("TE chunked twice", post(chunked, "Transfer-Encoding: chunked, chunked", length=""), is_http=False)
    yield Hostile("TE with a tab", post(chunked, "Transfer-Encoding:\tchunked", length=""), EITHER, is_http=False)
    yield Hostile("a chunk of -1", post(b"-1\r\nx\r\n", "Transfer-Encoding: chunked", length=""), is_http=False)
    yield Hostile("a chunk of 2^64", post(b"f" * 17 + b"\r\nx", "Transfer-Encoding: chunked", length=""), is_http=False)
    yield Hostile("no length at all", post(good, length=""))


def lines() -> Iterator[Hostile]:
    """Request lines and what is no HTTP at all; the end of the data closes the sender's half."""
    for path in (
        "/v1/images/../../etc/passwd",
        "//v1/images/edits",
        "/%00",
        "/%2e%2e/%2e%2e/etc",
        "/" + "a" * 9000,
        "/.git",
        "/*",
    ):
        yield Hostile(
            f"GET {path[:24]}",
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(),
            frozenset({400, 404, 414, 431}),
        )
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"):
        data = f"{method} {EDITS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        yield Hostile(f"{method} of edits", data, frozenset({404, 405}), is_http=method != "BREW")
    for name, data in {
        "HTTP/0.9": f"GET {EDITS}\r\n\r\n".encode(),
        "HTTP/9.9": b"GET / HTTP/9.9\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        "bytes": bytes(range(256)),
        "no Host": b"GET /v1/images HTTP/1.1\r\nConnection: close\r\n\r\n",
        "two Hosts": b"GET /v1/images HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n",
        "NUL in a header": post(body(PICTURE), b"X-A: a\0b"),
        "no colon in a header": post(body(PICTURE), "X-A"),
        "a folded header": post(body(PICTURE), "X-A: a\r\n b"),
        "a bare CR": post(body(PICTURE), b"X-A: a\rb"),
        "bad UTF-8 in a header": post(body(PICTURE), b"X-A: \xff\xfe"),
    }.items():
        yield Hostile(name, data, frozenset({200, 400, 404, 405, 505}), is_http=False)


FAMILIES: tuple[Callable[[], Iterable[Hostile]], ...] = (
    damaged, bombs, sizes, modes, foreign, fields, prompts, names, forms, kinds, headers, framing, lines
)  # fmt: skip
HOSTILE = list(itertools.chain.from_iterable(family() for family in FAMILIES))
NAMES = [hostile.name for hostile in HOSTILE]


def exchange(url: str, hostile: Hostile) -> Reply:
    """Send bytes and read the answer; a server that waits for more than was sent sees the connection close."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), TIMEOUT_S) as connection:
        try:
            connection.sendall(hostile.data)
            if not hostile.is_http and not select.select([connection], [], [], WAIT_S)[0]:
                connection.shutdown(socket.SHUT_WR)
            response = HTTPResponse(connection)
            response.begin()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except (ConnectionError, HTTPException):
            return Reply(0, {}, b"")


def memory_mb() -> float:
    """Sum up the resident memory of this Ray's replicas and proxy."""
    processes = psutil.Process().children(recursive=True)
    titled = [each for each in processes if "ray::" in " ".join(each.cmdline())[:5]]
    return sum(process.memory_info().rss for process in titled) / 1e6


@pytest.fixture(scope="module")
def level(client: Client) -> float:
    """Memory after one edit of each kind of picture."""
    for file in (PICTURE, encoded("JPEG"), encoded("WEBP"), encoded(size=(4000, 4000))):
        assert client.edit(file, num_inference_steps=1).status_code == 200
    return memory_mb()


@pytest.fixture(scope="module")
def replies(client: Client, level: float) -> dict[str, Reply]:
    """Replies to all hostile requests, a few at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(NAMES, pool.map(lambda each: exchange(client.url, each), HOSTILE), strict=True))


def test_hostile_requests_are_many_and_different() -> None:
    assert len(set(NAMES)) == len(HOSTILE) >= COUNT


@pytest.mark.ray
@pytest.mark.parametrize("hostile", HOSTILE, ids=NAMES)
def test_a_hostile_request_is_refused_in_the_envelope_or_handled(hostile: Hostile, replies: dict[str, Reply]) -> None:
    reply = replies[hostile.name]
    if not hostile.is_http and (reply.status == 0 or reply.body in MALFORMED):
        return
    assert reply.status in hostile.allowed, reply
    assert reply.headers["x-request-id"]
    answer = json.loads(reply.body)
    if reply.status == 200:
        assert images.decode(base64.b64decode(answer["data"][0]["b64_json"])).size
    else:
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert "Traceback" not in answer["error"]["message"] and "/home" not in answer["error"]["message"]


@pytest.mark.ray
def test_nothing_stays_behind_after_hostile_requests(client: Client, level: float, replies: dict[str, Reply]) -> None:
    one, other = (client.edit(PICTURE, num_inference_steps=1, seed=1) for _ in range(2))
    pictures = [images.decode(base64.b64decode(each.json()["data"][0]["b64_json"])) for each in (one, other)]
    assert np.array_equal(*pictures)
    assert memory_mb() < level + LEVEL_MB
