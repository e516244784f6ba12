"""Weights in `Accept-Encoding`."""

import pytest

from pi_orchestrator.http.negotiation import accepted_encodings


@pytest.mark.parametrize(
    "header, expected",
    [
        (None, ()),
        ("", ()),
        ("identity", ()),
        ("gzip", ("gzip",)),
        ("x-gzip", ("gzip",)),
        ("gzip, deflate, br", ("br", "gzip")),
        ("GZIP;Q=1, Br ; q=0.5", ("gzip", "br")),
        ("br;q=0.5, gzip;q=0.9", ("gzip", "br")),
        ("br;q=0, gzip", ("gzip",)),
        ("*", ("br", "gzip")),
        ("*;q=0", ()),
        ("br, *;q=0", ("br",)),
        ("gzip;q=0, *", ("br",)),
        ("identity, gzip;q=0.5", ()),
        ("identity;q=0.5, gzip;q=0.6", ("gzip",)),
        ("identity;q=0, gzip;q=0.001", ("gzip",)),
        ("gzip;q=nan, br;q=inf", ()),
        ("gzip;q=-1, br;q=2", ()),
        ("gzip;q=, br;q=x", ()),
        ("gzipped, brr, xgzip", ()),
        (",,;;q=1,=", ()),
        ("a," * 100 + "gzip", ()),
    ],
)
def test_accepted_encodings_are_ordered_by_weight(header, expected):
    assert accepted_encodings(header) == expected
