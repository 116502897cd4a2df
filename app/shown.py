"""The run that the page of explorers shows: ``python app/shown.py`` trains it once, then it is found on disk."""

import ncbook


def run() -> ncbook.runs.Run:
    """The default network on strokes, with its state at 16 moments of training."""
    return ncbook.train(ncbook.Experiment(measurements=16))


if __name__ == "__main__":
    shown = run()
    if not any(shown.directory.glob("features-*")):  # computed once, kept beside the run
        ncbook.explorers.CollapseExplorer(shown).close()
        ncbook.explorers.EpisodeExplorer(shown).close()
