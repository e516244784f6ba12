"""Default headers of answers."""

from __future__ import annotations

from collections.abc import Mapping

SECURITY_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""For answers of an API: a browser must not render, embed or cache them. Files of the web page replace
Content-Security-Policy and Cache-Control; pictures and streams replace Cache-Control."""
REQUEST_ID = "X-Request-Id"
