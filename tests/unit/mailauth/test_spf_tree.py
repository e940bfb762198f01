from typing import Any

from mailflow.mailauth.spf_tree import MAX_DEPTH, MAX_RECORDS, SpfTree, walk_record
from mailflow.testing import ZoneResolver


async def tree(record: str | list[str], **others: str) -> SpfTree:
    records = [record] if isinstance(record, str) else record
    zone: dict[str, Any] = {f"{name}.example.net": [{"TXT": text}] for name, text in others.items()}
    zone |= {"slow.example.net": ["TIMEOUT"], "example.com": [{"TXT": text} for text in records]}
    return await walk_record("Example.COM.", ZoneResolver(zone))


async def test_includes_and_the_redirect_are_children_in_order_and_their_terms_count() -> None:
    found = await tree(
        "v=spf1 a mx include:a.example.net ?include:b.example.net redirect=c.example.net",
        a="v=spf1 exists:x.example.net -all",
        b="v=spf1 ip4:192.0.2.1",
        c="v=spf1 include:a.example.net ~all",
    )
    assert [(child.domain, child.term, child.lookups) for child in found.children] == [
        ("a.example.net", "include:a.example.net", 1),
        ("b.example.net", "?include:b.example.net", 0),
        ("c.example.net", "redirect=c.example.net", 2),
    ]
    assert (found.domain, found.lookups, found.failure, found.problems) == ("example.com", 8, "", ())
    assert [node.domain for node in found.walk()][-1] == "a.example.net"


async def test_what_stands_behind_all_is_neither_followed_nor_counted() -> None:
    found = await tree("v=spf1 -all a include:a.example.net redirect=a.example.net", a="v=spf1 a -all")
    assert (found.children, found.lookups) == ((), 0)
    assert found.problems == ("terms behind -all are ignored (s5.1)", "redirect= beside -all is ignored (s5.1)")


async def test_ten_lookups_are_no_problem_and_eleven_are_one() -> None:
    assert (await tree("v=spf1" + " a" * 10 + " -all")).problems == ()
    assert (await tree("v=spf1" + " a" * 11 + " -all")).problems == ("11 terms need DNS, 10 are allowed",)


async def test_bad_habits_are_problems() -> None:
    assert (await tree("v=spf1 ptr -all")).problems[0].startswith("ptr should not")
    assert (await tree("v=spf1 exists:%{p}.example.net -all")).problems[0].startswith("%{p} should not")
    assert (await tree("v=spf1 +all")).problems == ("+all lets everyone send",)
    assert (await tree("v=spf1 a")).problems[0].startswith("neither all nor redirect=")


async def test_an_included_record_needs_no_all_and_one_redirected_to_does() -> None:
    assert (await tree("v=spf1 include:a.example.net -all", a="v=spf1 a")).children[0].problems == ()
    assert (await tree("v=spf1 redirect=a.example.net", a="v=spf1 a")).children[0].problems != ()


async def test_each_way_to_have_no_record_is_told_apart() -> None:
    found = await tree(
        "v=spf1 include:no.example.net include:slow.example.net include:%{d}.example.net include:bad.example.net"
        " include:example.com include:a..example.net -all",
        bad="v=spf1 moo",
    )
    assert [child.failure for child in found.children] == [
        "has no SPF record",
        "DNS gave no answer: timeout",
        "not followed: the name depends on the message",
        'syntax error: "moo" is no mechanism',
        "leads back to itself",
        "is no domain name of several labels",
    ]
    assert (await tree(["v=spf1 a", "v=spf1 mx"])).failure == "publishes 2 SPF records"
    assert (await walk_record("localhost", ZoneResolver({}))).failure == "is no domain name of several labels"


async def test_depth_and_number_are_bounded() -> None:
    chain = {f"n{n}.example.net": [{"TXT": f"v=spf1 include:n{n + 1}.example.net"}] for n in range(100)}
    found = await walk_record("n0.example.net", ZoneResolver(chain))
    nodes = list(found.walk())
    assert len(nodes) == MAX_DEPTH + 2
    assert nodes[-1].failure == "not followed: too many records"

    resolver = ZoneResolver(
        {f"n{n}.example.net": [{"TXT": "v=spf1" + f" include:n{n + 1}.example.net" * 3}] for n in range(9)}
    )
    await walk_record("n0.example.net", resolver)
    assert len(resolver.queries) == MAX_RECORDS
