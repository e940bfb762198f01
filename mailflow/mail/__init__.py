"""Mail as values: addresses, envelopes, replies, header fields, trace fields, the hand-off seam.

Sans-IO: nothing here opens a socket, reads a clock or draws a random number; time and identifiers
are arguments. Everything above speaks in these types.
"""
