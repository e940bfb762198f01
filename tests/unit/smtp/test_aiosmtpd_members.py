"""The pinned aiosmtpd has what our SMTP session relies on, and that relies on nothing that is not listed."""

import ast
import asyncio
import importlib.metadata
import inspect
import pathlib
import re

import aiosmtpd.smtp
from aiosmtpd.smtp import SMTP, Envelope, Session

from mailflow.smtp.connection import RELIED_ON, SmtpConnection
from mailflow.smtp.server import SmtpSession

SESSION_MEMBERS = {"peer", "host_name", "extended_smtp", "loop"}
ENVELOPE_MEMBERS = {"mail_from", "mail_options", "smtp_utf8", "content", "original_content", "rcpt_tos"}


def members_on_self(tree: ast.AST) -> set[str]:
    """Every `self.x` and every method, read or written."""
    attributes = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    methods = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return attributes | methods


def class_tree(cls: type) -> ast.ClassDef:
    tree = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(tree, ast.ClassDef)
    return tree


# What aiosmtpd's own class has, also what exists only once __init__ has run, and what it inherits from asyncio.
OF_AIOSMTPD = members_on_self(class_tree(SMTP)) | set(vars(SMTP))
INHERITED = {name for base in SMTP.__mro__[1:-1] for name in vars(base)}


def test_installed_aiosmtpd_is_the_pinned_one() -> None:
    pyproject = pathlib.Path(__file__).parents[3] / "pyproject.toml"
    pinned = re.search(r'"aiosmtpd==([\d.]+)"', pyproject.read_text())
    assert pinned is not None
    assert importlib.metadata.version("aiosmtpd") == pinned[1]


def test_every_member_relied_on_exists() -> None:
    assert [name for name in RELIED_ON if name not in OF_AIOSMTPD | INHERITED] == []


def test_every_private_member_used_of_aiosmtpd_is_listed() -> None:
    used = members_on_self(class_tree(SmtpConnection)) | members_on_self(class_tree(SmtpSession))
    private = {name for name in used if name.startswith("_") and not name.endswith("__")}
    assert sorted(private & (OF_AIOSMTPD | INHERITED) - set(RELIED_ON)) == []


def test_nothing_is_listed_that_is_not_used() -> None:
    used = members_on_self(class_tree(SmtpConnection)) | members_on_self(class_tree(SmtpSession))
    assert [name for name in RELIED_ON if name not in used] == []


def test_no_member_of_ours_but_the_listed_ones_and_the_commands_hides_one_of_aiosmtpd() -> None:
    ours = {name for name in {**vars(SmtpConnection), **vars(SmtpSession)} if not name.startswith(("__", "smtp_"))}
    assert sorted(ours & (OF_AIOSMTPD | INHERITED) - set(RELIED_ON)) == []


async def test_session_and_envelope_have_the_facts_that_are_read_and_written() -> None:
    assert SESSION_MEMBERS - set(vars(Session(asyncio.get_running_loop()))) == set()
    assert ENVELOPE_MEMBERS - set(vars(Envelope())) == set()


def test_reset_of_aiosmtpd_still_means_a_new_envelope() -> None:
    assert "_create_envelope" in members_on_self(class_tree(SMTP))
    assert "_set_post_data_state" in inspect.getsource(SMTP._set_rset_state)


def test_hooks_are_still_called_with_server_session_and_envelope() -> None:
    source = inspect.getsource(SMTP._call_handler_hook)
    assert "self._handle_hooks.get(command)" in source
    assert "hook(self, self.session, self.envelope, *args)" in source
    assert "return MISSING" in source
    assert aiosmtpd.smtp.MISSING is not None
