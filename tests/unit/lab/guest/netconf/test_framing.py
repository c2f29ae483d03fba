"""NETCONF's framing, as the lab's routers do it: pieces come in any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_lab.guest.netconf.framing import END, Framing, FramingError

MESSAGES = st.lists(st.binary(min_size=1).filter(lambda message: END not in message + END[:-1]), max_size=4)


def take(framing: Framing, data: bytes, size: int) -> list[bytes]:
    return [message for start in range(0, len(data), size) for message in framing.feed(data[start : start + size])]


@given(MESSAGES, st.booleans(), st.integers(1, 40))
def test_messages_survive_in_pieces(messages: list[bytes], chunked: bool, size: int) -> None:
    sender, receiver = Framing(), Framing()
    sender.chunked = receiver.chunked = chunked

    assert take(receiver, b"".join(map(sender.frame, messages)), size) == messages


def test_a_message_may_have_several_chunks() -> None:
    framing = Framing()
    framing.chunked = True

    assert take(framing, b"\n#4\n<rpc\n#2\n/>\n##\n", 3) == [b"<rpc/>"]


def test_the_framing_changes_behind_the_hello_whatever_came_with_it() -> None:
    framing = Framing()
    messages = framing.feed(b"<hello/>]]>]]>\n#6\n<rpc/>\n##\n")

    assert next(messages) == b"<hello/>"
    framing.chunked = True
    assert list(messages) == [b"<rpc/>"]


@pytest.mark.parametrize("data", [b"<rpc/>]]>]]>", b"\n#0\n", b"\n#x\n", b"\n#12345678901\n", b"\n##<rpc/>       "])
def test_what_is_no_chunk_is_an_error(data: bytes) -> None:
    framing = Framing()
    framing.chunked = True

    with pytest.raises(FramingError):
        list(framing.feed(data))
