"""Who sent this? SPF, DKIM, ARC and DMARC over one resolver, and the words to explain it.

The checks say what is so (result.py); what is done about it is decided in `mailflow.receive`.
"""

from mailflow.mailauth.arc import verify_arc
from mailflow.mailauth.arc_seal import seal_arc
from mailflow.mailauth.dkim import verify_dkim
from mailflow.mailauth.dkim_sign import sign_dkim
from mailflow.mailauth.dmarc import evaluate_dmarc
from mailflow.mailauth.spf import check_spf

__all__ = ["check_spf", "evaluate_dmarc", "seal_arc", "sign_dkim", "verify_arc", "verify_dkim"]
