"""The house: imports point down, nothing runs in circles, sans-IO stays sans-IO, public names have docstrings.

Every import counts, also inside a function or under TYPE_CHECKING: a type only named is still knowledge of the other
room, and what must not know it needs a Protocol further down. Rooms of one floor may use each other one way.
"""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FLOORS = [
    "cli",
    "supervisor",
    "app",
    "receive deliver admin reports testing",
    "smtp mailauth store",
    "mail dns observe config",
]
FLOOR = {room: -depth for depth, rooms in enumerate(FLOORS) for room in rooms.split()}
SANS_IO = [
    *("mail", "smtp.commands", "smtp.dsn_parameters", "smtp.data", "smtp.sasl"),
    *("mailauth.spf_record", "mailauth.spf_macro", "mailauth.dmarc_record", "mailauth.bimi_record"),
    *("mailauth.canonical", "mailauth.dkim_tags", "mailauth.dkim_signature"),
    *("mailauth.arc_chain", "mailauth.arc_trust", "mailauth.explain"),
    *("mailauth.author", "mailauth.mailbox_list", "mailauth.lax_addresses", "mailauth.encoded_words"),
    *("mailauth.field_text", "mailauth.authentication_results", "mailauth.received_spf", "mailauth.forged_results"),
    *("receive.verdict", "deliver.schedule"),
]
IO = {"asyncio", "uvloop", "socket", "ssl", "time", "random", "secrets", "logging", "structlog"}


def module_name(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {module_name(path): ast.parse(path.read_text()) for path in sorted((ROOT / "mailflow").rglob("*.py"))}
PACKAGES = {module_name(path) for path in (ROOT / "mailflow").rglob("__init__.py")}


def imported(module: str, tree: ast.Module) -> set[str]:
    """Every name that `module` imports: `a.b`, and `a.b.c` for `from a.b import c`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level + (module in PACKAGES) or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


IMPORTS = {module: imported(module, tree) for module, tree in TREES.items()}
ARROWS = {module: {name for name in names if name in TREES and name != module} for module, names in IMPORTS.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def circle(graph: dict[str, set[str]]) -> str:
    """One way round, as `a <- b <- a`, or an empty string."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return " <- ".join(error.args[1])
    return ""


def test_every_module_is_in_a_room_of_the_plan() -> None:
    outside = {"", "__main__"}
    assert {room(module) for module in TREES} - outside <= set(FLOOR)


def test_imports_point_down() -> None:
    arrows = [(module, target) for module, targets in ARROWS.items() for target in targets if room(module) in FLOOR]
    assert [(a, b) for a, b in arrows if FLOOR.get(room(b), -99) > FLOOR[room(a)]] == []


def test_receive_and_deliver_never_import_each_other() -> None:
    arrows = [(module, target) for module, targets in ARROWS.items() for target in targets]
    assert [(a, b) for a, b in arrows if {room(a), room(b)} == {"receive", "deliver"}] == []


def test_no_module_imports_itself_through_others() -> None:
    assert circle(ARROWS) == ""


def test_rooms_use_each_other_one_way() -> None:
    rooms: dict[str, set[str]] = {}
    for module, targets in ARROWS.items():
        rooms.setdefault(room(module), set()).update(room(target) for target in targets)
    assert circle({name: used - {name, ""} for name, used in rooms.items()}) == ""


@pytest.mark.parametrize("module", [m for m in TREES if f"{m}.".startswith(tuple(f"mailflow.{p}." for p in SANS_IO))])
def test_sans_io_modules_import_no_io_clock_randomness_or_log(module: str) -> None:
    assert {name for name in IMPORTS[module] if name.split(".")[0] in IO} == set()


@pytest.mark.parametrize("module", TREES)
def test_every_public_name_has_a_docstring(module: str) -> None:
    tree = TREES[module]
    bare = [] if ast.get_docstring(tree) else [module]
    scopes: list[ast.Module | ast.ClassDef] = [tree]
    for scope in scopes:
        for node in scope.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                bare += [] if is_overload(node) or ast.get_docstring(node) else [f"{module}:{node.lineno} {node.name}"]
                scopes += [node] if isinstance(node, ast.ClassDef) else []
    assert bare == []


def is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return any(ast.unparse(decorator).rpartition(".")[2] in {"overload", "setter"} for decorator in node.decorator_list)
