"""Writes the book's example of a report: a network trained on 64 classes of strokes, on 50 classes it has never seen.

    python book/report_example.py out/book/report_example.html

Called by `make book`; trains for some seconds, or finds the run.
"""

import sys

import ncbook
from ncbook.datasets import ImageClasses

run = ncbook.train(ncbook.Experiment(backbone="conv4_small", n_source=64, n_novel=50))
new = run.splits.novel
name = "50 new classes of strokes"
images = ImageClasses(name, new.images, new.labels, new.class_names, new.labels.new_zeros(len(new.labels), dtype=bool))
ncbook.report(run.model(), images).to_html(sys.argv[1])
