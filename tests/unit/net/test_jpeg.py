"""Pictures with bytes after their end, and data that is not a picture."""

import io

import pytest
from PIL import Image

from pi_orchestrator.net.jpeg import MAX_PADDING_BYTES, cut_jpeg, other_content_type

SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def picture(**options):
    out = io.BytesIO()
    Image.effect_noise((64, 48), 90).save(out, "JPEG", **options)
    return out.getvalue()


def exif_with(thumbnail):
    return {"exif": b"Exif\0\0" + thumbnail}


@pytest.mark.parametrize(
    "padding",
    [b"", b"\0", bytes(512), b"\r\n", b"\n--frame\r\n", b"\xff", bytes(MAX_PADDING_BYTES)],
    ids=lambda padding: f"{len(padding)} bytes",
)
def test_padding_is_cut_off(padding):
    jpeg = picture()
    assert cut_jpeg(jpeg + padding) == jpeg


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SOI,
        SOI + EOI,
        b"<html><body>busy</body></html>",
        b"no frame",
        b"\x89PNG" + EOI,
        picture()[:-2],
        picture()[:-2] + bytes(512),
        picture()[2:],
        picture()[200:] + picture()[200:],
        picture() + bytes(MAX_PADDING_BYTES + 1),
        bytes(10) + picture(),
        SOI + b"\xff\xe0\xff\xff" + EOI + b"\0",
    ],
    ids=range(13),
)
def test_data_without_start_or_end_is_refused(data):
    assert cut_jpeg(data) is None


def test_end_of_a_thumbnail_is_not_the_end():
    """A picture that was cut off in its data still contains the whole thumbnail."""
    jpeg = picture(**exif_with(picture(quality=10)))
    assert jpeg.count(EOI) == 2
    assert cut_jpeg(jpeg + bytes(9)) == jpeg
    assert cut_jpeg(jpeg[:-2] + bytes(9)) is None


@pytest.mark.parametrize(
    "kind",
    [None, "", "image/jpeg", "IMAGE/JPEG; q=1", "image/jpg", "image/pjpeg", "image/*", "application/octet-stream",
     "binary/octet-stream", "jpeg", "application/x-camera"],
    ids=repr,
)  # fmt: skip
def test_content_type_of_picture_is_accepted(kind):
    assert other_content_type(kind) is None


@pytest.mark.parametrize(
    "kind",
    ["text/html", "Text/HTML; charset=utf-8", "text/plain", "application/json", "application/problem+json",
     "application/xhtml+xml", "image/png", "multipart/x-mixed-replace;boundary=x", "html", 7, ["image/jpeg"]],
    ids=repr,
)  # fmt: skip
def test_other_content_type_is_returned(kind):
    assert other_content_type(kind) == (kind if isinstance(kind, str) else "unknown")
