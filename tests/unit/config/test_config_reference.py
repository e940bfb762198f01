"""The reference is made from the model: it loads, it is complete, and the page in docs/ is current."""

import tomllib
from pathlib import Path

from mailflow.config import load_settings
from mailflow.config.environment import list_variables
from mailflow.config.model import LmtpBackend, MaildirBackend, RouteTable
from mailflow.config.reference import render_markdown, render_toml

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_reference_is_a_configuration_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "mailflow.toml"
    path.write_text(render_toml())
    settings = load_settings(path, {})
    assert [backend.name for backend in settings.backend] == ["mailbox", "embedded"]


def test_the_reference_has_every_key() -> None:
    document = tomllib.loads(render_toml())
    keys = set(document) - {"backend", "route"}
    keys |= {f"{table}.{key}" for table, content in document.items() if isinstance(content, dict) for key in content}
    assert {key for key, _info in list_variables().values()} <= keys
    lmtp, maildir = document["backend"]
    assert lmtp.keys() == LmtpBackend.model_fields.keys()
    assert maildir.keys() == MaildirBackend.model_fields.keys()
    assert document["route"][0].keys() == RouteTable.model_fields.keys()


def test_every_key_has_its_meaning_default_and_range_above_it() -> None:
    lines = render_toml().splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith(("#", "[")):
            comment = []
            for above in reversed(lines[:number]):
                if not above.startswith("#"):
                    break
                comment.append(above)
            text = " ".join(reversed(comment))
            assert "range: " in text, line
            assert "# default " in text or "# required; " in text, line


def test_the_page_in_docs_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_markdown(), "run: mailflow config-reference --markdown"
