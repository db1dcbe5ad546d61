"""The comparison: experiment file, runner, statistics, report.

    results = noisegan.compare("experiment.toml", "out")

`noisegan.compare` is this package and, being called, its main function: Python puts a package that has been imported
under its name, so the two must be one object.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Compare(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        from noisegan.compare.runner import compare

        return compare(*arguments, **options)


sys.modules[__name__].__class__ = _Compare
