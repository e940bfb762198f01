"""May a chain of custody speak for a message that fails DMARC? (RFC 8617 s7.2.1)

Pure. A chain that passes says who handled a message; whether one of them is to be believed is the operator's word, and
he believes a sealer in two things: what it found when the message came, and that it let nobody else in. What is read of
a trusted sealer's results may still be a stranger's text (an address, a reason, a comment), which must never become a
result of its own. The surprise: the library that reads them passes over a property it cannot read, and a dmarc=pass
that lost its header.from would hold for any author.
"""

from collections.abc import Iterable

import authres  # type: ignore[import-untyped]
from authres.core import AuthenticationResult, AuthenticationResultsHeader, AuthResError  # type: ignore[import-untyped]

from mailflow.mailauth.result import ArcResult, ArcSet, AuthStatus

MAX_PAYLOAD_CHARS = 4096  # the library copies the rest of the text for every token
MAX_COMMENTS = 50  # it calls itself for a comment in a comment
MAX_RESULTS = 50
MAX_SETS_READ = 8  # of trusted sealers: at the bounds above each takes some milliseconds

_FEATURES = authres.core_features()


class _StrictHeader(AuthenticationResultsHeader):  # type: ignore[misc]  # the library is untyped
    """A header whose every property must be readable."""

    def __init__(self, feature_context: object) -> None:
        super().__init__(feature_context, strict=True)


def find_trusted_set(
    arc: ArcResult, *, author_domain: str, organizational_domain: str, trusted: frozenset[str]
) -> ArcSet | None:
    """Give the latest set that lets a passing chain override a DMARC failure, None where there is none.

    It is a trusted sealer's (`trusted` holds d= values: lower-case A-labels, whole), which says the author was
    authenticated when the message came: dmarc=pass for this author domain or, where it does not say dmarc=fail, a
    dkim=pass of the author domain, of `organizational_domain` or of a name below that. Whoever sealed after it is
    trusted as well, or the message is still as it was sealed (s5.2: oldest_pass). Both domains are lower-case A-labels,
    "" where unknown.
    """
    if arc.status is not AuthStatus.PASS or not author_domain:
        return None
    are_later_trusted = True
    sets_read = 0
    for sealed in reversed(arc.sets):
        # 0 says that every message signature still verifies, so it is below any instance.
        is_vouched_for = are_later_trusted or arc.oldest_pass <= sealed.instance
        are_later_trusted = are_later_trusted and sealed.domain in trusted
        if not is_vouched_for or sealed.domain not in trusted:
            continue
        sets_read += 1
        if sets_read > MAX_SETS_READ:
            break
        if _has_authenticated_author(sealed.authentication_results, author_domain, organizational_domain):
            return sealed
    return None


def _has_authenticated_author(payload: str, author_domain: str, organizational_domain: str) -> bool:
    """Tell whether these results, read strictly or not at all, authenticate the author domain."""
    if len(payload) > MAX_PAYLOAD_CHARS or payload.count("(") > MAX_COMMENTS or payload.count(";") > MAX_RESULTS:
        return False
    # The library's patterns ignore case, by which U+212A is a k, and stop inside a quoted string or a comment at a
    # character they do not know.
    if not (payload.isascii() and payload.replace("\t", " ").isprintable()):
        return False
    results, is_complete = _parse_results(payload)
    dmarc = [result for result in results if result.method == "dmarc" and _values(result, "from") <= {author_domain}]
    words = {result.result for result in dmarc}
    if "fail" in words:  # also of a dkim=pass that may be aligned for us, but was not strictly (adkim=s)
        return False
    # Two results that differ authenticate nobody: which of them is meant is not for us to guess.
    if words == {"pass"} and (is_complete or all(_values(result, "from") for result in dmarc)):
        return True
    signers = [_values(result, "d") for result in results if result.method == "dkim" and result.result == "pass"]
    return any(len(names) == 1 and _is_aligned(min(names), author_domain, organizational_domain) for names in signers)


def _parse_results(payload: str) -> tuple[list[AuthenticationResult], bool]:
    """Read the results of version 1 (RFC 8601 s2.2), and tell whether no property of theirs was passed over.

    Large sealers write properties that are none (`action=none`), so that reading strictly alone would trust nobody.
    """
    try:
        return _known(_StrictHeader.parse_value(_FEATURES, payload).results), True
    except AuthResError:
        pass
    try:
        return _known(AuthenticationResultsHeader.parse_value(_FEATURES, payload).results), False
    except AuthResError:
        return [], False


def _known(results: Iterable[object]) -> list[AuthenticationResult]:
    # "none" stands among them as an object without a method.
    return [result for result in results if isinstance(result, AuthenticationResult) and result.version in {None, "1"}]


def _is_aligned(domain: str, author_domain: str, organizational_domain: str) -> bool:
    if domain == author_domain:
        return True
    return bool(organizational_domain) and f".{domain}".endswith(f".{organizational_domain}")


def _values(result: AuthenticationResult, name: str) -> set[str]:
    """Give the domains of every header.<name> property in lower case."""
    properties = [each for each in result.properties if (each.type, each.name) == ("header", name)]
    return {(each.value or "").lower().removesuffix(".") for each in properties}
