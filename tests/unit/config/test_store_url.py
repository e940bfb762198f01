"""store.url: which store, what is refused, and that no text made of it tells a password."""

from pathlib import Path

import pytest

from mailflow.config import ConfigFaults, PostgresServer, SqliteFile, load_settings

HEAD = 'hostname = "mx.test"\nroles = ["admin"]\n[store]\n'


def load(folder: Path, url: str) -> SqliteFile | PostgresServer | None:
    file = folder / "mailflow.toml"
    file.write_text(f"{HEAD}url = '{url}'\n")
    return load_settings(file, {}).store.url


def test_an_absolute_path_has_three_slashes(tmp_path: Path) -> None:
    assert load(tmp_path, "sqlite:///var/lib/mailflow/queue.db") == SqliteFile(Path("/var/lib/mailflow/queue.db"))


def test_a_relative_path_is_from_the_files_folder(tmp_path: Path) -> None:
    assert load(tmp_path, "sqlite://var/queue.db") == SqliteFile(tmp_path / "var/queue.db")


def test_no_store_is_asked_for_by_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "") is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://mailflow@db/mailflow",
        "postgresql://mailflow:secret@db:5433/mailflow?sslmode=require",
        "postgresql:///mailflow?host=/run/postgresql",
        "postgres://db/mailflow",
    ],
)
def test_a_postgresql_is_named_by_what_libpq_reads(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, url) == PostgresServer(url.replace("postgres://", "postgresql://"))


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///var/lib/",
        "/var/lib/queue.db",
        "mysql://db/mailflow",
        "postgresql://db",
        "postgresql://db/",
        "postgresql://u:secret@/db with space",
    ],
)
def test_another_url_is_a_fault_that_does_not_show_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigFaults) as refused:
        load(tmp_path, url)
    assert [str(fault).partition(": ")[0] for fault in refused.value.faults] == ["store.url = (not shown)"]


def test_a_password_is_in_no_text(tmp_path: Path) -> None:
    server = load(tmp_path, "postgresql://mailflow:s3cret@db:5433/mailflow?password=s3cret")
    assert str(server) == "postgresql://mailflow@db:5433/mailflow"
    assert "s3cret" not in repr(server)


def test_a_process_for_delivery_alone_needs_a_store(tmp_path: Path) -> None:
    file = tmp_path / "mailflow.toml"
    file.write_text('hostname = "mx.test"\nroles = ["delivery"]\n')
    with pytest.raises(ConfigFaults, match=r"store\.url"):
        load_settings(file, {})
