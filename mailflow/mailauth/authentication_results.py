"""The Authentication-Results field that we put on a message: what was found, for those behind us. (RFC 8601)

Written here and not by authres: its serializer takes what it is given (`(`, `)` and "@" pass unquoted, so a value can
bring a result along), it cannot fold, and it takes twice the time. authres is for what others wrote, and in the tests
it must read from our field what we meant, whatever the sender put in. Every foreign word goes through field_text.py.

Properties are those IANA has for each method; of RFC 8617, header.oldest-pass and smtp.remote-ip. smtp.remote-ip is
also given for SPF, for which it is what the result is about.
"""

from collections.abc import Sequence

from mailflow.mailauth.field_text import fold_field, spell_text, spell_value
from mailflow.mailauth.result import ArcResult, AuthStatus, DkimResult, DmarcResult, SpfIdentity, SpfResult


def authentication_results_field(
    authserv_id: str,
    *,
    spf: SpfResult | None,
    mail_from: str,
    helo: str,
    dkim: Sequence[DkimResult] | None,
    arc: ArcResult | None,
    dmarc: DmarcResult | None,
    author_domain: str | None,
    iprev: AuthStatus | None,
    client_ip: str,
) -> bytes:
    """Write the field, folded, with CRLF, ASCII only. None says that a check was not made; then it is not named.

    `mail_from` is the address between <>, raw; `iprev` whether the client's reverse name leads back to its address
    (RFC 8601 s3); `dkim` empty says that there was no signature (dkim=none). A message
    without an ARC chain gets no arc result. Nothing checked: "none".
    """
    clauses = [[spell_value(authserv_id)]]
    client_ip = client_ip.partition("%")[0]  # a zone (`%eth0`) means nothing to others
    if spf is not None:
        clauses.append(_describe_spf(spf, mail_from, helo, client_ip))
    if dkim is not None:
        clauses += [_describe_dkim(result) for result in dkim] or [["dkim=none"]]
    if arc is not None and arc.status is not AuthStatus.NONE:
        clauses.append(_describe_arc(arc, client_ip))
    if dmarc is not None:
        clauses.append(_describe_dmarc(dmarc, author_domain))
    if iprev is not None:
        clauses.append(_describe_iprev(iprev, client_ip))
    return fold_field("Authentication-Results", clauses if len(clauses) > 1 else [*clauses, ["none"]])


def _describe_spf(spf: SpfResult, mail_from: str, helo: str, client_ip: str) -> list[str]:
    words = _methodspec("spf", spf.status, spf.reason)
    if spf.identity is SpfIdentity.HELO:
        _add(words, "smtp.helo", helo)
    else:
        _add(words, "smtp.mailfrom", mail_from)
    _add(words, "smtp.remote-ip", client_ip)
    return words


def _describe_dkim(dkim: DkimResult) -> list[str]:
    words = _methodspec("dkim", dkim.status, dkim.reason)
    _add(words, "header.d", dkim.domain)
    _add(words, "header.s", dkim.selector)
    _add(words, "header.a", dkim.algorithm)
    _add(words, "header.i", dkim.auid)
    _add(words, "header.b", dkim.tag_b)  # RFC 6008; last: it needs quotes, behind which some readers stop
    return words


def _describe_arc(arc: ArcResult, client_ip: str) -> list[str]:
    words = _methodspec("arc", arc.status, arc.reason)
    if arc.status is AuthStatus.PASS:
        words[0] += f" (i={len(arc.sets)})"
        words.append(f"header.oldest-pass={arc.oldest_pass}")
    _add(words, "smtp.remote-ip", client_ip)
    return words


def _describe_dmarc(dmarc: DmarcResult, author_domain: str | None) -> list[str]:
    words = _methodspec("dmarc", dmarc.status, dmarc.reason)
    if dmarc.disposition is not None:  # the policy after all its options: sp, np, t
        words.append(f"policy.dmarc={dmarc.disposition.value}")
    _add(words, "header.from", author_domain or "")
    return words


def _describe_iprev(status: AuthStatus, client_ip: str) -> list[str]:
    words = _methodspec("iprev", status, None)
    _add(words, "policy.iprev", client_ip)
    return words


def _methodspec(method: str, status: AuthStatus, reason: str | None) -> list[str]:
    if reason and status is not AuthStatus.NONE:  # none says it all
        return [f"{method}={status.value}", f"reason={spell_text(reason)}"]
    return [f"{method}={status.value}"]


def _add(words: list[str], property: str, value: str) -> None:
    if value:
        words.append(f"{property}={spell_value(value)}")
