"""A running worker takes up other configurations."""

import asyncio
from pathlib import Path

from mailflow.config import Settings, load_settings
from tests.scenario.service import serve


def settings(folder: Path, *, size: int, aliases: str = "") -> Settings:
    """The configuration that `serve` wrote, with another SIZE and a file of aliases."""
    text = (folder / "mailflow.toml").read_text() + f'aliases = "{aliases}"\n\n[mx]\nmax_message_bytes = {size}\n'
    file = folder / f"{size}.toml"
    file.write_text(text)
    return load_settings(file, {})


async def test_of_two_reloads_at_once_the_later_holds(tmp_path: Path) -> None:
    """The first has a file to wait for, the second has not."""
    (tmp_path / "aliases.toml").touch()
    async with serve(tmp_path) as service:
        first, second = settings(tmp_path, size=1111, aliases="aliases.toml"), settings(tmp_path, size=2222)
        await asyncio.gather(service.worker.reload(first), service.worker.reload(second))
        client = await service.connect()
        await client.reply()
        client.send(b"EHLO client.test\r\n")
        assert "SIZE 2222" in [(await client.line()).decode()[4:].strip() for _ in range(4)]
