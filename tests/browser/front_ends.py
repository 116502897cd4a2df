"""JupyterLab, voila and a headless Chromium as a reader has them, for the tests here and for benchmarks/explorers.py.

Everything lies in a folder of its own: no settings, workspaces or runs of the user are read or changed.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [  # as root Chromium starts without its sandbox only; the rest keeps it from calling home
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SECONDS = 60  # until a server or a page counts as hung
LAB_SETTINGS = {  # what asks for news from outside or covers the notebook
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "extensionmanager-extension/plugin": {"enabled": False},
}


def chromium() -> str | None:
    """Path of the browser: NCBOOK_CHROMIUM, or the first of PROGRAMS that is installed."""
    return os.environ.get("NCBOOK_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)


def missing() -> str:
    """Why there can be no browser here; empty if there can."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed (pip install playwright; no browser of its own is needed)"
    if chromium() is None:
        return f"no Chromium found: neither NCBOOK_CHROMIUM nor any of {', '.join(PROGRAMS)}"
    return ""


def write_notebook(path: Path, *cells: str) -> Path:
    """A notebook of code cells; one that begins with # is prose."""
    new = nbformat.v4
    made = [new.new_markdown_cell(c) if c.startswith("# ") else new.new_code_cell(c) for c in cells]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new.new_notebook(cells=made, metadata=kernel), path)
    return path


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[str]:
    """JupyterLab rooted in ``folder/notebooks``; yields the address of a notebook, with {} for its name."""
    for name, values in LAB_SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    port = free_port()
    options = [f"--ServerApp.root_dir={folder / 'notebooks'}", "--no-browser", "--LabApp.extension_manager=readonly",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=test",
               "--LabApp.news_url=None"]  # fmt: skip
    with server(["jupyterlab", *options, "--allow-root"], folder, port):
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token=test"


@contextlib.contextmanager
def voila(folder: Path, notebook: Path, *options: str) -> Iterator[str]:
    """Voila serving one notebook; yields its address."""
    port = free_port()
    command = ["voila", str(notebook), "--no-browser", f"--port={port}", "--template=ncbook", "--show_tracebacks=True"]
    with server([*command, *options], folder, port):
        yield f"http://127.0.0.1:{port}/"


@contextlib.contextmanager
def server(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """Run a module of Jupyter until the block ends; it is entered once somebody listens on ``port``."""
    own = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "JUPYTER", "JPY_"))},
        **{f"JUPYTER_{name}": str(folder / name.lower()) for name in own},
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_PATH": str(ROOT / "app"),  # the template of voila's page
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "NCBOOK_PROGRESS": "off",
        "OMP_NUM_THREADS": "1",
    }
    log = folder / f"{command[0]}.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", *command], env=env, stdout=output, stderr=output)
        try:
            wait_for(port, process, log)
            yield
        finally:
            process.terminate()  # kernels are ended by their server
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    """Until the port is open."""
    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"port {port} stays closed:\n{log.read_text()[-3000:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def browser() -> Iterator:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield program
        finally:
            program.close()


def open_page(browser, address: str):
    """A page on an address; ``page.errors`` gathers what its console calls an error, and nothing is left out."""
    page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    page.set_default_timeout(1000 * SECONDS)
    page.errors = []
    page.on("console", lambda line: page.errors.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address, wait_until="commit")
    return page


def run_all(page) -> None:
    """Run every cell of the notebook that JupyterLab shows.

    JupyterLab calls a kernel idle a moment before it listens; what is run in that moment is forgotten, and prompts are
    empty again. So it is asked until a prompt has its number.
    """
    from playwright.sync_api import TimeoutError

    prompt = page.locator(".jp-CodeCell .jp-InputPrompt").first
    for _ in range(5):
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
        page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
        with contextlib.suppress(TimeoutError):  # asked in that moment, it may never show that it is busy
            page.wait_for_function("e => /[*0-9]/.test(e.textContent)", arg=prompt.element_handle(), timeout=3000)
        page.wait_for_function("e => !e.textContent.includes('*')", arg=prompt.element_handle())
        if re.search(r"\d", prompt.inner_text()):
            return
    raise RuntimeError("the kernel ran nothing")


def wait_for_pictures(page, count: int) -> None:
    """Until so many explorers are on the page; JupyterLab makes what is below the fold when it has time."""
    try:
        page.locator("img.widget-image").nth(count - 1).wait_for(state="attached")
    except Exception:
        if folder := os.environ.get("NCBOOK_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / "no_picture.png")
        raise


class Shown:
    """One explorer on a page, the first being number 0."""

    def __init__(self, page, number: int):
        self.page = page
        self.box = page.locator(".widget-vbox", has=page.locator("img.widget-image")).nth(number)
        self.picture = self.box.locator("img.widget-image")
        self.picture.scroll_into_view_if_needed()

    @property
    def text(self) -> str:
        """Its lines."""
        return "\n".join(self.box.locator(".widget-html-content").all_inner_texts())

    @property
    def source(self) -> str:
        """Address of the picture: another one for each picture."""
        return self.picture.get_attribute("src")

    def handle(self, label: str):
        """The handle of the slider with that label."""
        slider = self.box.locator(".widget-slider").filter(has=self.page.get_by_text(label, exact=True))
        return slider.get_by_role("slider")

    def button(self, label: str):
        """The button with that label."""
        return self.box.get_by_role("button", name=label, exact=True)

    @contextlib.contextmanager
    def new_picture(self, words: str) -> Iterator[None]:
        """Wait, after the block, for another picture that is painted and for lines with these words."""
        before = self.source
        yield
        self.page.wait_for_function(
            "([img, before]) => img.src !== before && img.complete && img.naturalWidth > 0",
            arg=[self.picture.element_handle(), before],
        )
        self.box.locator(".widget-html-content").get_by_text(words).wait_for()

    def wait_until_at_rest(self, milliseconds: int = 1000) -> None:
        """Wait until the picture has been the same for so long: what follows a moving slider is there."""
        self.page.wait_for_function(
            """([img, time]) => {
                if (img.src !== img.restingSource) [img.restingSource, img.restingSince] = [img.src, performance.now()];
                return performance.now() - img.restingSince >= time;
            }""",
            arg=[self.picture.element_handle(), milliseconds],
        )


def wait_until(condition, problem: str) -> None:
    """Until a condition on this side of the browser holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(problem)
        time.sleep(0.05)
