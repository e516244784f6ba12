"""Assembly of a picture from messages in any order, and messages and data that are refused."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.byte_budget import ByteBudget
from pi_orchestrator.core.errors import CaptureError
from pi_orchestrator.features.captures import model as capture
from pi_orchestrator.features.captures.model import ACK_S, LATE_S, MAX_CHUNKS, STALL_S, Assembly, Chunk, parse_answer
from pi_orchestrator.features.commands.model import Phase
from pi_orchestrator.net.jpeg import MAX_IMAGE_BYTES

BUDGET_BYTES = 64 * 1024 * 1024
SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def message(phase, **fields):
    return phase, json.dumps({"request_id": "r1"} | fields).encode()


def picture_messages(jpeg, size):
    """Ack, info, chunks and complete, as a camera sends them."""
    pieces = [jpeg[start : start + size] for start in range(0, len(jpeg), size)]
    chunks = [
        message(Phase.CHUNK, chunk_index=index, chunk_data=base64.b64encode(piece).decode())
        for index, piece in enumerate(pieces)
    ]
    info = message(Phase.INFO, success=True, total_size=len(jpeg), total_chunks=len(pieces), content_type="image/jpeg")
    end = message(Phase.COMPLETE, success=True, status="complete", chunks_sent=len(pieces), total_chunks=len(pieces))
    return [message(Phase.ACK, status="in_progress"), info, *chunks, end]


def assembled(messages, *, budget=None, now=0.0):
    assembly = Assembly(budget=budget or ByteBudget(BUDGET_BYTES, retry_after_s=30.0), now=now)
    feed(assembly, messages)
    return assembly


def feed(assembly, messages, *, now=0.0):
    for phase, payload in messages:
        assembly.take(parse_answer(phase, payload).content, now=now)


jpegs = st.binary(min_size=1, max_size=400).map(lambda inside: SOI + inside + EOI)


@given(jpegs, st.integers(1, 50), st.data())
def test_messages_in_any_order_give_the_same_picture(jpeg, size, data):
    budget = ByteBudget(BUDGET_BYTES, retry_after_s=30.0)
    messages = picture_messages(jpeg, size)
    order = data.draw(st.permutations(messages)) + data.draw(st.lists(st.sampled_from(messages), max_size=5))
    assembly = assembled(order, budget=budget)
    assert assembly.is_complete
    assert budget.used == len(jpeg)
    assert assembly.picture() == jpeg
    assembly.discard()
    assert budget.used == 0


@given(jpegs, st.integers(1, 50), st.data())
def test_missing_chunk_times_out(jpeg, size, data):
    ack, info, *chunks, end = picture_messages(jpeg, size)
    chunks.remove(data.draw(st.sampled_from(chunks)))
    assembly = assembled(data.draw(st.permutations([ack, info, *chunks, end])))
    assert not assembly.is_complete
    assert assembly.deadline == LATE_S
    assert assembly.timeout_error().code == "CAPTURE_FAILED"
    assert "are missing" in assembly.timeout_error().message


@given(jpegs, st.integers(1, 50), st.data())
def test_budget_is_released_after_any_result(jpeg, size, data):
    budget = ByteBudget(data.draw(st.integers(0, 500)), retry_after_s=30.0)
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
    ).map(lambda fields: json.dumps(fields).encode()),
)
def test_any_message_is_parsed_or_refused(phase, payload):
    answer = parse_answer(phase, payload)
    if isinstance(answer.content, CaptureError):
        assert answer.content.message.isprintable()
        assert len(answer.content.message) < 400


JPEG = SOI + bytes(range(200)) + EOI


def changed(index, **fields):
    """The messages of a picture of two chunks, one of them changed; fields that are None are removed."""
    messages = picture_messages(JPEG, 150)
    phase, payload = messages[index]
    body = json.loads(payload) | fields
    messages[index] = phase, json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    return messages


INFO, FIRST, SECOND, END = 1, 2, 3, 4


@pytest.mark.parametrize(
    "messages, reason",
    [
        (changed(INFO, total_size=MAX_IMAGE_BYTES + 1), "total_size is 8388609, expected 1 to 8388608 bytes"),
        (changed(INFO, total_size=0), "total_size is 0, expected 1 to 8388608 bytes"),
        (changed(INFO, total_size=-5), "total_size is -5,"),
        (changed(INFO, total_size="204"), "total_size is missing"),
        (changed(INFO, total_size=True), "total_size is missing"),
        (changed(INFO, total_size=10**400), "total_size is too large"),
        (changed(INFO, total_chunks=MAX_CHUNKS + 1), "total_chunks is 4097, expected 1 to 4096"),
        (changed(INFO, total_chunks=None), "total_chunks is missing"),
        (changed(INFO, total_chunks=1), "the picture has 150 bytes, 204 were announced"),
        (changed(INFO, total_size=100), "the picture has 150 bytes, 100 were announced"),
        (changed(INFO, total_size=205), "the picture has 204 bytes, 205 were announced"),
        (changed(INFO, content_type="image/png"), "content_type is image/png, expected image/jpeg"),
        (changed(INFO, content_type=7), "content_type is unknown, expected image/jpeg"),
        (changed(INFO, success=False, error="no frame"), "could not take a picture: no frame"),
        (changed(FIRST, chunk_index=-1), "chunk_index is not a number from 0 to 4095"),
        (changed(FIRST, chunk_index=MAX_CHUNKS), "chunk_index is not"),
        (changed(FIRST, chunk_index="0"), "chunk_index is not"),
        (changed(FIRST, chunk_index=0.0), "chunk_index is not"),
        (changed(FIRST, chunk_index=None), "chunk_index is not"),
        (changed(FIRST, chunk_index=2), "chunk 2 is out of range: 2 chunks were announced"),
        (changed(FIRST, chunk_data=None), "chunk_data is missing"),
        (changed(FIRST, chunk_data=[1]), "chunk_data is missing"),
        (changed(FIRST, chunk_data="no base64!"), "not base64"),
        (changed(FIRST, chunk_data="AAA"), "not base64"),
        (changed(FIRST, chunk_data="ÄÖÜ"), "not base64"),
        (changed(SECOND, chunk_index=0), "chunk 0 was received twice with different data"),
        (changed(END, success=False, error="out of memory"), "out of memory"),
        ([*changed(INFO)[:2], changed(INFO, total_size=300)[1]], "announced two different pictures"),
        ([changed(END, chunks_sent=1)[END], *changed(INFO)], "the camera sent 1 chunks, 2 were announced"),
        ([changed(END, total_chunks=3)[END], *changed(INFO)], "the camera sent 3 chunks, 2 were announced"),
        ([*changed(END)[END:], changed(END, chunks_sent=9)[END]], "two different complete messages"),
        ([(Phase.ACK, b"{")], "invalid ack from the camera: not JSON"),
        ([(Phase.ACK, b"[]")], "not a JSON object"),
        ([(Phase.ANSWER, b"\xff")], "invalid answer from the camera: not UTF-8"),
        ([(Phase.INFO, b'{"pad":"' + b"a" * 20_000 + b'"}')], "over the limit of 16384"),
    ],
)  # fmt: skip
def test_invalid_message_ends_the_capture(messages, reason):
    with pytest.raises(CaptureError) as caught:
        assembled(messages)
    assert reason in caught.value.message
    assert caught.value.code == "CAPTURE_FAILED"
    if caught.value.final:
        assert "could not take" in caught.value.message, "only the camera's own failure is final"


@pytest.mark.parametrize("jpeg", [b"\xff\xd8\xff\xd9", b"\x89PNG" + EOI, SOI + b"no end", b"x" + EOI + b"\0"], ids=repr)
def test_picture_that_is_not_a_jpeg_is_refused(jpeg):
    with pytest.raises(CaptureError, match="not a JPEG"):
        assembled(picture_messages(jpeg, 3)).picture()


@pytest.mark.parametrize("padding", [b"\0", bytes(512), b"\r\n", b"\xff\x00old frame", bytes(8192)], ids=len)
def test_padding_after_the_picture_is_cut_off(padding):
    budget = ByteBudget(BUDGET_BYTES, retry_after_s=30.0)
    jpeg = SOI + b"picture" + EOI
    assert assembled(picture_messages(jpeg + padding, 500), budget=budget).picture() == jpeg
    assert budget.used == 0


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "image/jpg", "image/pjpeg", "jpeg", ""], ids=repr)
def test_unspecific_content_type_of_a_jpeg_is_accepted(kind):
    messages = picture_messages(SOI + b"picture" + EOI, 500)
    messages[1] = message(Phase.INFO, total_size=11, total_chunks=1, content_type=kind)
    assert assembled(messages).picture() == SOI + b"picture" + EOI


def test_error_of_the_camera_is_bounded():
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
def test_error_is_accepted_on_both_topics(phase):
    error = parse_answer(phase, message(phase, success=False, status="error", error="busy")[1]).content
    assert "busy" in error.message


def test_unsupported_command_is_not_final():
    error = parse_answer(Phase.ERROR, message(Phase.ERROR, error="?", error_code="UNSUPPORTED_COMMAND")[1]).content
    assert not error.final


def test_answer_has_sender_names_and_request_id():
    answer = parse_answer(*message(Phase.ACK, device_id="espcam-1", mac="24:6F:28:00:00:10", mac_address=5))
    assert (answer.names, answer.request_id) == (("espcam-1", "24:6F:28:00:00:10"), "r1")
    invalid = parse_answer(*message(Phase.CHUNK, device_id="espcam-2", chunk_index="x"))
    assert invalid.names == ("espcam-2",), "an invalid message can be assigned to its sender"


def test_deadline_depends_on_the_last_progress():
    ack, info, first, second, end = picture_messages(JPEG, 150)
    assembly = Assembly(budget=ByteBudget(BUDGET_BYTES, retry_after_s=30.0), now=100.0)
    assert assembly.deadline == 100 + ACK_S
    assert assembly.timeout_error().code == "CAPTURE_TIMEOUT"
    feed(assembly, [ack], now=104)
    assert assembly.deadline == 104 + STALL_S
    feed(assembly, [ack], now=110)
    assert assembly.deadline == 104 + STALL_S, "a repeat is no progress"
    feed(assembly, [info, first], now=112)
    feed(assembly, [first, info, ack], now=118)
    assert assembly.deadline == 112 + STALL_S
    assert assembly.timeout_error().code == "CAPTURE_TIMEOUT"
    assert "after 1 chunks" in assembly.timeout_error().message
    feed(assembly, [end], now=120)
    assert assembly.deadline == 120 + LATE_S
    feed(assembly, [second], now=121)
    assert assembly.picture() == JPEG


def test_complete_without_info_keeps_the_deadline():
    assembly = assembled([picture_messages(JPEG, 150)[END]], now=5.0)
    assert assembly.deadline == STALL_S


def test_picture_size_limit_is_exact():
    inside = bytes(MAX_IMAGE_BYTES - 4)
    largest = SOI + inside + EOI
    assembly = assembled(picture_messages(largest, MAX_IMAGE_BYTES // MAX_CHUNKS))
    assert assembly.picture() == largest
    assembly = Assembly(budget=ByteBudget(2 * MAX_IMAGE_BYTES, retry_after_s=30.0), now=0.0)
    assembly.take(Chunk(0, largest), now=0.0)
    with pytest.raises(CaptureError, match="over 8388608 bytes"):
        assembly.take(Chunk(1, b"x"), now=0.0)


def test_long_chunk_is_decoded_in_pieces(monkeypatch):
    for size in (59, 60, 61, 119, 120, 121, 180):
        data = bytes(range(size))
        text = base64.b64encode(data).decode()
        monkeypatch.setattr(capture, "DECODE_PIECE_CHARS", 80)  # 60 bytes
        assert parse_answer(*message(Phase.CHUNK, chunk_index=0, chunk_data=text)).content == Chunk(0, data)
    invalid = "A" * 78 + "==" + "A" * 40
    assert "not base64" in parse_answer(*message(Phase.CHUNK, chunk_index=0, chunk_data=invalid)).content.message


def test_budget_is_shared_by_all_captures():
    budget = ByteBudget(1000, retry_after_s=30.0)
    first, second = Assembly(budget=budget, now=0.0), Assembly(budget=budget, now=0.0)
    first.take(Chunk(0, bytes(600)), now=0.0)
    with pytest.raises(CaptureError, match="too many large pictures"):
        second.take(Chunk(0, bytes(600)), now=0.0)
    first.discard()
    second.take(Chunk(0, bytes(600)), now=0.0)
    assert budget.used == 600
