"""A notebook of three explorers and a browser; skipped, with the reason, where there is no browser."""

import front_ends
import pytest

pytest.register_assert_rewrite("by_keyboard")
REASON = front_ends.missing()
CELLS = [
    "# Explorers",
    "import ncbook\nfrom ncbook import explorers\nrun = ncbook.train(ncbook.{experiment!r}, runs_dir={folder!r})",
    "explorers.EpisodeExplorer(run)",
    "explorers.CollapseExplorer(run)",
    "explorers.BoundExplorer()",
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tiny):
    """A folder with notebooks/explorers.ipynb, whose run is trained."""
    if REASON:
        pytest.skip(REASON)
    import ncbook

    folder = tmp_path_factory.mktemp("front-ends")
    (folder / "notebooks").mkdir()
    runs = str(folder / "runs")
    ncbook.train(tiny, runs_dir=runs)
    cells = [cell.format(experiment=tiny, folder=runs) for cell in CELLS]
    front_ends.write_notebook(folder / "notebooks" / "explorers.ipynb", *cells)
    return folder


@pytest.fixture(scope="module")
def chromium():
    """Gone at the end of a file: while it is there, playwright's event loop runs in this thread."""
    if REASON:
        pytest.skip(REASON)
    with front_ends.browser() as browser:
        yield browser
