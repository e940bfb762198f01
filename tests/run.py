"""All tests, as `make test` runs them: two runs of pytest beside each other where there are two processors.

Most of the time of the integration tests is spent waiting for servers, all others want a processor. What the second run
says is shown when it has ended, in one piece. With arguments they are pytest's, and it is one run.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
PYTEST = [sys.executable, "-m", "pytest"]
# Long, and with most to wait for: it evens the two runs out.
LONGEST = "tests/integration/test_postfix.py"


def main(arguments: list[str]) -> int:
    """Run what is asked for; give pytest's exit code, the worse of two."""
    if arguments or len(os.sched_getaffinity(0)) < 2:
        return subprocess.run([*PYTEST, *arguments], check=False).returncode
    others = sorted(f"tests/{path.name}" for path in TESTS.iterdir() if any(path.glob("**/test_*.py")))
    others.remove("tests/integration")
    print(f"Two runs beside each other: tests/integration, and {' '.join([*others, LONGEST])}", flush=True)
    with tempfile.TemporaryFile() as output:
        # pytest's cache is one folder: only the first run writes it. Servers have deadlines, so they go first.
        second = subprocess.Popen(
            ["nice", "-n", "10", *PYTEST, "-p", "no:cacheprovider", *others, LONGEST],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        first = subprocess.run([*PYTEST, "tests/integration", f"--ignore={LONGEST}"], check=False)
        code = second.wait()
        output.seek(0)
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
    print(f"\ntests/integration ended with {first.returncode}, the others with {code}")
    return max(first.returncode, code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
