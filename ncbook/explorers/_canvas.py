"""What every explorer is made of: one persistent figure, shown as a picture beside controls that are traits.

Pictures go into an `ipywidgets.Image`: no Output widget, and no figure per change. What stays from one picture to the
next is drawn once and kept as pixels; the rest is drawn on top. A control only notes its value, and the next picture
shows the latest values of all controls, so that at most one picture is under way. Widgets are imported where somebody
can click on them, and nowhere else.
"""

import asyncio
import base64
import contextlib
import html
import io
import os
import textwrap
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import traitlets
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ncbook._checks import nearest
from ncbook.runs import Run

STYLE = {"font.size": 8, "axes.titlesize": 8, "axes.grid": False, "axes.spines.top": False, "axes.spines.right": False,
         "legend.frameon": False, "legend.fontsize": 7, "lines.linewidth": 1.4, "xtick.labelsize": 7,
         "ytick.labelsize": 7}  # fmt: skip
FORMATS = {"jpeg": {"quality": 88, "subsampling": 0}, "png": {"compress_level": 1}}
FOOT = 0.1  # of the height, where the caption stands
GATHER, REST = 0.005, 0.3  # seconds: for messages that are already here, and until a control counts as at rest


def is_live() -> bool:
    """Whether somebody can click here: a kernel of JupyterLab or voila; not of papermill, nbval or nbconvert."""
    return "JPY_SESSION_NAME" in os.environ or "VOILA_BASE_URL" in os.environ


class Panel(NamedTuple):
    """One of the axes.

    Attributes:
        key: as long as it is the same, what ``still`` has drawn stays.
        still: draws on empty axes, and sets their limits.
        moving: draws on top, anew in every picture, and returns what it has drawn.
    """

    key: Hashable
    still: Callable[[Axes], None]
    moving: Callable[[Axes], Iterable[Artist]]


class Explorer(traitlets.HasTraits):
    """A picture of some values, drawn again whenever one of them changes.

    A subclass names its values in ``names`` (each a trait) and has

    - ``_look(quick) -> (text, panels)``, which checks all values and computes; ``quick``: only what is cheap or cached.
      What it refuses is said in ``message``, and values and picture stay as they were;
    - ``_slow() -> (kind, key, make) or None``: what ``_look(False)`` will ask `_remember` for and is not there yet;
    - ``_controls(w)``: widgets of the module ``w`` (ipywidgets), a control under the name of its value.

    Attributes:
        text: what the picture shows, in words.
        message: one sentence about a value that was refused; empty otherwise.
    """

    names: tuple[str, ...] = ()
    size = (9.9, 4.0)  # inches, 100 pixels each
    places: tuple[tuple[float, float, float, float], ...] = ()  # of the axes: left, bottom, width, height
    buttons: dict[str, str] = {}  # label -> method

    text = traitlets.Unicode()
    message = traitlets.Unicode()

    def __init__(self, data: str, values: dict):
        super().__init__()
        self._data = data  # how the caller's data is written in `call`
        self._cache: dict[str, dict] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._waiting: dict[str, Any] = {}
        self._widget, self.controls, self._held, self._working = None, {}, False, None
        with mpl.rc_context(STYLE):
            self._figure = Figure(figsize=self.size, dpi=100, layout="none")
            self._canvas = FigureCanvasAgg(self._figure)
            self._axes = [self._figure.add_axes(place) for place in self.places]
            self._caption = self._figure.text(0.01, 0.01, "", fontsize=7.5, va="bottom")
        self._keys, self._moving = [None] * len(self._axes), []
        self._set(values)
        self._accept(*self._look(False))
        self.observe(lambda _: self._held or self._show(), names=list(self.names))

    @property
    def call(self) -> str:
        """The Python call that makes this explorer again, with the caller's data under the names of its parameters."""
        values = [f"{name}={value!r}" for name, value in self._shown.items()]
        return f"explorers.{type(self).__name__}({', '.join(filter(None, [self._data, *values]))})"

    def draw(self) -> Figure:
        """Return the figure of the present state: always the same one, drawn again at every change.

        Raises:
            ValueError: the explorer is closed.
        """
        self._refuse_closed()
        self._caption.set_visible(True)
        return self._figure

    def update(self, *, quick: bool = False, **values) -> None:
        """Set several values at once, with one picture for all of them.

        Args:
            quick: as while a slider moves: JPEG, and nothing that takes long.
            values: by name.
        """
        unknown = next((name for name in values if name not in self.names), None)
        if unknown is not None:
            self._refuse(f"{unknown} is no value of this explorer; {nearest(unknown, self.names)}")
            return
        self._set(values)
        self._show(quick)

    def close(self) -> None:
        """Free the figure, the widgets and what was computed; what is asked of the explorer later says so."""
        for timer in self._timers.values():
            timer.cancel()
        for part in _family(self._widget):
            part.close()
        if self._figure is not None:
            self._figure.clear()
        self._figure = self._canvas = self._widget = self._caption = self._background = None
        self._axes, self._moving, self.controls, self._cache, self._timers, self._waiting = [], [], {}, {}, {}, {}

    @property
    def widget(self):
        """The controls and the picture, an ipywidgets.VBox; made at the first use.

        Raises:
            ValueError: the explorer is closed.
        """
        self._refuse_closed()
        if self._widget is None:
            import ipywidgets as w

            made = self._controls(w)
            self.controls = {name: made[name] for name in self.names if name in made}
            for name, control in self.controls.items():
                control.tooltip, control.style.description_width = name.replace("_", " "), "initial"
                control.observe(lambda change, name=name: self._held or self._ask(name, change["new"]), "value")
            row = list(made.values())
            for label, method in self.buttons.items():
                button = w.Button(description=label, layout=w.Layout(width="auto"))
                button.on_click(lambda _, method=method: getattr(self, method)())
                row.append(button)
            self._image, self._lines = w.Image(format="png"), [w.HTML() for _ in range(3)]
            parts = [w.Box(row, layout=w.Layout(flex_flow="row wrap")), self._image, *self._lines]
            self._widget = w.VBox(parts, layout=w.Layout(max_width=f"{100 * self.size[0]:.0f}px"))
            self._send("png")
        return self._widget

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        name = type(self).__name__
        if self._figure is None:
            return {"text/plain": f"{name}: closed"}
        bundle = {
            "text/plain": f"{name}: a picture here; with controls in JupyterLab and voila",
            "image/png": base64.b64encode(self._encoded("png", caption=True)).decode(),
        }
        if is_live():
            view = "application/vnd.jupyter.widget-view+json"
            bundle[view] = self.widget._repr_mimebundle_()[view]
        return bundle

    def _in_control(self, name: str) -> Any:
        """A value as its control shows it; None: as it is."""
        return getattr(self, name)

    def _largest(self) -> dict[str, int]:
        """Ends of the sliders that depend on other values."""
        return {}

    def _slow(self) -> tuple[str, Hashable, Callable[[], Any]] | None:
        return None

    def _show(self, quick: bool = False) -> None:
        try:
            self._refuse_closed()
            text, panels = self._look(quick)
        except (TypeError, ValueError, ArithmeticError, OSError) as error:
            self._set(self._shown)
            self._refuse(" ".join(str(error).split()))
            return
        self._accept(text, panels, "jpeg" if quick else "png")

    def _refuse(self, message: str) -> None:
        """Say why, beside the picture that was there before."""
        self.message = message
        if self._widget is not None:
            self._send(None)

    def _accept(self, text: str, panels: list[Panel], form: str = "png") -> None:
        values = {name: getattr(self, name) for name in self.names}
        self._shown = {n: v.item() if isinstance(v, np.generic) else v for n, v in values.items()}  # for `call`
        self.text, self.message = text, ""
        self._paint(panels)
        self._caption.set_text(textwrap.fill(text, int(19 * self.size[0])))
        if self._widget is not None:
            self._send(form)

    def _paint(self, panels: list[Panel]) -> None:
        for artist in self._moving:
            artist.remove()
        self._moving = []
        with mpl.rc_context(STYLE):
            for k, (ax, panel) in enumerate(zip(self._axes, panels, strict=True)):
                if self._keys[k] != (panel.key,):
                    ax.clear()
                    panel.still(ax)
                    ax.set_autoscale_on(False)
                    self._background = None
                    self._keys[k] = (panel.key,)
            if self._background is None:
                self._caption.set_visible(False)
                self._canvas.draw()
                self._background = self._canvas.copy_from_bbox(self._figure.bbox)
            for ax, panel in zip(self._axes, panels, strict=True):
                self._moving += panel.moving(ax)

    def _send(self, form: str | None) -> None:
        """Bring controls, lines and, unless ``form`` is None, the picture up to date."""
        with self._quiet():
            for name, control in self.controls.items():
                value = self._in_control(name)
                if value is not None and name not in self._waiting:
                    if getattr(control, "max", None) is not None and not hasattr(control, "base"):  # of a log slider
                        control.max = max(self._largest().get(name, control.max), value)
                    control.value = value
        ways = ("span role='status'", self.text), ("b role='alert'", self.message), ("code", self.call)
        for line, (tag, words) in zip(self._lines, ways, strict=True):
            line.value = f"<{tag}>{html.escape(words)}</{tag.split()[0]}>"
        if form is not None:
            with self._image.hold_sync():
                self._image.format, self._image.value = form, self._encoded(form, caption=False)

    def _encoded(self, form: str, *, caption: bool) -> bytes:
        self._canvas.restore_region(self._background)
        for artist in self._moving:
            artist.axes.draw_artist(artist)
        self._caption.set_visible(caption)  # beside the controls it is a line of text
        self._figure.draw_artist(self._caption)
        pixels, buffer = np.asarray(self._canvas.buffer_rgba()), io.BytesIO()
        if not caption:
            pixels = pixels[: int((1 - FOOT) * len(pixels))]
        Image.fromarray(pixels).convert("RGB").save(buffer, form, **FORMATS[form])
        return buffer.getvalue()

    def _ask(self, name: str, value: Any) -> None:
        """Note what a control says; one picture shows all that was noted."""
        self._waiting[name] = value
        if "picture" not in self._timers:
            self._after("picture", GATHER, self._show_waiting)

    def _show_waiting(self) -> None:
        values, self._waiting = self._waiting, {}
        self.update(quick=True, **values)
        if not self.message:  # else a sentence that is to stay, beside a picture that is finished
            self._after("rest", REST, self._finish)

    def _finish(self) -> None:
        """At rest: a sharp picture with all that takes long, computed in a thread so that controls go on working."""
        if self._figure is None or self._working is not None:
            return
        slow, loop = self._slow(), _running_loop()
        if slow is None or loop is None:
            refused = self.message
            self._show()
            if refused and not self.message:
                self._refuse(refused)  # it stays until the next change
            return
        self._send("png")
        kind, key, make = slow
        self._working = loop.run_in_executor(None, make)

        def done(future: asyncio.Future) -> None:
            self._working = None
            if self._figure is not None:
                if future.exception() is None:
                    self._remember(kind, key, future.result)
                    self._after("rest", 0 if "rest" not in self._timers else REST, self._finish)
                else:
                    self._show()  # meets the same error, and says it

        self._working.add_done_callback(done)

    def _after(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        """Do it later, in place of what waits under that name; at once where no event loop runs."""

        def act() -> None:
            self._timers.pop(name, None)
            action()

        if name in self._timers:
            self._timers.pop(name).cancel()
        if (loop := _running_loop()) is None:
            act()
        else:
            self._timers[name] = loop.call_later(seconds, act)

    def _remember(self, kind: str, key: Hashable, make: Callable[[], Any], keep: int = 8) -> Any:
        """What was computed for a key, or is now; the latest few of each kind are kept."""
        kept = self._cache.setdefault(kind, {})
        kept[key] = kept.pop(key) if key in kept else make()
        while len(kept) > keep:
            del kept[next(iter(kept))]
        return kept[key]

    def _set(self, values: dict) -> None:
        with self._quiet():
            for name, value in values.items():
                setattr(self, name, value)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    def _refuse_closed(self) -> None:
        if self._figure is None:
            raise ValueError(f"this explorer is closed; {self.call} makes it again")


def refuse_labels_with_run(run: object, labels: object) -> None:
    """Labels belong to features of the caller's own."""
    if isinstance(run, Run) and labels is not None:
        raise ValueError("labels with a Run; allowed: None, since a run has its own")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _family(widget) -> Iterator:
    """A widget, its children, and what belongs to each: `Widget.close` leaves layouts and styles behind."""
    if widget is not None:
        for child in getattr(widget, "children", ()):
            yield from _family(child)
        yield from (part for name in ("style", "layout") if (part := getattr(widget, name, None)) is not None)
        yield widget
