"""Encoded words as people see them. (RFC 2047)

For notes and comparisons alone: an address is never made of an encoded word (s5). Words are decoded wherever they
stand, in quoted strings too, as most programs show them so. What cannot be decoded stays as it is; never raises.
"""

import binascii
import re
from typing import Final

_BETWEEN_WORDS: Final = re.compile(r"(?<=\?=)[ \t]+(?==\?)")
_ENCODED_WORD: Final = re.compile(
    r"=\?([A-Za-z0-9_.:\-]{1,40})(?:\*[A-Za-z0-9\-]{0,40})?\?([BbQq])\?([^?\s]{0,1000})\?="
)
_Q_OCTET: Final = re.compile(rb"=([0-9A-Fa-f]{2})")
# Charsets of mail; Python has codecs under other names that are none.
_CHARSET: Final = re.compile(
    r"(?:us-)?ascii|utf-?(?:7|8|16|32)(?:[bl]e)?|iso-?\d[\w\-]*|(?:windows-?|cp)\d+|koi8-[rut]|gb\w+|big5\w*|euc-\w+"
    r"|shift_jis\w*|ks_c_5601\S*",
    re.IGNORECASE | re.ASCII,
)


def decode_words(text: str) -> str:
    """Decode the encoded words of RFC 2047 wherever they stand; what is none of them stays."""
    if "=?" not in text:
        return text
    return _ENCODED_WORD.sub(_decode_word, _BETWEEN_WORDS.sub("", text))


def _decode_word(match: re.Match[str]) -> str:
    charset, encoding, payload = match.groups()
    raw = payload.encode("utf-8", "surrogateescape")
    try:
        if encoding in "Bb":
            octets = binascii.a2b_base64(raw + b"==")
        else:
            octets = _Q_OCTET.sub(lambda pair: bytes([int(pair[1], 16)]), raw.replace(b"_", b" "))
        return octets.decode(charset if _CHARSET.fullmatch(charset) else "latin-1", "replace")
    except (binascii.Error, LookupError, UnicodeError):
        return match[0]
