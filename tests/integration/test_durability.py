"""Between the last write of a message and its answer lies a sync of the file, and of the folder where a name is new.

A SIGKILL proves nothing about a power loss; the system calls do. strace shows them, with the files they are about.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.mailflow_process import ROOT
from tests.servers import require_program

CHILD = Path(__file__).with_name("durable_child.py")
CALLS = "write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,link,linkat,mkdir,mkdirat,openat"
# `123 fsync(7</path>) = 0`, or in two lines where another thread came between.
LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(.*?)(?:= (-?\d+).*)?$")
FILE = re.compile(r"^\(\d+<([^>]*)>")
NAMES = re.compile(r'"([^"]*)"')


@dataclass(slots=True)
class Unsynced:
    """What a power loss could take, as the calls go by."""

    folder: str
    files: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)  # folders in which a name is new

    def take(self, call: str, arguments: str, result: str) -> None:
        """Note one call that succeeded."""
        file = FILE.match(arguments)
        path = file[1] if file else ""
        if call in {"fsync", "fdatasync"} and result == "0":
            self.files.discard(path)
            self.names.discard(path)
        elif "write" in call and path.startswith(self.folder) and int(result) > 0:
            self.files.add(path)
        elif call.startswith(("rename", "link", "mkdir")) and result == "0":
            self.names.add(str(Path(NAMES.findall(arguments)[-1]).parent))


def trace(tmp_path: Path, what: str, size_bytes: int) -> list[tuple[str, str, str]]:
    """Run the child; give the calls between BEGIN and DONE in the order in which they ended."""
    output = tmp_path / "strace"
    folder = tmp_path / "data"
    folder.mkdir()
    subprocess.run(
        [require_program("strace"), "-f", "-y", "-s", "64", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", output,
         sys.executable, CHILD, what, str(size_bytes), folder],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    calls: list[tuple[str, str, str]] = []
    begun: dict[str, str] = {}
    for line in output.read_text(errors="replace").splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        thread, call, arguments, result = match.groups()
        if "<unfinished" in line:
            begun[thread] = arguments
        elif result is not None:
            calls.append((call, begun.pop(thread, arguments) if "<..." in line else arguments, result))
    marks = [index for index, (call, arguments, _) in enumerate(calls) if call == "write" and '"BEGIN' in arguments]
    ends = [index for index, (call, arguments, _) in enumerate(calls) if call == "write" and '"DONE' in arguments]
    assert len(marks) == len(ends) == 1
    return calls[marks[0] + 1 : ends[0]]


@pytest.mark.parametrize(
    ("what", "size_bytes"), [("sqlite", 4_000), ("sqlite", 100_000), ("maildir", 4_000), ("maildir", 100_000)]
)
def test_a_message_is_on_the_disk_before_it_is_answered_for(tmp_path: Path, what: str, size_bytes: int) -> None:
    calls = trace(tmp_path, what, size_bytes)
    unsynced = Unsynced(str(tmp_path / "data"))
    written = 0
    for call in calls:
        before = len(unsynced.files)
        unsynced.take(*call)
        written += len(unsynced.files) > before
    assert written
    assert unsynced.files == set()
    assert unsynced.names == set()
    if size_bytes > 65_536 or what == "maildir":
        assert any(call.startswith(("rename", "link")) for call, _, _ in calls)
