"""pyproject.toml, requirements.txt, environment.yml and the Makefile say the same."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
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


def test_every_dependency_has_a_floor(project):
    wanted = project["dependencies"] + project["optional-dependencies"]["notebooks"]
    assert all([s.operator for s in requirement.specifier] == [">="] for requirement in map(Requirement, wanted))


def test_metadata_says_which_pythons(project):
    pythons = {line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line}
    assert pythons == {"3.11", "3.12", "3.13"} and project["keywords"]


def test_environment_reads_the_lock(root, project):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    python, pip, section = environment["dependencies"]
    assert pip == "pip" and section["pip"] == ["-r requirements.txt", "-e ."]
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= (3, 11)
    assert Requirement("x" + project["requires-python"]).specifier.contains(python.removeprefix("python="))


def test_version_is_the_same_everywhere(root, project):
    import ncbook

    assert (
        ncbook.__version__
        == project["version"]
        == metadata.version("ncbook")
        == yaml.safe_load((root / "CITATION.cff").read_text())["version"]
    )


def test_make_lists_its_targets(root):
    listed = subprocess.run(["make"], cwd=root, capture_output=True, text=True, check=True).stdout
    for target in ("run", "test", "env", "lab", "lint", "notebooks", "figures", "bench", "app"):
        assert f"make {target} " in listed


def test_recipes_are_not_echoed(root):
    """What a recipe prints is what its commands say: no shell loop is shown before it."""
    lines = (root / "Makefile").read_text().splitlines()
    first = [line for before, line in zip(lines, lines[1:], strict=False) if not before.endswith("\\")]
    assert [line for line in first if line.startswith("\t") and not line.startswith("\t@")] == []


def make(root, *arguments, **options):
    command = ["make", "-o", "env", "-o", ".venv/.installed", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, **options)


def test_lab_is_rooted_here_and_takes_flags(root, tmp_path):
    fake = tmp_path / "id"
    for user, allowed in (("0", True), ("1000", False)):
        fake.write_text(f"#!/bin/sh\necho {user}\n")
        fake.chmod(0o755)
        path = f"{tmp_path}:/usr/bin:/bin"
        shown = make(root, "-n", "lab", "FLAGS=--no-browser --port 8889", env={"PATH": path}, check=True).stdout
        assert f'root_dir="{root}"' in shown and "--no-browser --port 8889" in shown
        assert ("--allow-root" in shown) == allowed


def test_app_trains_before_it_serves_and_takes_flags(root):
    shown = make(root, "-n", "app", "FLAGS=--no-browser --port 8889", check=True).stdout
    trained, served = shown.index("app/shown.py"), shown.index("voila app/explorers.ipynb")
    assert trained < served < shown.index("--no-browser --port 8889")


def test_only_the_warning_about_tcp_is_left_out(root):
    warning = "[IPKernelApp] WARNING | Kernel is running over TCP without encryption. All communication"
    recipe = f"try:\n\t@(echo '{warning}' >&2; echo 'another warning' >&2; exit 3) $(QUIETLY)"
    done = make(root, "--eval", recipe, "try")
    assert done.returncode != 0  # the command's own status, not the filter's
    assert "another warning" in done.stderr and "TCP" not in done.stderr


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


@pytest.fixture(scope="module")
def clone(root, tmp_path_factory):
    """What a fresh clone named ncbook holds for an installation, in a folder of its own."""
    folder = tmp_path_factory.mktemp("above") / "ncbook"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "ncbook", folder / "ncbook", ignore=ignore)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(root / name, folder)
    return folder


def python(code, cwd, path="", *options):
    """Run code where nothing but ``path`` and the installed packages can be imported."""
    command = [sys.executable, *options, "-c", code]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": str(path)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def test_the_folder_above_a_clone_does_not_hide_the_package(clone, tmp_path):
    """There, the folder of the clone looks like an empty package; an editable install must win over it."""
    build = "import setuptools.build_meta as b, sys; b.build_editable(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    # Without the environment's own .pth files, one of which leads to the working tree.
    packages = sysconfig.get_paths()["purelib"]
    code = f"import site, sys; sys.path.append({packages!r}); site.addsitedir({str(tmp_path / 'site')!r}); "
    done = python(code + "import ncbook; print(ncbook.Experiment.__module__, ncbook.__file__)", clone.parent, "", "-S")
    assert done.stdout.split() == ["ncbook.experiment", str(clone / "ncbook" / "__init__.py")], done.stderr


def test_a_wheel_holds_the_package_and_its_data(clone, tmp_path):
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(clone)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        wheel.extractall(tmp_path / "site")
    files = {str(p.relative_to(clone)) for p in (clone / "ncbook").rglob("*") if p.is_file()}
    assert held == {name for name in files if "__pycache__" not in name}
    data = "len(ncbook.published.table()), len(_lists.class_list('fc100', 'novel'))"
    code = f"import ncbook; from ncbook.datasets import _lists; print({data}, ncbook.__file__)"
    done = python(code, tmp_path, tmp_path / "site")
    assert done.stdout.split() == ["96", "20", str(tmp_path / "site" / "ncbook" / "__init__.py")], done.stderr


def test_what_a_build_leaves_behind_is_ignored(root):
    assert {"build/", "dist/", "*.egg-info/"} <= set((root / ".gitignore").read_text().splitlines())
