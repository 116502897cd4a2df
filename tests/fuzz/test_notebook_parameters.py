"""What papermill may inject into each notebook: taken, or refused by one `ParameterError` in the cell that checks."""

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inputs import right_or_refused
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

import ncbook
from ncbook.experiment import ParameterError, check_parameters

ROOT = Path(__file__).parents[2] / "notebooks"
# Whole numbers stay small: a notebook that is asked for a million networks makes a list of them.
SIMPLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from(["", "5", "nan", "conv4", "strokes", "omniglot", "auto", "none", "one_cycle", "ü", "a\nb", "{x}"]),
)
VALUES = st.one_of(SIMPLE, st.lists(SIMPLE, max_size=4), st.dictionaries(st.just("a"), SIMPLE, max_size=1))
NAMES = sorted(str(p.relative_to(ROOT).with_suffix("")) for p in ROOT.rglob("*.ipynb") if ".ipynb_" not in str(p))


def load(name):
    notebook = load_notebook_node(str(ROOT / f"{name}.ipynb"))
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
    return notebook


def run(notebook, parameters):
    """The cells of parameters and checks, as papermill has them run."""
    cells = [cell.source for cell in parameterize_notebook(notebook, parameters).cells]
    namespace = {}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(ncbook, "check_parameters", lambda: check_parameters(cells))
        for cell in cells:
            exec(cell, namespace)


@pytest.mark.parametrize("name", NAMES)
@given(st.data())
def test_a_parameter_is_taken_or_refused(name, data):
    notebook = load(name)
    declared = {}
    exec(notebook.cells[0].source, declared)
    names = [*declared["__annotations__"]]
    parameters = data.draw(st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=2))
    with right_or_refused(ParameterError) as refusal:
        run(notebook, parameters)
    if not refusal:  # what was taken is of the type that the notebook says, or is left to a default
        for name, value in parameters.items():
            kind = str(declared["__annotations__"][name]).removeprefix("<class '").removesuffix("'>")
            assert (
                value is None or type(value).__name__ == kind.partition("[")[0] or (kind, type(value)) == ("float", int)
            )
