"""pyproject.toml, requirements.txt, environment.yml and the Makefile say the same."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement

from ncbook import installation


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock(root):
    return [Requirement(line) for line in (root / "requirements.txt").read_text().splitlines()]


def test_lock_pins_every_package_exactly(lock):
    assert all([s.operator for s in pin.specifier] == ["=="] for pin in lock)


def test_lock_holds_every_requirement(project, lock):
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    for requirement in map(Requirement, wanted):
        pins = [pin for pin in lock if pin.name.replace("_", "-") == requirement.name.replace("_", "-")]
        assert pins, f"{requirement.name} is not in requirements.txt: make lock"
        assert all(requirement.specifier.contains(next(iter(p.specifier)).version) for p in pins)


@pytest.mark.parametrize("python", ["3.11.7", "3.12.1", "3.13.0"])
@pytest.mark.parametrize("name", ["numpy", "scipy", "torch", "torchvision", "pandas"])
def test_lock_has_one_version_for_each_python(lock, python, name):
    where = {
        "python_full_version": python, "python_version": python[:4], "sys_platform": "linux", "os_name": "posix",
        "platform_machine": "x86_64", "implementation_name": "cpython",
    }  # fmt: skip
    fitting = [pin for pin in lock if pin.name == name and (pin.marker is None or pin.marker.evaluate(where))]
    assert len(fitting) == 1


def test_lock_has_no_index_address(root):
    text = (root / "requirements.txt").read_text()
    assert not re.search(r"https?://|--(extra-)?index-url|file:|@ ", text)


def test_environment_reads_the_lock(root, project):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    python, pip, section = environment["dependencies"]
    assert pip == "pip" and section["pip"] == ["-r requirements.txt", "-e ."]
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= (3, 11)
    assert Requirement("x" + project["requires-python"]).specifier.contains(python.removeprefix("python="))


def test_version_is_said_once(project):
    import ncbook

    assert ncbook.__version__ == project["version"] == metadata.version("ncbook")


def test_make_lists_its_targets(root):
    listed = subprocess.run(["make"], cwd=root, capture_output=True, text=True, check=True).stdout
    for target in ("run", "test", "env", "lab", "lint", "notebooks", "figures", "bench"):
        assert f"make {target} " in listed


def test_installed_pair_fits():
    installation.check_pair()


@pytest.mark.parametrize(
    ("torch", "torchvision", "requires"),
    [
        ("2.13.0", "0.29.2", ["torch>=2.14.0"]),
        ("2.15.0", "0.28.0", ["numpy", "torch==2.13.0"]),
        ("2.15.0+cpu", "0.29.2+cu132", ["torch>=2.14.0"]),
    ],
)
def test_mismatched_pair_is_refused_in_one_sentence(monkeypatch, torch, torchvision, requires):
    monkeypatch.setattr(installation, "_version", {"torch": torch, "torchvision": torchvision}.get)
    monkeypatch.setattr(metadata, "requires", lambda _: requires)
    with pytest.raises(installation.InstallationError) as raised:
        installation.check_pair()
    message = str(raised.value)
    assert torch in message and torchvision in message and "make env" in message and "\n" not in message
    assert raised.value._render_traceback_() == [f"InstallationError: {message}"]


def test_every_module_is_reachable(root):
    """``ncbook.x`` works for every module and folder of the package, and imports no torch before it is used."""
    modules = [p for p in sorted((root / "ncbook").iterdir()) if p.suffix == ".py" or (p / "__init__.py").is_file()]
    public = [path.stem for path in modules if not path.stem.startswith("_")]
    assert len(public) > 12
    code = "import sys, ncbook; assert 'torch' not in sys.modules\n" + "\n".join(f"ncbook.{name}" for name in public)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
