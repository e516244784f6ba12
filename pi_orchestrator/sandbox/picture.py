"""The picture of a simulated camera."""

from __future__ import annotations

import io
from datetime import datetime


def render_picture(name: str, when: datetime) -> bytes:
    """Draw a 640 x 480 JPEG with name and time, in a colour derived from the name; blocks for some ms."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - optional, and slow to import

    hue = sum(name.encode()) * 37 % 360
    image = Image.new("RGB", (640, 480), f"hsl({hue}, 45%, 30%)")
    draw = ImageDraw.Draw(image)
    for step in range(0, 640, 40):
        draw.line((step, 0, 639 - step, 479), fill=f"hsl({hue}, 45%, {30 + step // 40}%)", width=3)
    draw.text((40, 190), name, fill="white", font=ImageFont.load_default(48))
    draw.text((40, 260), when.isoformat(timespec="seconds"), fill="white", font=ImageFont.load_default(28))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()
