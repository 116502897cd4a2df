"""``python -m ncbook.report pictures.zip --model resnet18 --html report.html``: the report from the command line.

Under ``torchrun`` every process takes its part of the images, and the first one writes.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from ncbook.report import report
from ncbook.report.images import part_of_process
from ncbook.report.measure import HARDEST


def parser() -> argparse.ArgumentParser:
    """The arguments; their defaults are those of `ncbook.report`."""
    made = argparse.ArgumentParser("python -m ncbook.report", description="Collapse and few-shot transfer of a model.")
    made.add_argument("data", help="a folder or zip of class folders, or a data set of the package")
    made.add_argument("--model", required=True, help="a name of torchvision or timm, such as resnet18")
    made.add_argument("--weights", default="auto", help="auto, pretrained (may download), random, or a file")
    made.add_argument("--html", metavar="FILE", help="write the page here")
    made.add_argument("--csv", metavar="FOLDER", help="write the tables here")
    made.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    made.add_argument("--ways", type=int, nargs="+", default=[5])
    made.add_argument("--heads", nargs="+", default=["ncc", "ridge"], help="ncc, ridge, logistic, cosine")
    made.add_argument("--episodes", type=int, default=10_000)
    made.add_argument("--batch-size", type=int)
    made.add_argument("--per-class", type=int, default=200, help="images per class that are kept")
    made.add_argument("--layers", nargs="+", default=[], help="names of submodules to measure, too")
    made.add_argument("--image-size", type=int)
    made.add_argument("--device", default="auto")
    made.add_argument("--broken", default="refuse", help="refuse or skip unreadable images")
    made.add_argument("--seed", type=int, default=0)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 2 with one message for what cannot be used."""
    given = vars(parser().parse_args(arguments))
    html, csv, model, data = (given.pop(name) for name in ("html", "csv", "model", "data"))
    if sys.stderr.isatty():
        os.environ.setdefault("NCBOOK_PROGRESS", "bar")
    try:
        folder = Path(html).expanduser().absolute().parent if html else None
        if folder is not None and not folder.is_dir():  # before the long work
            raise ValueError(f"--html {html}: the folder {folder} is not there")
        with _processes():
            found = report(model, data, **given)
            if part_of_process()[0] == 0:
                _say(found, html, csv)
    except (ValueError, FileNotFoundError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def _say(found, html: str | None, csv: str | None) -> None:
    print(f"{found}\nweights: {found.about['weights']}")
    for note in found.notes:
        print(f"note: {note}")
    columns = ["metric", "value", "low", "high", "n", "over"]
    print(found.summary[columns].to_string(index=False, float_format="{:.4g}".format))
    print(f"\nHardest pairs:\n{found.pairs.head(HARDEST).to_string(index=False, float_format='{:.3g}'.format)}")
    if html:
        print(f"\nwritten: {found.to_html(html)}")
    for path in found.to_csv(csv) if csv else []:
        print(f"written: {path}")


@contextlib.contextmanager
def _processes():
    """The group of processes that torchrun started, if it did."""
    from torch import cuda, distributed

    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized()
    if started:
        if cuda.is_available():
            cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("nccl" if cuda.is_available() else "gloo")
    try:
        yield
    finally:
        if started:
            distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
