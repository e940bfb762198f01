"""A strict reader of Authentication-Results: the grammar of RFC 8601 s2.2 and no more, sharing nothing with ours."""

import re
from dataclasses import dataclass

TOKEN = re.compile(r"[^\x00-\x20\x7f-\U0010ffff()<>@,;:\\\"/\[\]?=]+")
QUOTED = re.compile(r'"((?:[\x21\x23-\x5b\x5d-\x7e \t]|\\[\x20-\x7e\t])*)"')
KEYWORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
DOT_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
DOMAIN = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+"
ADDRESS = re.compile(rf"(?:{DOT_ATOM})?@{DOMAIN}")
END_OF_WORD = re.compile(r"[ \t(;]|\Z")


@dataclass(frozen=True)
class Result:
    method: str
    result: str
    reason: str | None
    properties: tuple[tuple[str, str], ...]


def unfold(field: bytes) -> str:
    """Check the field's octets and lines (RFC 5322 s2.1.1, s2.2.3), and take its folds out."""
    text = field.decode("ascii")
    assert text.endswith("\r\n")
    lines = text[:-2].split("\r\n")
    assert all(len(line) <= 996 and re.fullmatch(r"[\t -~]*[!-~][\t -~]*", line) for line in lines), lines
    assert all(line[0] in " \t" for line in lines[1:])
    for line in lines:
        outside_quotes = re.sub(r'"(?:[^"\\]|\\.)*"', "", line)
        assert len(line) <= 78 or len(outside_quotes.split()) <= 1 + (line is lines[0]), line
    return "".join(lines)


class Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def skip_cfws(self) -> bool:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] in " \t(":
            if self.text[self.at] == "(":
                self.skip_comment()
            else:
                self.at += 1
        return self.at > start

    def skip_comment(self) -> None:
        assert self.text[self.at] == "("
        self.at += 1
        while self.text[self.at] != ")":
            if self.text[self.at] == "(":
                self.skip_comment()
            else:
                self.at += 1 + (self.text[self.at] == "\\")
        self.at += 1

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        assert match, f"{pattern.pattern} at {self.text[self.at :]!r}"
        self.at = match.end()
        return match[0]

    def expect(self, char: str) -> None:
        self.skip_cfws()
        assert self.text.startswith(char, self.at), f"{char!r} at {self.text[self.at :]!r}"
        self.at += len(char)
        self.skip_cfws()

    def is_done(self) -> bool:
        return self.at == len(self.text)

    def value(self, *, may_be_address: bool = False) -> str:
        if self.text.startswith('"', self.at):
            word = re.sub(r"\\(.)", r"\1", self.take(QUOTED)[1:-1])
        elif may_be_address and ADDRESS.match(self.text, self.at):
            word = self.take(ADDRESS)
        else:
            word = self.take(TOKEN)
        assert END_OF_WORD.match(self.text, self.at), f"word goes on at {self.text[self.at :]!r}"
        return word


def parse(field: bytes) -> tuple[str, list[Result]]:
    """Read a whole field; AssertionError where it is not RFC 8601."""
    name, _, payload = unfold(field).partition(":")
    assert name == "Authentication-Results"
    reader = Reader(payload)
    reader.skip_cfws()
    authserv_id = reader.value()
    reader.skip_cfws()
    results: list[Result] = []
    if re.fullmatch(r";[ \t]*none[ \t]*", payload[reader.at :]):
        return authserv_id, results
    while not reader.is_done():
        reader.expect(";")
        results.append(parse_resinfo(reader))
    assert results
    return authserv_id, results


def parse_resinfo(reader: Reader) -> Result:
    method = reader.take(KEYWORD)
    reader.expect("=")
    result = reader.take(KEYWORD)
    has_blank = reader.skip_cfws()
    reason = None
    if reader.text.startswith("reason=", reader.at):
        assert has_blank
        reader.at += len("reason=")
        reason = reader.value()
        has_blank = reader.skip_cfws()
    properties = []
    while not reader.is_done() and reader.text[reader.at] != ";":
        assert has_blank
        ptype = reader.take(KEYWORD)
        reader.expect(".")
        name = reader.take(KEYWORD)
        reader.expect("=")
        properties.append((f"{ptype}.{name}", reader.value(may_be_address=True)))
        has_blank = reader.skip_cfws()
    return Result(method, result, reason, tuple(properties))
