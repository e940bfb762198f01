"""Delivering: from an accepted recipient to its mailbox, over LMTP or into a Maildir.

`route.Router` is what the receiving side sees, as `mail.handoff.Handoff`. A backend that is down,
slow or wrong is a fact and comes back as an Outcome or a Verification; nothing here imports
`receive`, and no backend's own text reaches a client.
"""
