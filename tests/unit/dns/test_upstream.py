"""Upstreams and the wire below them, against servers on loopback that misbehave on cue."""

import asyncio
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest

from mailflow.dns.resolver import Answer, AnswerStatus, DnsFailure, DnsTemporary, RdType
from mailflow.dns.transport import Nameserver
from mailflow.dns.upstream import DEMOTED_S, Upstreams, parse_nameserver, system_nameservers
from mailflow.testing import FakeClock
from tests.servers import free_port
from tests.unit.dns.scripted_server import (
    Said,
    ScriptedServer,
    always,
    answer,
    failing,
    failure,
    serve,
    silence,
    to_wire,
)

FOUND = Answer(AnswerStatus.FOUND, (b"yes",), 60, "x.test")


def upstreams(*servers: ScriptedServer | str, try_timeout_s: float = 0.1, total_timeout_s: float = 1.0) -> Upstreams:
    addresses = [server if isinstance(server, str) else server.address for server in servers]
    return Upstreams(
        [parse_nameserver(address) for address in addresses],
        try_timeout_s=try_timeout_s,
        total_timeout_s=total_timeout_s,
    )


async def failure_of(asked: Upstreams) -> DnsFailure:
    with pytest.raises(DnsTemporary) as caught:
        await asked.ask("x.test", RdType.TXT)
    return caught.value.kind


@pytest.mark.parametrize(
    "first", [silence, failing(dns.rcode.SERVFAIL), failing(dns.rcode.REFUSED), failing(dns.rcode.NOTIMP)]
)
async def test_the_second_server_is_asked_when_the_first_fails(first: object) -> None:
    assert callable(first)
    async with serve(first) as bad, serve(always("yes")) as good:
        assert await upstreams(bad, good).ask("x.test", RdType.TXT) == FOUND
        assert len(bad.queries) == 1


async def test_a_closed_port_costs_no_timeout() -> None:
    async with serve(always("yes")) as good:
        asked = upstreams(f"127.0.0.1:{free_port()}", good, try_timeout_s=30, total_timeout_s=60)
        assert await asked.ask("x.test", RdType.TXT) == FOUND


@pytest.mark.parametrize(
    ("rcode", "kind"),
    [
        (dns.rcode.SERVFAIL, DnsFailure.SERVFAIL),
        (dns.rcode.REFUSED, DnsFailure.REFUSED),
        (dns.rcode.FORMERR, DnsFailure.OTHER),
    ],
)
async def test_error_codes_are_told_apart_and_not_asked_again(rcode: dns.rcode.Rcode, kind: DnsFailure) -> None:
    async with serve(failing(rcode)) as server:
        assert await failure_of(upstreams(server)) is kind
        assert len([query for query in server.queries if query.edns == 0]) == 1


async def test_a_closed_port_alone_is_unreachable() -> None:
    assert await failure_of(upstreams(f"127.0.0.1:{free_port()}")) is DnsFailure.UNREACHABLE


async def test_a_silent_server_is_asked_three_times() -> None:
    async with serve(silence) as server:
        assert await failure_of(upstreams(server, try_timeout_s=0.02)) is DnsFailure.TIMEOUT
        assert len(server.queries) == 3


async def test_what_a_server_said_outweighs_that_another_was_silent() -> None:
    async with serve(silence) as silent, serve(failing(dns.rcode.SERVFAIL)) as broken:
        assert await failure_of(upstreams(silent, broken, try_timeout_s=0.02)) is DnsFailure.SERVFAIL
        assert len(broken.queries) == 1


async def test_a_server_that_failed_is_asked_last_for_half_a_minute() -> None:
    clock = FakeClock()
    async with serve(silence) as first, serve(always("yes")) as second:
        servers = [parse_nameserver(first.address), parse_nameserver(second.address)]
        asked = Upstreams(servers, try_timeout_s=0.02, clock=clock)
        for name in ("a.test", "b.test", "c.test"):
            await asked.ask(name, RdType.TXT)
        assert len(first.queries) == 1
        first.script = always("yes")
        clock.advance(DEMOTED_S)
        await asked.ask("d.test", RdType.TXT)
        assert (len(first.queries), len(second.queries)) == (2, 3)


async def test_a_zone_that_fails_does_not_demote_the_server() -> None:
    async with serve(failing(dns.rcode.SERVFAIL)) as first, serve(always("yes")) as second:
        asked = upstreams(first, second)
        await asked.ask("a.test", RdType.TXT)
        await asked.ask("b.test", RdType.TXT)
        assert (len(first.queries), len(second.queries)) == (2, 2)


async def test_queries_vary_in_id_and_source_port() -> None:
    async with serve(always("yes")) as server:
        asked = upstreams(server)
        for number in range(20):
            await asked.ask(f"n{number}.test", RdType.TXT)
        assert len({query.id for query in server.queries}) > 15
        assert len(set(server.source_ports)) > 15


async def test_forged_replies_are_ignored_until_the_real_one_comes() -> None:
    async def forge(query: dns.message.Message) -> Said:
        forged = answer(query, "x.test. 60 IN TXT forged")
        wrong_id = to_wire(forged)
        wrong_id = bytes([wrong_id[0] ^ 1]) + wrong_id[1:]
        other = dns.message.make_query("y.test", "TXT")
        other.id = query.id
        return [
            wrong_id,
            answer(other, "x.test. 60 IN TXT forged"),
            b"",
            b"\0" * 600,
            query,
            answer(query, "x.test. 60 IN TXT yes"),
        ]

    async with serve(forge) as server:
        assert await upstreams(server, try_timeout_s=5).ask("x.test", RdType.TXT) == FOUND
        assert len(server.queries) == 1


async def test_a_reply_from_another_socket_is_not_heard() -> None:
    async def redirected(query: dns.message.Message) -> Said:
        # The right words from the wrong port, sent before the server itself answers.
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        forged = answer(query, "x.test. 60 IN TXT forged")
        transport.sendto(to_wire(forged), ("127.0.0.1", server.source_ports[-1]))
        transport.close()
        return [answer(query, "x.test. 60 IN TXT yes")]

    async with serve(redirected) as server:
        assert await upstreams(server, try_timeout_s=5).ask("x.test", RdType.TXT) == FOUND


async def test_a_malformed_reply_is_a_failure_and_the_next_server_is_asked() -> None:
    async def garble(query: dns.message.Message) -> Said:
        return [to_wire(answer(query, "x.test. 60 IN TXT forged"))[:-15] + b"\xff"]

    async with serve(garble) as bad, serve(always("yes")) as good:
        assert await failure_of(upstreams(bad)) is DnsFailure.MALFORMED
        assert await upstreams(bad, good).ask("x.test", RdType.TXT) == FOUND


async def truncate(query: dns.message.Message) -> Said:
    return [answer(query, flags=dns.flags.TC)]


async def test_a_truncated_reply_is_asked_for_again_over_tcp() -> None:
    async with serve(truncate, always("yes")) as server:
        assert await upstreams(server).ask("x.test", RdType.TXT) == FOUND
        assert (len(server.queries), len(server.tcp_queries)) == (1, 1)


async def wrong_id(query: dns.message.Message) -> Said:
    return [b"\0\0" + to_wire(answer(query))[2:]]


async def cut_short(query: dns.message.Message) -> Said:
    return [b""]


async def hang(query: dns.message.Message) -> Said:
    await asyncio.get_running_loop().create_future()
    return []


@pytest.mark.parametrize(
    ("tcp_script", "kind"),
    [
        (wrong_id, DnsFailure.MALFORMED),
        (cut_short, DnsFailure.MALFORMED),
        (silence, DnsFailure.MALFORMED),
        (truncate, DnsFailure.MALFORMED),
    ],
)
async def test_nonsense_over_tcp_is_malformed(tcp_script: object, kind: DnsFailure) -> None:
    assert callable(tcp_script)
    async with serve(truncate, tcp_script) as server:
        assert await failure_of(upstreams(server)) is kind


async def test_silence_over_tcp_is_a_timeout() -> None:
    async with serve(truncate, hang) as server:
        assert await failure_of(upstreams(server, try_timeout_s=0.05, total_timeout_s=0.1)) is DnsFailure.TIMEOUT


async def test_a_server_that_does_not_know_edns_is_asked_without() -> None:
    async def old(query: dns.message.Message) -> Said:
        if query.edns >= 0:
            return [failure(query, dns.rcode.FORMERR)]
        return [answer(query, "x.test. 60 IN TXT yes")]

    async with serve(old) as server:
        assert await upstreams(server).ask("x.test", RdType.TXT) == FOUND


async def test_a_chain_the_server_did_not_follow_is_followed() -> None:
    async def one_step(query: dns.message.Message) -> Said:
        if query.question[0].name.to_text() == "x.test.":
            return [answer(query, "x.test. 5 IN CNAME y.test.", flags=dns.flags.AD)]
        return [answer(query, "y.test. 60 IN TXT yes")]

    async with serve(one_step) as server:
        followed = await upstreams(server).ask("x.test", RdType.TXT)
    assert followed == Answer(AnswerStatus.FOUND, (b"yes",), 5, "y.test", is_authenticated=False)


async def test_a_chain_without_end_is_a_failure() -> None:
    async def onward(query: dns.message.Message) -> Said:
        name = query.question[0].name.to_text()
        return [answer(query, f"{name} 5 IN CNAME n{len(server.queries)}.test.")]

    async with serve(onward) as server:
        assert await failure_of(upstreams(server)) is DnsFailure.MALFORMED
        assert len(server.queries) == 9


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.53:5353", Nameserver("192.0.2.53", 5353)),
        ("192.0.2.53", Nameserver("192.0.2.53", 53)),
        ("[2001:db8::53]:5353", Nameserver("2001:db8::53", 5353)),
        ("[2001:db8::53]", Nameserver("2001:db8::53", 53)),
        ("2001:db8::53", Nameserver("2001:db8::53", 53)),
    ],
)
def test_a_nameserver_is_an_address_with_or_without_port(text: str, server: Nameserver) -> None:
    assert parse_nameserver(text) == server


@pytest.mark.parametrize(
    "text",
    ["", "dns.example:53", "192.0.2.53:", "192.0.2.53:0", "192.0.2.53:65536", "[::1", "[::1]53", "::1:53:x", "1:²"],
)
def test_what_is_no_nameserver_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_nameserver(text)


def test_the_systems_servers_come_from_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# a comment\nsearch ns.svc.cluster.local\nnameserver 192.0.2.1\nnameserver\nnameserver not-an-address\n"
        "options ndots:5\nnameserver fe80::1%lo\n"
    )
    assert system_nameservers(path) == [Nameserver("192.0.2.1", 53), Nameserver("fe80::1%lo", 53)]


def test_without_resolv_conf_the_machine_itself_is_asked(tmp_path: Path) -> None:
    assert system_nameservers(tmp_path / "absent") == [Nameserver("127.0.0.1", 53)]
