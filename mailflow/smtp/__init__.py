"""SMTP and LMTP on the wire: the server side of port 25, the client side of LMTP, their grammar.

Rooms above decide what is said; here is how it is said (RFC 5321, 2920, 3030, 3207, 2033). A line
end that is not CRLF never passes, in neither direction. Nothing here knows routes, mailboxes or
the configuration.
"""
