from mailflow.smtp.capabilities import Capabilities, parse_capabilities


def test_the_first_line_is_a_greeting_and_no_keyword() -> None:
    assert parse_capabilities("PIPELINING") == Capabilities()


def test_keywords_compare_without_case() -> None:
    offered = parse_capabilities(
        "hello\npipelining\n8BitMime\nSMTPUTF8\nENHANCEDSTATUSCODES\nStartTLS\nSIZE 1000\nXFOO a b"
    )
    assert offered == Capabilities(
        has_pipelining=True,
        has_8bitmime=True,
        has_smtputf8=True,
        has_starttls=True,
        has_enhanced_codes=True,
        max_size_bytes=1000,
    )


def test_size_without_a_number_is_no_limit() -> None:
    assert parse_capabilities("hello\nSIZE").max_size_bytes == 0
    assert parse_capabilities("hello\nSIZE -1").max_size_bytes == 0
    assert parse_capabilities("hello\nSIZE " + "9" * 5000).max_size_bytes == 0
    assert parse_capabilities("hello").max_size_bytes is None
