"""Rules for a file by path and content: names below the root, media type, caching, policy. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence

INDEX = "index.html"
MAX_PATH_CHARS = 2048
MAX_PARTS = 32
MAX_NAME_BYTES = 255  # limit of the file system
MAX_INLINE_SCRIPTS = 32

REVALIDATE = "no-cache"
IMMUTABLE = "public, max-age=31536000, immutable"

# Not from the system's tables: a file's type must not depend on the machine.
_TYPES = {
    **dict.fromkeys((".cjs", ".js", ".mjs"), "text/javascript; charset=utf-8"),
    **dict.fromkeys((".htm", ".html"), "text/html; charset=utf-8"),
    **dict.fromkeys((".md", ".txt"), "text/plain; charset=utf-8"),
    **dict.fromkeys((".json", ".map"), "application/json"),
    **{f".{name}": f"application/{name}" for name in ("pdf", "wasm", "xml")},
    **{f".{name}": f"font/{name}" for name in ("otf", "ttf", "woff", "woff2")},
    **{f".{name}": f"image/{name}" for name in ("avif", "gif", "jpeg", "png", "webp")},
    **{f".{name}": f"video/{name}" for name in ("mp4", "webm")},
    ".css": "text/css; charset=utf-8",
    ".gz": "application/gzip",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".mp3": "audio/mpeg",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}

# Names with a hash. The lookaheads require digits and letters, so that no date and no word is taken for a hash.
_HEX = re.compile(r".+[-.](?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{8,64}(?:\.[a-z][a-z0-9]*){1,3}", re.ASCII)
_BASE64 = re.compile(
    r".+[-.](?=[\w-]*(?:[0-9]|[a-z_-][A-Z]))(?=[\w-]*[A-Za-z_-])[\w-]{8}(?:\.[a-z][a-z0-9]*){1,3}", re.ASCII
)
_BUILD_FOLDERS = frozenset({"assets", "static", "immutable", "_next", "_app", "chunks"})
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}", re.ASCII)
_INLINE = re.compile(rb"<script\b([^>]*)>(.*?)</script", re.DOTALL | re.IGNORECASE)
_SRC = re.compile(rb"(?:^|\s)src\s*=", re.IGNORECASE)

CONSOLE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # Trusted Types: no script can turn text into markup or code.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def dashboard_policy(inline_scripts: Iterable[str] = ()) -> str:
    """The Content-Security-Policy of a dashboard; inline scripts are allowed by hash only."""
    scripts = " ".join(["'self'", "'wasm-unsafe-eval'", *inline_scripts])
    return (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline' https:; "
        "img-src 'self' data: blob: http: https:; font-src 'self' data: https:; media-src 'self' data: blob:; "
        "worker-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'none'"
    )


def inline_scripts(page: bytes) -> tuple[str, ...]:
    """The hashes of a page's first `MAX_INLINE_SCRIPTS` inline scripts as policy sources: 'sha256-…'."""
    sources = []
    for attributes, text in _INLINE.findall(page):
        if not _SRC.search(attributes):
            as_parsed = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            sources.append(f"'sha256-{base64.b64encode(hashlib.sha256(as_parsed).digest()).decode()}'")
    return tuple(sources[:MAX_INLINE_SCRIPTS])


def media_type(name: str) -> str:
    """The media type of a file name; application/octet-stream if unknown."""
    _, dot, extension = name.rpartition(".")
    return _TYPES.get(f"{dot}{extension}".lower(), "application/octet-stream")


def has_content_hash(parts: Sequence[str]) -> bool:
    """Whether the name has a hash of a build tool, such as `main.3f2a91bc.js` or `assets/main-Dk3_aB9x.js`."""
    *folders, name = parts
    if _HEX.fullmatch(name):
        return True
    return not _BUILD_FOLDERS.isdisjoint(folders) and _BASE64.fullmatch(name) is not None


def path_parts(path: str) -> tuple[str, ...] | None:
    """Split a decoded URL path into names below the root; None for `..`, dotfiles, empty, unprintable or long names."""
    if not path.startswith("/") or len(path) > MAX_PATH_CHARS:
        return None
    parts = path[1:].split("/")
    if not parts[-1]:
        parts[-1] = INDEX
    if len(parts) > MAX_PARTS or not all(_is_name(part) for part in parts):
        return None
    return tuple(parts)


def _is_name(part: str) -> bool:
    return (
        part.isprintable()
        and "\\" not in part
        and not part.startswith((".", "~"))
        and 0 < len(part.encode("utf-8", "replace")) <= MAX_NAME_BYTES
    )


def is_navigation(path: str, accept: str) -> bool:
    """Whether a request opens a view of the page, not a file."""
    _, dot, extension = path.rpartition("/")[2].rpartition(".")
    return "text/html" in accept.lower() and not _EXTENSION.fullmatch(dot + extension)
