"""What each client network holds and asked for, in a Redis or Valkey that every Pod of an installation counts in.

Two hashes per network. `sessions` has a field per Pod: how many sessions it holds and until when that is
believed, by the server's clock. A Pod writes its own number, never a difference: a lost answer leaves
no error behind, and a Pod that died is forgotten with its lease. `rate` has the admissions of this
minute and the one before it, which counts by what a window of 60 s still has of it. Every key
expires. Redis 5 or later, as the script writes after it has read the time.
"""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from redis.asyncio import Connection, SSLConnection
from redis.exceptions import RedisError, ResponseError

from mailflow.config import RedisServer

ANSWER_S = 0.05  # an admission waits for two exchanges at most, the one under way and its own
CONNECT_S = 1.0
GRACE_S = 0.01
PREFIX = "mailflow:limits:"

_SCRIPT = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local pod, held, wanted = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local max_sessions, per_minute, lease_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local granted, is_rate = wanted, false
if wanted > 0 then
  local others, fields = 0, redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if fields[i] ~= pod then
      local count, until_ms = string.match(fields[i + 1], '^(%d+):(%d+)$')
      if count and tonumber(until_ms) > now_ms then
        others = others + tonumber(count)
      else
        redis.call('HDEL', KEYS[1], fields[i])
      end
    end
  end
  granted = math.max(0, math.min(wanted, max_sessions - others - held))
  if per_minute > 0 and granted > 0 then
    local minute = math.floor(now_ms / 60000)
    local rate = redis.call('HMGET', KEYS[2], 'minute', 'current', 'previous')
    local age, current, previous = minute - (tonumber(rate[1]) or -1), 0, 0
    if age == 0 then
      current, previous = tonumber(rate[2]), tonumber(rate[3])
    elseif age == 1 then
      previous = tonumber(rate[2])
    end
    local past = previous * (60000 - now_ms % 60000) / 60000
    local room = math.max(0, math.floor(per_minute - current - past))
    if room < granted then
      granted, is_rate = room, true
    end
    if granted > 0 then
      redis.call('HSET', KEYS[2], 'minute', minute, 'current', current + granted, 'previous', previous)
      redis.call('PEXPIRE', KEYS[2], 120000)
    end
  end
end
if held + granted > 0 then
  redis.call('HSET', KEYS[1], pod, string.format('%d:%.0f', held + granted, now_ms + lease_ms))
  redis.call('PEXPIRE', KEYS[1], lease_ms)
else
  redis.call('HDEL', KEYS[1], pod)
end
return is_rate and -1 - granted or granted
"""
_DIGEST = hashlib.sha1(_SCRIPT.encode("ascii"), usedforsecurity=False).hexdigest()
_CODE = re.compile(r"[A-Z]{2,20}\b")  # how an error of the server begins: OOM, NOPERM, LOADING


class CountsUnavailable(Exception):
    """The server did not do what was asked; a later try may help. The text has no word of the server's but its code."""


class Request(NamedTuple):
    """Of `network` we hold `held` sessions and want so many more."""

    network: str
    held: int
    wanted: int


class Answer(NamedTuple):
    """How many more were granted; where fewer than wanted, whether that is for the rate."""

    granted: int
    is_rate: bool


class RedisCounts:
    """One connection, on which one thing is asked at a time; after an error it is of no more use.

    `pod` names who counts here, for one life of it.
    """

    def __init__(self, server: RedisServer, *, pod: str, lease_s: float) -> None:
        kind = SSLConnection if server.is_tls else Connection
        self._connection = kind(
            host=server.address.host,
            port=server.address.port,
            db=server.database,
            username=server.user or None,
            password=server.password or None,
            protocol=2,
            driver_info=None,
            socket_timeout=None,  # the deadlines are here
            socket_connect_timeout=None,
        )
        self._pod = pod
        self._lease_ms = str(int(lease_s * 1000))

    async def connect(self) -> None:
        """Connect and be ready to exchange. Raises CountsUnavailable."""
        async with _translated(CONNECT_S):
            await self._connection.connect()  # type: ignore[no-untyped-call]
            await self._connection.send_command("SCRIPT", "LOAD", _SCRIPT)
            await self._connection.read_response()

    async def exchange(self, requests: Sequence[Request], *, max_sessions: int, per_minute: int) -> list[Answer]:
        """Tell what we hold and ask for more, in one round trip; no request only asks whether the server is there.

        `per_minute` 0: no limit. Raises CountsUnavailable; what was done until then is unknown.
        """
        connection = self._connection
        limits = (str(max_sessions), str(per_minute), self._lease_ms)
        commands: list[tuple[str | bytes, ...]] = [
            ("EVALSHA", _DIGEST, "2", *_keys(network), self._pod, str(held), str(wanted), *limits)
            for network, held, wanted in requests
        ]
        async with _translated(ANSWER_S):
            await connection.send_packed_command(connection.pack_commands(commands or [("PING",)]))
            replies = [await connection.read_response() for _ in commands or [()]]
        return [_read_answer(reply) for reply in replies] if requests else []

    async def close(self) -> None:
        """Close, whatever is under way."""
        await self._connection.disconnect(nowait=True)


def _keys(network: str) -> tuple[bytes, bytes]:
    name = network.encode("utf-8", "backslashreplace").hex() if not network.isascii() else network
    return f"{PREFIX}{{{name}}}:sessions".encode("ascii"), f"{PREFIX}{{{name}}}:rate".encode("ascii")


def _read_answer(reply: object) -> Answer:
    if not isinstance(reply, int):
        raise CountsUnavailable("it answered what our script does not")
    return Answer(reply, is_rate=False) if reply >= 0 else Answer(-1 - reply, is_rate=True)


@contextlib.asynccontextmanager
async def _translated(seconds: float) -> AsyncIterator[None]:
    """Raise CountsUnavailable for what the server, the network, or its silence for `seconds` does.

    Words of the server are not passed on: an error may repeat the command, and so the password.
    """
    try:
        async with _deadline(seconds):
            yield
    except TimeoutError as exc:
        raise CountsUnavailable(f"no answer within {seconds:g} s") from exc
    except ResponseError as exc:
        code = _CODE.match(str(exc))
        raise CountsUnavailable(f"it answered an error{' ' + code[0] if code else ''}") from None
    except (RedisError, OSError, EOFError, UnicodeError) as exc:
        raise CountsUnavailable(f"no connection ({type(exc).__name__})") from None


@contextlib.asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """As asyncio.timeout, but a process that got no CPU meanwhile still reads what has long come.

    After such a pause the timer and the answer are due in one turn of the loop; the grace lets the answer win.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        timer = loop.call_later(seconds, lambda: limit.reschedule(loop.time() + GRACE_S))
        try:
            yield
        finally:
            timer.cancel()
