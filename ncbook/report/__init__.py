"""A report on a reader's own model and images: collapse, few-shot accuracy, bounds, the classes to look at.

``ncbook.report(model, data)`` gives a `Report`, ``ncbook.compare_models({name: model}, data)`` a table of several
models on the same images and episodes, ``python -m ncbook.report pictures.zip --model resnet18 --html report.html`` a
page.
Nothing is trained and no formula is here: numbers are those of `collapse`, `fewshot` and `theory`.

A file imports only from files above it: `words`, `models` and `images` beside each other; `gather`, the one pass over
the images; `measure`, from what was gathered to tables; `figures` and `page`, from tables to HTML; `reports`.
"""

import inspect
import sys
import types

from .reports import Report, compare_models, report

__all__ = ["Report", "compare_models", "report"]
__dir__ = __all__.copy


class _Room(types.ModuleType):
    """A module that is the function of its name, too.

    `ncbook.report` is a room of the package, which Python binds to that name as soon as anything in it is imported
    (``python -m ncbook.report``, ``from ncbook.report import Report``): a function of the same name would be there or
    not, depending on who came first. So the module itself can be called; the import system allows its class to be set.
    """

    __signature__ = inspect.signature(report)

    def __call__(self, *arguments, **named):
        return report(*arguments, **named)


_Room.__call__.__doc__ = report.__doc__.partition("    Example:")[0]  # which stands there
sys.modules[__name__].__class__ = _Room
