"""PROXY v1 and v2: exactly a header, in any pieces, or a fault."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.proxy_header import (
    MAX_V2_OCTETS,
    SIGNATURE,
    BadProxyHeader,
    ProxyHeader,
    count_header_octets,
    parse_proxy_header,
)


def v2(source: str = "192.0.2.7", port: int = 4567, *, command: int = 1, tlvs: bytes = b"", first: int = 2) -> bytes:
    address = ip_address(source)
    family = 0x11 if address.version == 4 else 0x21
    addresses = address.packed + ip_address("::1" if address.version == 6 else "127.0.0.1").packed
    body = addresses + struct.pack("!HH", port, 25) + tlvs
    return SIGNATURE + bytes([first << 4 | command, family]) + struct.pack("!H", len(body)) + body


GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 4567 25\r\n", ("192.0.2.7", 4567)),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 4567 25\r\n", ("2001:db8::7", 4567)),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 25\r\n", ("192.0.2.7", 1)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (v2(), ("192.0.2.7", 4567)),
    (v2("2001:db8::7"), ("2001:db8::7", 4567)),
    (v2("::ffff:192.0.2.7"), ("192.0.2.7", 4567)),
    (v2(tlvs=b"\x04\x00\x02ab"), ("192.0.2.7", 4567)),
    (v2(command=0), None),
    (SIGNATURE + b"\x20\x00\x00\x00", None),
    (SIGNATURE + b"\x21\x00\x00\x00", None),
    (SIGNATURE + b"\x21\x31" + struct.pack("!H", 216) + bytes(216), None),
]
BAD = [
    b"EHLO client.example\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4567 25\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4567\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4567 25 \r\n",
    b"PROXY TCP4 192.0.2.07 198.51.100.1 4567 25\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 4567 25\r\n",
    b"PROXY TCP6 192.0.2.7 192.0.2.8 4567 25\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 4567 25\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 25\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 0045 25\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 25\r\n",
    b"PROXY tcp4 192.0.2.7 198.51.100.1 4567 25\r\n",
    b"PROXY  TCP4 192.0.2.7 198.51.100.1 4567 25\r\n",
    b"PROXY \r\n",
    b"PROXY " + b"x" * 200,
    v2(first=1),
    v2(command=2),
    SIGNATURE + b"\x21\x41\x00\x00",
    SIGNATURE + b"\x21\x12\x00\x0c" + bytes(12),
    SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
    SIGNATURE + b"\x21\x21\x00\x0c" + bytes(12),
    SIGNATURE + b"\x21\x11\xff\xff" + bytes(12),
    SIGNATURE[:11] + b"X",
]


@pytest.mark.parametrize(("data", "source"), GOOD)
def test_a_header_is_taken_whatever_follows_it(data: bytes, source: tuple[str, int] | None) -> None:
    assert parse_proxy_header(data) == ProxyHeader(len(data), source)
    assert parse_proxy_header(data + b"EHLO a\r\n") == ProxyHeader(len(data), source)


@pytest.mark.parametrize(("data", "source"), GOOD)
def test_every_beginning_of_a_header_wants_more_and_belongs_to_it(data: bytes, source: object) -> None:
    for size in range(1, len(data)):
        assert parse_proxy_header(data[:size]) is None
        assert count_header_octets(data[:size]) == size


@pytest.mark.parametrize("data", BAD)
def test_anything_else_is_a_fault(data: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        parse_proxy_header(data)


@given(
    st.one_of(st.binary(min_size=1), st.binary().map(lambda b: SIGNATURE + b), st.binary().map(lambda b: b"PROXY " + b))
)
def test_whatever_comes_is_a_header_a_beginning_or_a_fault(data: bytes) -> None:
    try:
        header = parse_proxy_header(data)
    except BadProxyHeader:
        return
    if header is None:
        assert len(data) < MAX_V2_OCTETS
        assert count_header_octets(data) == len(data)
    else:
        assert header.size_bytes <= len(data)
