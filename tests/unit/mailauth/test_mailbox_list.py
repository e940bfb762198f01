"""The grammar of a From field: what it has, and that nothing beside it is read."""

import pytest

from mailflow.mailauth.mailbox_list import Mailbox, parse_mailbox_list


def addresses(text: str) -> list[str] | None:
    found = parse_mailbox_list(text)
    return None if found is None else [f"{mailbox.local}@{mailbox.domain}" for mailbox in found.mailboxes]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \t", []),
        ("a@b", ["a@b"]),
        (" a@b.c ", ["a@b.c"]),
        ("<a@b>", ["a@b"]),
        ("A <a@b>", ["a@b"]),
        ("A B.\tC. <a@b>", ["a@b"]),
        ('"A, B" <a@b>', ["a@b"]),
        ('A "B" C<a@b>', ["a@b"]),
        ('"a b"@c', ['"a b"@c']),
        ('"a\\"b"@c', ['"a\\"b"@c']),
        ('a."b".c@d', ['a."b".c@d']),
        ("a@[1.2.3.4]", ["a@[1.2.3.4]"]),
        ("a@[\\]]", ["a@[\\]]"]),
        ("a@b, c@d", ["a@b", "c@d"]),
        (",,a@b,,c@d,", ["a@b", "c@d"]),
        ("G:;", []),
        ("G: ,,;", []),
        ("G: a@b;", ["a@b"]),
        ("G H: a@b, C <c@d>;", ["a@b", "c@d"]),
        ("G: a@b;, c@d", ["a@b", "c@d"]),
        ("a@b, G: c@d;", ["a@b", "c@d"]),
        ("G: a@b;, H: c@d;", ["a@b", "c@d"]),
        ("<@r:a@b>", ["a@b"]),
        ("<@r.s,@[t]:a@b>", ["a@b"]),
        ("<,@r,,@s,:a@b>", ["a@b"]),
        ("a (x) @ (y) b . (z) c", ["a@b.c"]),
        ("(((x)))a@b(\\))(", None),
        ("(((x)))a@b(\\))()", ["a@b"]),
        ("ä <ä@ö.ü>", ["ä@ö.ü"]),
        ("\udcff <a@b>", ["a@b"]),
    ],
)
def test_field_that_is_the_grammar(text: str, found: list[str] | None) -> None:
    assert addresses(text) == found


@pytest.mark.parametrize(
    "text",
    [
        *("a", "A B", "@b", "a@", "a@b@c", "a@b c", "a b@c", "a@.b", "a@b.", "a@b..c", ".a@b", "a.@b", "a..b@c"),
        *("<>", "<a>", "<a@b", "a@b>", "<<a@b>>", "<a@b> c", "<a@b> <c@d>", "a@b <c@d>", "<a@b>c@d", ". <a@b>"),
        *("a@[b", "a@b]", "[a] <b@c>", "a[b]@c", "a@[b]c", "a@[b].c", "a@[[b]]"),
        *('"a@b', 'a"@b', 'a"b"@c', '"a" "b"@c', "(a@b", "a@b)", "a@b (", "a@b\\", "a\\@b"),
        *(
            "G:",
            "G: a@b",
            ": a@b;",
            "G: H: a@b;;",
            "G: a@b;;",
            "G:; a@b",
            "G: a@b; c@d",
            "a@b; c@d",
            "a@b;",
            "G <a@b>:;",
        ),
        *("<@r a@b>", "<@r:>", "<r:a@b>", "<@r,:@s:a@b>", "@r:a@b", "<:a@b>", "<,:a@b>"),
        *("a\x01 <b@c>", "a@b\x7f", "a@b\x0b", "a@b\n", "a@b\r"),
    ],
)
def test_what_is_not_the_grammar_is_not_read(text: str) -> None:
    assert parse_mailbox_list(text) is None


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("a@b", ()),
        ("A  B. C <a@b>", ("A  B. C",)),
        ('"A" <a@b>, c@d (D (e))', ('"A"', "D (e)")),
        ("G h: A <a@b>;", ("G h", "A")),
        ("=?x?q?a.b?= (c) d <a@b>", ("=?x?q?a.b?= (c) d", "c")),
    ],
)
def test_what_stands_beside_the_addresses_is_kept_as_written(text: str, texts: tuple[str, ...]) -> None:
    found = parse_mailbox_list(text)
    assert found is not None
    assert found.texts == texts


def test_comments_nest_as_deep_as_they_like() -> None:
    depth = 10_000
    found = parse_mailbox_list("(" * depth + ")" * depth + "a@b")
    assert found is not None
    assert found.mailboxes == (Mailbox("a", "b"),)
    assert parse_mailbox_list("(" * depth + ")" * (depth - 1) + "a@b") is None
