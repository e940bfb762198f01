"""The addresses of a From field, read by the grammar and no other way. (RFC 5322 s3.4, s4.4; RFC 6854; RFC 6532)

All of the grammar: groups, obsolete routes, white space and comments between the parts of an address, dots in a phrase,
empty elements of a list. Nothing beside it: what is not the grammar is None, and never half an answer. The surprise is
how little it takes: without its comments the grammar is regular, so the kinds of the tokens, one letter each, are
matched as a text (`a` an atom, `q` a quoted string, `l` a domain literal, else the character itself).
"""

import re
from dataclasses import dataclass
from typing import Final

from mailflow.dns.names import canonical_name
from mailflow.mail.address import AddressSyntaxError, parse_mailbox

# Possessive throughout (++, *+): what failed is not tried again in every other way.
_TOKEN: Final = re.compile(
    r"""(?P<blank>[ \t]++)
      | (?P<a>[^\x00-\x20\x7f()<>\[\]:;@\\,."]++)
      | (?P<q>"(?:[^"\\]|\\.)*")
      | (?P<l>\[(?:[^\[\]\\]|\\.)*\])
      | (?P<special>[<>@,;:.])""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_PART: Final = re.compile(r"[^()\\]++|\\.|(?P<open>\()|(?P<close>\))", re.DOTALL)
_HOST_NAME: Final = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+")
_PHRASE: Final = r"[aq][aq.]*+"
_LOCAL: Final = r"[aq](?:\.[aq])*"
_DOMAIN: Final = r"(?:a(?:\.a)*|l)"
_ROUTE: Final = rf",*+@{_DOMAIN}(?:,(?:@{_DOMAIN})?)*+:"
_MAILBOX: Final = re.compile(
    rf"(?P<phrase>{_PHRASE})?<(?:{_ROUTE})?(?P<local>{_LOCAL})@(?P<domain>{_DOMAIN})>"
    rf"|(?P<bare_local>{_LOCAL})@(?P<bare_domain>{_DOMAIN})"
)
_GROUP: Final = re.compile(rf"(?P<phrase>{_PHRASE}):")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One addr-spec: local part and domain as written, white space and comments left out."""

    local: str
    domain: str


@dataclass(frozen=True, slots=True)
class MailboxList:
    """What a field says. `texts` is what stands beside the addresses: phrases of names and groups, and comments."""

    mailboxes: tuple[Mailbox, ...]
    texts: tuple[str, ...]


def parse_mailbox_list(text: str) -> MailboxList | None:
    """Read an unfolded mailbox-list or address-list, the whole text; None where it is not one. Linear in its length.

    `text` has no CR, LF or NUL. Octets that are no UTF-8 may be in it as surrogates: they pass for the UTF-8 that
    RFC 6532 allows, and no domain is made of them later.
    """
    split = _split_tokens(text)
    if split is None:
        return None
    kinds, tokens, comments = split
    mailboxes: list[Mailbox] = []
    phrases: list[str] = []
    position, is_in_group, is_separated = 0, False, True
    while position < len(kinds):
        if kinds[position] == "," or (kinds[position] == ";" and is_in_group):
            is_separated = kinds[position] == ","  # behind the end of a group only a comma goes on
            is_in_group = is_in_group and is_separated
            position += 1
            continue
        if not is_separated:
            return None
        if match := _MAILBOX.match(kinds, position):
            local, domain = ("local", "domain") if match["local"] else ("bare_local", "bare_domain")
            mailboxes.append(Mailbox(_join(tokens, match.span(local)), _join(tokens, match.span(domain))))
            is_separated = False
        elif not is_in_group and (match := _GROUP.match(kinds, position)):
            is_in_group = True
        else:
            return None
        if match["phrase"]:
            phrases.append(_cut(text, tokens, match.span("phrase")))
        position = match.end()
    if is_in_group:
        return None
    return MailboxList(tuple(mailboxes), (*phrases, *comments))


def canonical_domain(text: str) -> str | None:
    """Give a domain in lower-case A-labels without a trailing dot, an IP address literal as it is; None for neither."""
    if text.startswith("["):
        try:
            return parse_mailbox("x@" + text.replace(" ", "").replace("\t", "")).domain
        except AddressSyntaxError:
            return None
    name = canonical_name(text)
    if name is None:
        return None
    # RFC 5322 lets a domain end in `/` or `'`, and UTS 46 turns wide forms into blanks and brackets. No domain that
    # could have a policy is called so, and a reader might see the one that it begins with.
    return name if _HOST_NAME.fullmatch(name) else None


def _split_tokens(text: str) -> tuple[str, list[re.Match[str]], list[str]] | None:
    """Give the kinds of the tokens as one text, the tokens, and the comments between them; None where one is broken."""
    kinds: list[str] = []
    tokens: list[re.Match[str]] = []
    comments: list[str] = []
    position = 0
    while position < len(text):
        if text[position] == "(":
            end = _end_of_comment(text, position)
            if end is None:
                return None
            comments.append(text[position + 1 : end - 1])
            position = end
            continue
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        position = token.end()
        kind = token.lastgroup or ""
        if kind != "blank":
            kinds.append(token[0] if kind == "special" else kind)
            tokens.append(token)
    return "".join(kinds), tokens, comments


def _end_of_comment(text: str, start: int) -> int | None:
    depth = 0
    for part in _COMMENT_PART.finditer(text, start):
        depth += (part["open"] is not None) - (part["close"] is not None)
        if not depth:
            return part.end()
    return None


def _join(tokens: list[re.Match[str]], span: tuple[int, int]) -> str:
    """Put tokens together without what stands between them."""
    return "".join(token[0] for token in tokens[slice(*span)])


def _cut(text: str, tokens: list[re.Match[str]], span: tuple[int, int]) -> str:
    """Give tokens with what stands between them."""
    first, last = tokens[span[0]], tokens[span[1] - 1]
    return text[first.start() : last.end()]
