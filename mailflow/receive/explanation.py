"""One message's decision in words and in fields: for the log, and for `mailflow auth check`."""

from mailflow.mail.reply import printable
from mailflow.mailauth.author import Author
from mailflow.mailauth.explain import explain
from mailflow.mailauth.result import AuthStatus
from mailflow.receive.evidence import Evidence
from mailflow.receive.verdict import Verdict

MAX_LOGGED_SIGNATURES = 5


def explain_message(evidence: Evidence, verdict: Verdict) -> list[str]:
    """Tell in sentences who sent the message, what each check said, and last the decision with its reason."""
    return [
        *explain(
            client_ip=evidence.client_ip,
            envelope_from=evidence.envelope_from,
            author=evidence.author,
            spf=evidence.spf,
            dkim=evidence.dkim,
            arc=evidence.arc,
            dmarc=evidence.dmarc,
        ),
        verdict.reason,
    ]


def describe_message(evidence: Evidence, verdict: Verdict) -> dict[str, object]:
    """Give the fields of the decision event, words to filter by first and the sentences last."""
    author, dmarc = evidence.author, evidence.dmarc
    facts: dict[str, object] = {
        "header_from": author.address if isinstance(author, Author) else None,
        "spf": evidence.spf.status.value,
        "spf_domain": evidence.spf.domain,
        "dkim": [f"{result.status}:{printable(result.domain)}" for result in evidence.dkim[:MAX_LOGGED_SIGNATURES]],
        "dmarc": dmarc.status.value if dmarc else AuthStatus.NONE.value,
        "rule": verdict.rule.value,
        "explanation": explain_message(evidence, verdict),
    }
    if evidence.arc.status is not AuthStatus.NONE:
        facts["arc"] = evidence.arc.status.value
    return facts
