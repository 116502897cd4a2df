"""The house of CONTRIBUTING.md: imports go downwards, rooms know what they may know, every file is listed."""

import ast
import importlib
import subprocess
import sys
import types

import pytest

LAYERS = [  # from the bottom; modules of one line may not import each other unless the order within it allows
    ["_checks", "progress", "installation", "catalog", "_files"],
    ["collapse", "fewshot", "theory"],
    ["experiment", "datasets", "backbones", "objectives", "features"],
    ["runs", "training"],
    ["episodewise", "layerwise", "sweeps"],
    ["published", "claims", "plots", "explorers", "report"],
]
HEIGHT = {name: (height, place) for height, line in enumerate(LAYERS) for place, name in enumerate(line)}


def imports(path):
    """Modules of the package that a file imports, anywhere in it but under TYPE_CHECKING: (module, names)."""
    tree = ast.parse(path.read_text())
    hidden = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(inner) for node in hidden for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "ncbook":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("ncbook."))


def files(root):
    for path in sorted((root / "ncbook").rglob("*.py")):
        room = path.relative_to(root / "ncbook").parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path


def test_imports_go_downwards(root):
    wrong = [
        f"{path.relative_to(root)} imports {name}"
        for room, path in files(root)
        for name in imports(path)
        if name != room and name in HEIGHT and HEIGHT[name] >= HEIGHT[room]
    ]
    assert not wrong, wrong
    assert {room for room, _ in files(root)} == set(HEIGHT)


@pytest.mark.parametrize(
    ("file", "forbidden"),
    [
        ("training/trainer.py", {"runs", "_files"}),
        ("training/measuring.py", {"runs", "_files"}),
        ("runs/store.py", {"training", "collapse", "fewshot"}),
        ("collapse/pairs.py", {"fewshot", "theory", "datasets", "experiment"}),
    ],
)
def test_rooms_know_only_what_they_may(root, file, forbidden):
    assert not forbidden & set(imports(root / "ncbook" / file))


def test_the_trainer_knows_no_path(root):
    text = (root / "ncbook" / "training" / "trainer.py").read_text()
    assert "pathlib" not in text and "import os" not in text and "open(" not in text


def test_pure_rooms_import_nothing_but_checks(root):
    for room, path in files(root):
        if room in ("collapse", "fewshot"):
            assert set(imports(path)) <= {room, "_checks"}, path


def test_every_file_is_listed_with_its_purpose(root):
    listed = (root / "CONTRIBUTING.md").read_text()
    for room, path in files(root):
        parts = path.relative_to(root / "ncbook").parts
        block = listed.split(f"ncbook/{room}/\n")[1].split("\nncbook/")[0] if len(parts) > 1 else listed
        assert (f"  {parts[1]} " if len(parts) > 1 else f"ncbook/{parts[0]} ") in block, path
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_every_room_can_be_imported_alone():
    """No circle that only the usual order of imports hides."""
    code = """
import importlib, os, sys
import pandas, torch, torchvision  # seconds, and nothing of this package
for name in sys.argv[1:]:
    if not (child := os.fork()):
        importlib.import_module("ncbook." + name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(name)
"""
    rooms = ("runs", "training", "objectives", "collapse", "fewshot", "theory", "datasets")
    done = subprocess.run([sys.executable, "-c", code, *rooms], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def names_defined(path):
    """Public names that a file defines, in place of those that it imports."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        for target in node.targets if isinstance(node, ast.Assign) else []:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def test_dir_shows_all_public_names_and_no_others(root):
    for room in sorted({room for room, _ in files(root) if not room.startswith("_")}):
        module = importlib.import_module(f"ncbook.{room}")
        shown = dir(module)
        assert sorted(module.__all__) == shown and all(hasattr(module, name) for name in shown)
        path = root / "ncbook" / f"{room}.py"
        path = path if path.is_file() else root / "ncbook" / room / "__init__.py"
        defined = {name for name in names_defined(path) if not name.startswith("_")}
        if path.name == "__init__.py":
            assert defined <= set(shown), room
            imported = [name for name in shown if isinstance(getattr(module, name), types.ModuleType)]
            assert all(getattr(module, name).__name__.startswith(f"ncbook.{room}.") for name in imported), room
        else:
            assert defined == set(shown), room
