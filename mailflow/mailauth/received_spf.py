"""The Received-SPF field: what SPF found, in its own field. (RFC 7208 s9.1)

Only where the operator asks for it: Authentication-Results says the same (s9.2). Every foreign word goes through
field_text.py.
"""

from mailflow.mailauth.field_text import fold_field, spell_text, spell_value
from mailflow.mailauth.result import AuthStatus, SpfResult


def received_spf_field(spf: SpfResult, *, mail_from: str, helo: str, client_ip: str, receiver: str) -> bytes:
    """Write the field, folded, with CRLF, ASCII only. `mail_from` is the address between <>, `receiver` our name."""
    pairs = {
        "client-ip": client_ip.partition("%")[0],
        "envelope-from": mail_from,
        "helo": helo,
        "identity": spf.identity.value,
        "receiver": receiver,
        "mechanism": spf.term or ("default" if spf.status is AuthStatus.NEUTRAL else ""),
    }
    words = [f"{key}={_spell(value)};" for key, value in pairs.items() if value or key == "envelope-from"]
    if spf.reason and spf.status in (AuthStatus.TEMPERROR, AuthStatus.PERMERROR):
        words.append(f"problem={spell_text(spf.reason)};")
    return fold_field("Received-SPF", [[spf.status.value, *words]])


def _spell(value: str) -> str:
    """Spell a dot-atom or quoted-string: the grammar has no bare address, and no dots at the ends or side by side."""
    spelled = spell_value(value)
    is_dot_atom = "@" not in spelled and not spelled.startswith(".") and not spelled.endswith(".")
    return spelled if spelled[0] == '"' or (is_dot_atom and ".." not in spelled) else f'"{spelled}"'
