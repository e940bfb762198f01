"""In plain words: who sent this, what each check said and why. One sentence a fact, for people who run mail.

The same sentences stand in `mailflow auth check` and in the log. Pure. What a stranger wrote (domains, selectors, DNS
text) is quoted bounded and printable, and never at the start of a sentence.
"""

from collections.abc import Iterator, Sequence

from mailflow.mail.reply import printable
from mailflow.mailauth.author import Author, AuthorFault
from mailflow.mailauth.result import (
    ArcResult,
    AuthStatus,
    DkimResult,
    DmarcPolicy,
    DmarcResult,
    SpfIdentity,
    SpfResult,
)

MAX_SHOWN_CHARS = 120
MAX_SIGNATURES = 5  # beyond, only their number is told


def explain(
    *,
    client_ip: str,
    envelope_from: str,
    author: Author | AuthorFault,
    spf: SpfResult,
    dkim: Sequence[DkimResult],
    arc: ArcResult,
    dmarc: DmarcResult | None,
) -> list[str]:
    """Tell the two senders and each check in a sentence or two. `envelope_from` is "" for the null sender."""
    return [
        *_explain_senders(envelope_from, author),
        _explain_spf(spf, client_ip),
        *_explain_dkim(dkim),
        *_explain_arc(arc),
        *_explain_dmarc(dmarc, spf, dkim),
    ]


def _explain_senders(envelope_from: str, author: Author | AuthorFault) -> Iterator[str]:
    envelope = f"The envelope sender (EnvFrom) is {_quote(envelope_from)}"
    if not envelope_from:
        envelope = "The envelope sender (EnvFrom) is null: a bounce or another automatic message"
    if isinstance(author, AuthorFault):
        yield f"{envelope}; the author (HeaderFrom) cannot be told: {_quote(author.reason, 300)}."
        return
    yield f"{envelope}; the author (HeaderFrom), whom the reader sees, is {_quote(author.address)}."
    yield from (f"Note on the author: {_quote(note, 300)}." for note in author.notes)


def _explain_spf(spf: SpfResult, client_ip: str) -> str:
    domain = _quote(spf.domain)
    whose = f"{domain}, the client's own name (HELO)," if spf.identity is SpfIdentity.HELO else domain
    where = f" in the record of {_quote(spf.record_domain)}" if spf.record_domain not in ("", spf.domain) else ""
    by = f" by {_quote(spf.term)}{where}" if spf.term else ""
    match spf.status:
        case AuthStatus.PASS:
            told = f"{whose} permits {client_ip}{by}"
        case AuthStatus.FAIL:
            told = f"{whose} forbids {client_ip}{by}"
        case AuthStatus.SOFTFAIL:
            told = f"{whose} thinks that {client_ip} is not permitted{by}"
        case AuthStatus.NEUTRAL:
            told = f"{whose} says nothing about {client_ip}{by}"
        case _:
            told = _quote(spf.reason, 300) if spf.reason else f"no usable record at {domain}"
    return f"SPF {spf.status}: {told}." + (f" Its owner says: {_quote(spf.explanation)}" if spf.explanation else "")


def _explain_dkim(dkim: Sequence[DkimResult]) -> Iterator[str]:
    if not dkim:
        yield "DKIM none: the message has no signature."
    for result in dkim[:MAX_SIGNATURES]:
        whose = f"the signature of {_quote(result.domain)}" if result.domain else "a signature that cannot be read"
        key = f" (selector {_quote(result.selector)}, {_quote(result.algorithm)})" if result.selector else ""
        because = f": {_quote(result.reason, 300)}" if result.reason else ""
        if result.status is AuthStatus.PASS:
            yield f"DKIM pass: {whose}{key} is good{because}."
        else:
            yield f"DKIM {result.status}: {whose}{key} does not count{because}."
    if len(dkim) > MAX_SIGNATURES:
        yield f"DKIM: {len(dkim) - MAX_SIGNATURES} signatures more."


def _explain_arc(arc: ArcResult) -> Iterator[str]:
    match arc.status:
        case AuthStatus.NONE:
            return
        case AuthStatus.PASS:
            hops = ", ".join(_quote(hop.domain) for hop in arc.sets[-MAX_SIGNATURES:])
            yield f"ARC pass: the seals hold; the message came through {hops}."
        case _:
            yield f"ARC {arc.status}: {_quote(arc.reason, 300) if arc.reason else 'the seals do not hold'}."


def _explain_dmarc(dmarc: DmarcResult | None, spf: SpfResult, dkim: Sequence[DkimResult]) -> Iterator[str]:
    if dmarc is None:
        yield "DMARC none: without an author there is no domain to ask."
        return
    domain = _quote(dmarc.author_domain)
    match dmarc.status:
        case AuthStatus.PASS:
            aligned = list(_aligned(dmarc, spf))
            verb = "stand" if len(aligned) > 1 else "stands"
            yield f"DMARC pass: {' and '.join(aligned)} {verb} for the author's domain {domain}."
        case AuthStatus.FAIL:
            yield f"DMARC fail: nothing stands for the author's domain {domain}: {_unaligned(spf, dkim)}."
            yield _explain_policy(dmarc)
        case _:
            yield f"DMARC {dmarc.status}: {_quote(dmarc.reason, 300) if dmarc.reason else f'no record for {domain}'}."


def _aligned(dmarc: DmarcResult, spf: SpfResult) -> Iterator[str]:
    if dmarc.aligned_spf:
        yield f"SPF of {_quote(spf.domain)}"
    if dmarc.aligned_dkim:
        yield f"DKIM of {_quote(', '.join(dict.fromkeys(dmarc.dkim_domains)))}"


def _unaligned(spf: SpfResult, dkim: Sequence[DkimResult]) -> str:
    others = f"SPF passed for {_quote(spf.domain)}, another" if spf.status is AuthStatus.PASS else f"SPF {spf.status}"
    good = dict.fromkeys(result.domain for result in dkim if result.status is AuthStatus.PASS)
    if good:
        return f"{others}; DKIM passed for {_quote(', '.join(good))}, another"
    return f"{others}; DKIM {dkim[0].status if dkim else 'none'}"


def _explain_policy(dmarc: DmarcResult) -> str:
    asked = f"Its record at _dmarc.{_quote(dmarc.record_domain)} asks for {dmarc.policy} ({dmarc.tag}={dmarc.policy})"
    if dmarc.disposition != dmarc.policy:
        return f"{asked}, and, as a test (t=y), for {dmarc.disposition or DmarcPolicy.NONE} only."
    return f"{asked}."


def _quote(text: str, max_chars: int = MAX_SHOWN_CHARS) -> str:
    return printable(text, max_chars)
