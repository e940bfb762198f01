"""Receiving: who may connect, what a message must be, and to whom it goes.

`inbound` is the way of a message from the Internet as a list; `checks` asks about the client and its
sender, `limits` bounds how many may come. Delivery is behind `mail.handoff.Handoff`.
"""
