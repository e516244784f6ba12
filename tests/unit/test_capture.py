"""A picture put together from messages in any order, and everything that is no picture."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.domain import capture
from pi_orchestrator.domain.capture import (
    ACK_S,
    LATE_S,
    MAX_CHUNKS,
    MAX_IMAGE_BYTES,
    STALL_S,
    Assembly,
    Budget,
    Chunk,
    is_jpeg,
    parse_answer,
)
from pi_orchestrator.domain.command import Phase
from pi_orchestrator.errors import CaptureError

LIMIT = 64 * 1024 * 1024
SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def message(phase, **fields):
    return phase, json.dumps({"request_id": "r1"} | fields).encode()


def picture_messages(jpeg, size):
    """Info, chunks and the end, as a camera sends them."""
    pieces = [jpeg[at : at + size] for at in range(0, len(jpeg), size)]
    chunks = [
        message(Phase.CHUNK, chunk_index=index, chunk_data=base64.b64encode(piece).decode())
        for index, piece in enumerate(pieces)
    ]
    info = message(Phase.INFO, success=True, total_size=len(jpeg), total_chunks=len(pieces), content_type="image/jpeg")
    end = message(Phase.COMPLETE, success=True, status="complete", chunks_sent=len(pieces), total_chunks=len(pieces))
    return [message(Phase.ACK, status="in_progress"), info, *chunks, end]


def assembled(messages, *, budget=None, now=0.0):
    assembly = Assembly(budget=budget or Budget(LIMIT), now=now)
    feed(assembly, messages)
    return assembly


def feed(assembly, messages, *, now=0.0):
    for phase, payload in messages:
        assembly.take(parse_answer(phase, payload).content, now=now)


jpegs = st.binary(min_size=1, max_size=400).map(lambda inside: SOI + inside + EOI)


@given(jpegs, st.integers(1, 50), st.data())
def test_any_order_and_any_repeats_give_the_same_picture(jpeg, size, data):
    budget = Budget(LIMIT)
    messages = picture_messages(jpeg, size)
    order = data.draw(st.permutations(messages)) + data.draw(st.lists(st.sampled_from(messages), max_size=5))
    assembly = assembled(order, budget=budget)
    assert assembly.whole
    assert budget.used == len(jpeg)
    assert assembly.picture() == jpeg
    assembly.discard()
    assert budget.used == 0


@given(jpegs, st.integers(1, 50), st.data())
def test_without_one_chunk_there_is_no_picture(jpeg, size, data):
    ack, info, *chunks, end = picture_messages(jpeg, size)
    chunks.remove(data.draw(st.sampled_from(chunks)))
    assembly = assembled(data.draw(st.permutations([ack, info, *chunks, end])))
    assert not assembly.whole
    assert assembly.due == LATE_S
    assert assembly.overdue().code == "CAPTURE_FAILED"
    assert "are missing" in assembly.overdue().message


@given(jpegs, st.integers(1, 50), st.data())
def test_whatever_is_taken_is_given_back(jpeg, size, data):
    """However far it came and whatever it failed of."""
    budget = Budget(data.draw(st.integers(0, 500)))
    assembly = Assembly(budget=budget, now=0.0)
    noise = st.builds(message, st.sampled_from(Phase), chunk_index=st.integers(-1, 9), chunk_data=st.just("AAAA"))
    messages = data.draw(st.permutations(picture_messages(jpeg, size))) + data.draw(st.lists(noise, max_size=3))
    try:
        feed(assembly, messages)
        assembly.picture()
    except (CaptureError, KeyError):
        assert budget.used <= budget.limit
    assembly.discard()
    assembly.discard()
    assert budget.used == 0


@given(
    st.sampled_from(Phase),
    st.binary(max_size=200)
    | st.dictionaries(
        st.text(max_size=12), st.integers() | st.text(max_size=9) | st.none() | st.lists(st.none(), max_size=2)
    ).map(lambda one: json.dumps(one).encode()),
)
def test_every_message_is_read_or_named_as_bad(phase, payload):
    answer = parse_answer(phase, payload)
    if isinstance(answer.content, CaptureError):
        assert answer.content.message.isprintable()
        assert len(answer.content.message) < 400


JPEG = SOI + bytes(range(200)) + EOI


def changed(at, **fields):
    """The messages of a picture of two chunks, one of them changed; fields that are None are left out."""
    messages = picture_messages(JPEG, 150)
    phase, payload = messages[at]
    body = json.loads(payload) | fields
    messages[at] = phase, json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    return messages


INFO, FIRST, SECOND, END = 1, 2, 3, 4


@pytest.mark.parametrize(
    "messages, said",
    [
        (changed(INFO, total_size=MAX_IMAGE_BYTES + 1), "without a total_size up to 8388608 bytes (it says 8388609)"),
        (changed(INFO, total_size=0), "without a total_size"),
        (changed(INFO, total_size=-5), "it says -5"),
        (changed(INFO, total_size="204"), "it says nothing"),
        (changed(INFO, total_size=True), "it says nothing"),
        (changed(INFO, total_size=10**400), "it says a huge number"),
        (changed(INFO, total_chunks=MAX_CHUNKS + 1), "without total_chunks up to 4096 (it says 4097)"),
        (changed(INFO, total_chunks=None), "without total_chunks"),
        (changed(INFO, total_chunks=1), "the picture has 150 bytes, 204 were announced"),
        (changed(INFO, total_size=100), "the picture has 150 bytes, 100 were announced"),
        (changed(INFO, total_size=205), "the picture has 204 bytes, 205 were announced"),
        (changed(INFO, content_type="image/png"), "about image/png, not about image/jpeg"),
        (changed(INFO, content_type=7), "about something, not about image/jpeg"),
        (changed(INFO, success=False, error="no frame"), "could not take a picture: no frame"),
        (changed(FIRST, chunk_index=-1), "without a chunk_index from 0 to 4095"),
        (changed(FIRST, chunk_index=MAX_CHUNKS), "without a chunk_index"),
        (changed(FIRST, chunk_index="0"), "without a chunk_index"),
        (changed(FIRST, chunk_index=0.0), "without a chunk_index"),
        (changed(FIRST, chunk_index=None), "without a chunk_index"),
        (changed(FIRST, chunk_index=2), "chunk 2 of a picture of 2 chunks"),
        (changed(FIRST, chunk_data=None), "without chunk_data"),
        (changed(FIRST, chunk_data=[1]), "without chunk_data"),
        (changed(FIRST, chunk_data="no base64!"), "not base64"),
        (changed(FIRST, chunk_data="AAA"), "not base64"),
        (changed(FIRST, chunk_data="ÄÖÜ"), "not base64"),
        (changed(SECOND, chunk_index=0), "chunk 0 came twice and was not the same"),
        (changed(END, success=False, error="out of memory"), "out of memory"),
        ([*changed(INFO)[:2], changed(INFO, total_size=300)[1]], "announced two different pictures"),
        ([changed(END, chunks_sent=1)[END], *changed(INFO)], "ended with 1 chunks, 2 were announced"),
        ([changed(END, total_chunks=3)[END], *changed(INFO)], "ended with 3 chunks, 2 were announced"),
        ([*changed(END)[END:], changed(END, chunks_sent=9)[END]], "ended the picture twice, differently"),
        ([(Phase.ACK, b"{")], "the camera's ack is not JSON"),
        ([(Phase.ACK, b"[]")], "not a JSON object"),
        ([(Phase.ANSWER, b"\xff")], "the camera's answer is not UTF-8"),
        ([(Phase.INFO, b'{"pad":"' + b"a" * 20_000 + b'"}')], "over the limit of 16384"),
    ],
)  # fmt: skip
def test_what_does_not_fit_ends_the_capture_and_says_why(messages, said):
    with pytest.raises(CaptureError) as caught:
        assembled(messages)
    assert said in caught.value.message
    assert caught.value.code == "CAPTURE_FAILED"
    assert not caught.value.final or "could not take" in caught.value.message


@pytest.mark.parametrize(
    "jpeg", [b"\xff\xd8\xff\xd9", b"\x89PNG" + EOI, SOI + b"no end", b"", SOI + b"x" + EOI + b"\0"], ids=repr
)
def test_bytes_that_are_no_jpeg_are_no_picture(jpeg):
    assert not is_jpeg(jpeg)
    if jpeg:
        with pytest.raises(CaptureError, match="no JPEG"):
            assembled(picture_messages(jpeg, 3)).picture()


def test_a_camera_says_what_is_wrong_within_bounds_and_how_long_to_wait():
    (_, payload) = message(
        Phase.ERROR,
        success=False,
        status="error",
        error="frame\x1b[2J " + "x" * 500,
        error_code="CAM_TIMEOUT",
        retry_after_ms=2500,
        diagnostics={"free_heap_bytes": 1234, "camera_error_code": "0x20001\n", "consecutive_failures": 3, "a": "b"},
    )
    error = parse_answer(Phase.ERROR, payload).content
    assert error.message.startswith("the camera could not take a picture: frame[2J xxx")
    assert error.message.endswith("(CAM_TIMEOUT)")
    assert len(error.message) < 250
    assert error.details == "free_heap_bytes 1234, camera_error_code 0x20001, consecutive_failures 3"
    assert error.retry_after_s == 2.5
    assert error.final


@pytest.mark.parametrize("phase", [Phase.ANSWER, Phase.ERROR])
def test_an_error_may_come_by_the_bare_topic_too(phase):
    error = parse_answer(phase, message(phase, success=False, status="error", error="busy")[1]).content
    assert "busy" in error.message


def test_firmware_that_does_not_know_the_command_may_have_another_way():
    error = parse_answer(Phase.ERROR, message(Phase.ERROR, error="?", error_code="UNSUPPORTED_COMMAND")[1]).content
    assert not error.final


def test_who_speaks_and_of_what_is_told_with_the_content():
    answer = parse_answer(*message(Phase.ACK, device_id="espcam-1", mac="24:6F:28:00:00:10", mac_address=5))
    assert (answer.names, answer.request_id) == (("espcam-1", "24:6F:28:00:00:10"), "r1")
    broken = parse_answer(*message(Phase.CHUNK, device_id="espcam-2", chunk_index="x"))
    assert broken.names == ("espcam-2",), "a bad message of another camera is not held against this one"


def test_patience_ends_sooner_before_the_first_word_and_after_the_last():
    ack, info, first, second, end = picture_messages(JPEG, 150)
    assembly = Assembly(budget=Budget(LIMIT), now=100.0)
    assert assembly.due == 100 + ACK_S
    assert assembly.overdue().code == "CAPTURE_TIMEOUT"
    feed(assembly, [ack], now=104)
    assert assembly.due == 104 + STALL_S
    feed(assembly, [ack], now=110)
    assert assembly.due == 104 + STALL_S, "a repeat is no progress"
    feed(assembly, [info, first], now=112)
    feed(assembly, [first, info, ack], now=118)
    assert assembly.due == 112 + STALL_S
    assert (assembly.overdue().code, "after 1 chunks" in assembly.overdue().message) == ("CAPTURE_TIMEOUT", True)
    feed(assembly, [end], now=120)
    assert assembly.due == 120 + LATE_S
    feed(assembly, [second], now=121)
    assert assembly.picture() == JPEG


def test_the_end_alone_does_not_hurry_what_has_not_been_announced():
    assembly = assembled([picture_messages(JPEG, 150)[END]], now=5.0)
    assert assembly.due == STALL_S


def test_the_largest_picture_in_the_most_chunks_is_good_and_a_byte_more_is_not():
    inside = bytes(MAX_IMAGE_BYTES - 4)
    largest = SOI + inside + EOI
    assembly = assembled(picture_messages(largest, MAX_IMAGE_BYTES // MAX_CHUNKS))
    assert assembly.picture() == largest
    assembly = Assembly(budget=Budget(2 * MAX_IMAGE_BYTES), now=0.0)
    assembly.take(Chunk(0, largest), now=0.0)
    with pytest.raises(CaptureError, match="over 8388608 bytes"):
        assembly.take(Chunk(1, b"x"), now=0.0)


def test_one_long_chunk_is_decoded_piece_by_piece_to_the_same_bytes(monkeypatch):
    for size in (59, 60, 61, 119, 120, 121, 180):
        data = bytes(range(size))
        text = base64.b64encode(data).decode()
        monkeypatch.setattr(capture, "DECODED_AT_ONCE", 80)
        assert parse_answer(*message(Phase.CHUNK, chunk_index=0, chunk_data=text)).content == Chunk(0, data)
    broken = "A" * 78 + "==" + "A" * 40
    assert "not base64" in parse_answer(*message(Phase.CHUNK, chunk_index=0, chunk_data=broken)).content.message


def test_what_all_captures_hold_together_is_bounded():
    budget = Budget(1000)
    one, other = Assembly(budget=budget, now=0.0), Assembly(budget=budget, now=0.0)
    one.take(Chunk(0, bytes(600)), now=0.0)
    with pytest.raises(CaptureError, match="too many large pictures"):
        other.take(Chunk(0, bytes(600)), now=0.0)
    one.discard()
    other.take(Chunk(0, bytes(600)), now=0.0)
    assert budget.used == 600
