"""Ids of messages, as we give them: in Received, in the reply 250, in the log, in the store."""

RANDOM_OCTETS = 5


def make_message_id(now: float, random: bytes) -> str:
    """Make an id that sorts by time and is nobody else's: milliseconds since 1970, then RANDOM_OCTETS of `random`."""
    return f"{int(now * 1000):011x}{random.hex()}"
