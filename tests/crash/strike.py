"""A SIGKILL at a system call that makes something durable or tells a peer: the kernel delivers it as the call begins.

strace counts the calls of each thread of a living process and strikes at the nth.
"""

import asyncio

from tests.servers import require_program

# Where a message is on its way: into the log of the database, to the disk, a body's file into place and away again,
# and out to a peer (a database, a mailbox server, the client).
SYSCALLS = ("fdatasync", "pwrite64", "rename", "fsync", "unlink", "write", "ftruncate")
WAIT_S = 5.0


async def strike(pid: int, syscall: str, *, nth: int) -> bool:
    """Kill a process at the nth `syscall` of one of its threads; False where none came to it in time."""
    process = await asyncio.create_subprocess_exec(
        require_program("strace"), "-f", "-qq", "-o", "/dev/null", "-p", str(pid),
        "-e", f"trace={syscall}", "-e", f"inject={syscall}:signal=SIGKILL:when={nth}",
    )  # fmt: skip
    try:
        async with asyncio.timeout(WAIT_S):
            await process.wait()
    except TimeoutError:
        process.terminate()
        await process.wait()
        return False
    return True
