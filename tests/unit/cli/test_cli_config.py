"""The command line: what it lists, its exit codes, and that no traceback reaches the operator."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

GOOD = 'hostname = "mx.example.org"\nroles = ["admin"]\n'
RUN = (sys.executable, "-c", "from mailflow.cli import main; main()")


def run(*args: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "", "NO_COLOR": "1", **environ}
    return subprocess.run([*RUN, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_check_config_of_a_good_file_exits_0_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "mailflow.toml").write_text(GOOD)
    done = run("check-config", cwd=tmp_path)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_check_config_exits_2_with_one_line_for_each_fault(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("workers = 999\n[mx]\nmax_errors = 0\n")
    done = run("check-config", "-c", str(tmp_path / "bad.toml"), MAILFLOW_LOG__LEVEL="loud")
    assert done.returncode == 2
    keys = {line.replace(":", " ").split()[0] for line in done.stdout.splitlines()}
    assert keys == {"hostname", "workers", "mx.max_errors", "log.level", "backend", "route"}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_check_config_of_no_file_is_a_fault_without_traceback(tmp_path: Path, name: str) -> None:
    done = run("check-config", "-c", name, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be read" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_serve_refuses_what_check_config_refuses_and_keeps_stdout_for_the_log(tmp_path: Path) -> None:
    (tmp_path / "mailflow.toml").write_text(GOOD)
    done = run("serve", "--workers", "999", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("workers = 999: allowed is")
    assert done.stdout == ""


def test_config_reference_prints_toml() -> None:
    done = run("config-reference")
    assert done.returncode == 0
    assert tomllib.loads(done.stdout)["mx"]["max_errors"] == 20


def test_an_unknown_command_exits_2() -> None:
    assert run("doctor").returncode == 2


def test_help_does_not_load_the_service() -> None:
    code = (
        "import sys, mailflow.cli; print([m for m in ('pydantic', 'aiosmtpd', 'structlog', 'ssl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
