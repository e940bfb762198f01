"""[limits] url: where the counters are, and that its password is shown nowhere."""

import pickle
from pathlib import Path

import pytest

from mailflow.config import ConfigFaults, HostPort, RedisServer, load_settings
from mailflow.config.value import LIMITS_URL, parse_limits_url

ALLOWED = '"memory://" or "redis://[[user]:password@]host[:port][/database]"'
SECRET = "s3cret"


def load(folder: Path, limits: str, **environ: str) -> RedisServer | None:
    (folder / "mailflow.toml").write_text(f'hostname = "mx.example.org"\nroles = ["admin"]\n{limits}\n')
    return load_settings(folder / "mailflow.toml", environ).limits.url


def faults_of(folder: Path, limits: str, **environ: str) -> str:
    with pytest.raises(ConfigFaults) as raised:
        load(folder, limits, **environ)
    return str(raised.value)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("memory://", None),
        ("redis://redis", RedisServer(HostPort("redis", 6379))),
        ("redis://redis/", RedisServer(HostPort("redis", 6379))),
        ("redis://Redis.Mail.svc:7000/3", RedisServer(HostPort("redis.mail.svc", 7000), database=3)),
        ("redis://[::1]:6380", RedisServer(HostPort("::1", 6380))),
        ("redis://127.0.0.1:6379/0", RedisServer(HostPort("127.0.0.1", 6379))),
        ("redis://:pw@h", RedisServer(HostPort("h", 6379), password="pw")),
        ("redis://u:pw@h/1", RedisServer(HostPort("h", 6379), database=1, user="u", password="pw")),
        ("redis://u:a%40b%2Fc%C3%A9@h", RedisServer(HostPort("h", 6379), user="u", password="a@b/cé")),
        ("rediss://h", RedisServer(HostPort("h", 6379), is_tls=True)),
    ],
)
def test_every_form_is_read(url: str, server: RedisServer | None) -> None:
    assert parse_limits_url(url) == server
    assert pickle.loads(pickle.dumps(server)) == server  # noqa: S301 - our own


@pytest.mark.parametrize(
    "url",
    [
        *("", "memory", "memory:///x", "redis", "redis:", "redis://", "redis:///0", "http://h", "REDIS://h", "unix:///s"),
        *("redis://h:0", "redis://h:65536", "redis://h:x", "redis://h/x", "redis://h/-1", "redis://h/0/1", "redis://h?db=1"),
        *("redis://u@h", "redis://:@h", "redis://u:p@q@h", "redis://u:p/q@h", "redis://:%zz@h", "redis://:%ff@h"),
        *("redis://h h", "redis://h\n", "redis://::1", "redis://[h]", "redis://a,b", " redis://h", "redis://:\udcff@h"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="memory") as raised:
        parse_limits_url(url)
    assert str(raised.value) == LIMITS_URL


def test_a_fault_says_what_is_allowed_and_not_the_value(tmp_path: Path) -> None:
    text = faults_of(tmp_path, f'[limits]\nurl = "redis//:{SECRET}@h"')
    assert text.startswith("limits.url = (not shown): allowed is ")
    assert ALLOWED in text
    assert SECRET not in text


@pytest.mark.parametrize("limits", [f'limits = "redis://:{SECRET}@h"', f'[limits]\nurl = ["redis://:{SECRET}@h"]'])
def test_a_secret_in_the_wrong_place_is_not_shown(tmp_path: Path, limits: str) -> None:
    assert SECRET not in faults_of(tmp_path, limits)


def test_the_environment_and_a_file_of_its_own_set_it(tmp_path: Path) -> None:
    server = RedisServer(HostPort("h", 6379), password=SECRET)
    assert load(tmp_path, "", MAILFLOW_LIMITS__URL=f"redis://:{SECRET}@h") == server
    (tmp_path / "url").write_text(f"redis://:{SECRET}@h\n")
    assert load(tmp_path, "", MAILFLOW_LIMITS__URL_FILE="url") == server
    assert SECRET not in faults_of(tmp_path, "", MAILFLOW_LIMITS__URL=f"x://:{SECRET}@h")


def test_no_text_of_it_has_the_password() -> None:
    server = parse_limits_url(f"rediss://u:{SECRET}@h/2")
    assert str(server) == "rediss://h:6379/2"
    assert SECRET not in repr(server) + str(server)
