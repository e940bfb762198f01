"""The configuration: what the keys are, how they are read, how they are explained.

Read once at the start, from a TOML file and the environment, into frozen values. A faulty
configuration is refused whole, with every fault named. Never read below the composition root:
the rooms under it take plain arguments.
"""

from mailflow.config.fault import ConfigFaults, Fault
from mailflow.config.load import load_settings
from mailflow.config.model import LmtpBackend, MaildirBackend, RouteTable, Settings
from mailflow.config.value import HostPort, PostgresServer, RedisServer, SqliteFile, UnixPath

__all__ = [
    "ConfigFaults",
    "Fault",
    "HostPort",
    "LmtpBackend",
    "MaildirBackend",
    "PostgresServer",
    "RedisServer",
    "RouteTable",
    "Settings",
    "SqliteFile",
    "UnixPath",
    "load_settings",
]
