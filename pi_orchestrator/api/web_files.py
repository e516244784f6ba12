"""What a browser has to be told about a file: its type, how long it may keep it, and what its page may do. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence

INDEX = "index.html"
LONGEST_PATH = 2048
MOST_PARTS = 32
LONGEST_NAME = 255  # bytes, what a file system takes
MOST_INLINE_SCRIPTS = 32

REVALIDATE = "no-cache"
FOR_EVER = "public, max-age=31536000, immutable"

# Not from the machine's own tables: a file must not change its type with the machine it is on.
_TYPES = {
    ".avif": "image/avif",
    ".cjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".gif": "image/gif",
    ".gz": "application/gzip",
    ".htm": "text/html; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".otf": "font/otf",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}

_HEX = re.compile(r".+[-.](?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{8,64}(?:\.[a-z][a-z0-9]*){1,3}", re.ASCII)
_BASE64 = re.compile(
    r".+[-.](?=[\w-]*(?:[0-9]|[a-z_-][A-Z]))(?=[\w-]*[A-Za-z_-])[\w-]{8}(?:\.[a-z][a-z0-9]*){1,3}", re.ASCII
)
_MADE_BY_A_BUILD = frozenset({"assets", "static", "immutable", "_next", "_app", "chunks"})
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}", re.ASCII)
_INLINE = re.compile(rb"<script\b([^>]*)>(.*?)</script", re.DOTALL | re.IGNORECASE)
_SRC = re.compile(rb"(?:^|\s)src\s*=", re.IGNORECASE)

CONSOLE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # A browser that knows this makes no markup and no script of text, whatever a script tries.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def dashboard_policy(inline_scripts: Iterable[str] = ()) -> str:
    """The Content-Security-Policy that an ordinary built page works under; inline scripts only by their hash."""
    scripts = " ".join(["'self'", "'wasm-unsafe-eval'", *inline_scripts])
    return (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline' https:; "
        "img-src 'self' data: blob: http: https:; font-src 'self' data: https:; media-src 'self' data: blob:; "
        "worker-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'none'"
    )


def inline_scripts(page: bytes) -> tuple[str, ...]:
    """The scripts that stand in an HTML page, as a policy names them: 'sha256-…'."""
    found = []
    for attributes, text in _INLINE.findall(page):
        if not _SRC.search(attributes):
            as_parsed = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            found.append(f"'sha256-{base64.b64encode(hashlib.sha256(as_parsed).digest()).decode()}'")
    return tuple(found[:MOST_INLINE_SCRIPTS])


def media_type(name: str) -> str:
    """A file's type by its name."""
    _, dot, extension = name.rpartition(".")
    return _TYPES.get(f"{dot}{extension}".lower(), "application/octet-stream")


def is_hashed(parts: Sequence[str]) -> bool:
    """Whether the name changes with the content, as build tools have it: `main.3f2a91bc.js`, `assets/main-Dk3_aB9x.js`.

    A word of eight letters is no hash: a file that is kept for ever by mistake cannot be called back.
    """
    *folders, name = parts
    if _HEX.fullmatch(name):
        return True
    return not _MADE_BY_A_BUILD.isdisjoint(folders) and _BASE64.fullmatch(name) is not None


def parts_of(path: str) -> tuple[str, ...] | None:
    """A decoded URL path → names below the root; None for one that no file of a page has.

    Nothing that leads elsewhere or means something to a file system passes: `..`, dotfiles, empty names,
    backslashes, control characters, what is no UTF-8.
    """
    if not path.startswith("/") or len(path) > LONGEST_PATH:
        return None
    parts = path[1:].split("/")
    if not parts[-1]:
        parts[-1] = INDEX
    if len(parts) > MOST_PARTS or not all(_is_a_name(part) for part in parts):
        return None
    return tuple(parts)


def _is_a_name(part: str) -> bool:
    return (
        part.isprintable()
        and "\\" not in part
        and not part.startswith((".", "~"))
        and 0 < len(part.encode("utf-8", "replace")) <= LONGEST_NAME
    )


def navigates(path: str, accept: str) -> bool:
    """Whether a request is a person's way to a view of the page, and not for a file that is missing."""
    _, dot, extension = path.rpartition("/")[2].rpartition(".")
    return "text/html" in accept.lower() and not _EXTENSION.fullmatch(dot + extension)


def accepted_encodings(header: str | None) -> tuple[str, ...]:
    """`Accept-Encoding` → which of br and gzip are wanted rather than the file as it is, best first."""
    weights: dict[str, float] = {}
    for item in (header or "").lower().split(",")[:32]:
        name, *parameters = (part.strip() for part in item.split(";"))
        weights[{"x-gzip": "gzip"}.get(name, name)] = quality(parameters)
    others = weights.get("*", 0.0)
    as_it_is = weights.get("identity", 0.0)
    wanted = [(weights.get(name, others), name) for name in ("br", "gzip")]
    wanted.sort(key=lambda item: -item[0])
    return tuple(name for weight, name in wanted if weight > 0 and weight >= as_it_is)


def quality(parameters: Iterable[str]) -> float:
    """The weight among the parameters of an entry of an Accept header; 0 where it is none, 1 where it is not given."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0
