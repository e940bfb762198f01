"""Who sent this? SPF, DKIM, ARC and DMARC over one resolver, and the words to explain it.

The checks say what is so (result.py); what is done about it is decided in `mailflow.receive`.
"""
