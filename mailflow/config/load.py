"""Loading: a TOML file and the environment over it become Settings, or every fault at once.

The only way in: `serve` and `check-config` both come through here, so what one accepts the other
runs. Reads the file, the secret files, the TLS files and the routes' files; opens no socket. Never lets an exception
of a parser through: whatever is wrong is a Fault.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mailflow.config.address_files import read_address_files
from mailflow.config.contradiction import find_contradictions
from mailflow.config.environment import Overlay, read_environment
from mailflow.config.explain import explain_error
from mailflow.config.fault import ConfigFaults, Fault
from mailflow.config.model import Settings


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Load the configuration file `path` (None: no file) with the variables of `environ` over it.

    Paths in both are from the file's folder, without a file from the working folder.
    Raises ConfigFaults with every fault.
    """
    folder = Path.cwd() if path is None else path.absolute().parent
    overlay = read_environment(environ, folder)
    document = {} if path is None else _read_document(path)
    _lay_over(document, overlay)
    faults = list(overlay.faults)
    settings = None
    try:
        settings = Settings.model_validate(document, context=folder)
    except ValidationError as exc:
        faults += [explain_error(error, overlay) for error in exc.errors(include_url=False)]
    faults += find_contradictions(document)
    address_maps, file_faults = read_address_files(document, folder)
    faults += file_faults
    if settings is None or faults:
        raise ConfigFaults(tuple(dict.fromkeys(faults)))
    settings.keep_address_maps(address_maps)
    return settings


def _read_document(path: Path) -> dict[str, Any]:
    """Read the TOML file; what stops the reading is the only fault then, for nothing else is known."""
    text = ""
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text)
    except OSError as exc:
        fault = Fault(str(path), "", f"the configuration file cannot be read: {exc.strerror}")
    except UnicodeDecodeError as exc:
        fault = Fault(str(path), "", f"the configuration file is not UTF-8 (octet {exc.start})")
    except ValueError as exc:  # TOMLDecodeError says line and column; an integer may also have too many digits
        fault = Fault(str(path), "", f"the configuration file is not TOML: {_locate(exc, text)}")
    except RecursionError:
        fault = Fault(str(path), "", "the configuration file is nested too deep")
    raise ConfigFaults((fault,))


def _locate(error: ValueError, text: str) -> str:
    """Say a parser's finding with its line, also where the file ended too soon."""
    return str(error).replace("at end of document", f"at line {len(text.splitlines())}, the end of the file")


def _lay_over(document: dict[str, Any], overlay: Overlay) -> None:
    for key, value in overlay.values.items():
        table, dot, name = key.partition(".")
        if not dot:
            document[table] = value
        elif isinstance(target := document.setdefault(table, {}), dict):
            target[name] = value
