"""Feature extractors by name: those that plugins register, or `module:function` for a user's own function."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisegan.api import FeatureExtractor
from noisegan.errors import NoiseganError, near_match
from noisegan.manager import Plugins
from noisegan.metrics.features import checked

TRIAL_SIZE = 64
"""Pixels of a side of the two images on which a user's function is tried."""


def make_extractor(name: str, plugins: Plugins, device: torch.device) -> FeatureExtractor:
    """The feature extractor called `name`, ready on `device`.

    Args:
        name: registered by a plugin, or `module:function`: a function of uint8 images [N, 3, H, W] on `device` that
            returns features [N, dim]. The module is looked for in the working folder too.

    Raises:
        NoiseganError: for an unknown name (near matches offered), missing weights, a function that cannot be
            imported or whose result on two images is not floats [2, dim], or a plugin's extractor that breaks the
            contract.
    """
    if ":" in name:
        return UserFunction(name, device)
    known = plugins.registered["feature extractor"]
    if name not in known:
        raise NoiseganError(
            f"unknown feature extractor {name!r}{near_match(name, known)}; a function of your own is module:function"
        )
    factory, source = known[name]
    try:
        extractor = factory(device)
        _check(extractor)
    except NoiseganError:
        raise
    except Exception as error:
        raise NoiseganError(
            f"the feature extractor {name!r} of plugin {source.plugin!r} cannot be used: {_reason(error)}; "
            "ask its author, or choose another"
        ) from error
    made: FeatureExtractor = extractor
    return made


class UserFunction(FeatureExtractor):
    """A function images uint8 [N, 3, H, W] -> features [N, dim] as an extractor; `dim` comes from a trial.

    Raises:
        NoiseganError: when it cannot be imported, or its result for two images is not floats [2, dim].
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._name, self._device = name, device
        self._function, self._digest = _import(name)
        trial = (torch.arange(2 * 3 * TRIAL_SIZE**2) * 37 % 256).to(torch.uint8)
        features = self(trial.reshape(2, 3, TRIAL_SIZE, TRIAL_SIZE))
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2 or features.shape[1] == 0:
            got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise NoiseganError(
                f"feature extractor {name!r}: two images [2, 3, {TRIAL_SIZE}, {TRIAL_SIZE}] must give features "
                f"[2, dim], got {got}"
            )
        self.dim = features.shape[1]
        checked(features, 2, self.dim, f"feature extractor {name!r}")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 RGB [N, 3, H, W] -> whatever the function returns; `noisegan.metrics.features.extract` checks it."""
        try:
            features: Tensor = self._function(images.to(self._device))
        except Exception as error:
            raise NoiseganError(
                f"feature extractor {self._name!r} failed on uint8 images {list(images.shape)}: {_reason(error)}; "
                "mend the function"
            ) from error
        return features

    def describe(self) -> dict[str, Any]:
        return {
            "weights": f"{self._name} sha256:{self._digest}",
            "input": "uint8 RGB images as they are",
            "reference": "a function of the user's; the digest is of its module's file",
        }


def _import(name: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """The function `module:function` and the sha256 of its module's file."""
    module_name, _, attribute = name.partition(":")
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module_name) or not attribute.isidentifier():
        raise NoiseganError(f"feature extractor {name!r} is neither a name nor module:function, such as mine:features")
    folder, path = str(Path.cwd()), list(sys.path)
    sys.path.append(folder)  # an installed command does not look there by itself
    try:
        importlib.invalidate_caches()
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise NoiseganError(
            f"feature extractor {name!r}: module {module_name!r} cannot be imported ({_reason(error)}); "
            f"install it, or put {module_name.split('.')[0]}.py in the folder {folder}"
        ) from error
    finally:
        sys.path[:] = path
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise NoiseganError(
            f"feature extractor {name!r}: module {module_name!r} has no function {attribute!r}"
            f"{near_match(attribute, functions)}"
        )
    file = getattr(module, "__file__", None)
    if file is None:
        raise NoiseganError(f"feature extractor {name!r}: module {module_name!r} has no file that could be recorded")
    return function, hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _check(extractor: object) -> None:
    """What every extractor must offer before its first image."""
    if not isinstance(extractor, FeatureExtractor):
        raise TypeError(f"its factory made a {type(extractor).__name__}, not a noisegan.api.FeatureExtractor")
    dim = getattr(extractor, "dim", None)
    if not isinstance(dim, int) or dim < 1:
        raise TypeError(f"its dim must be a positive number, got {dim!r}")
    missing = {"weights", "input", "reference"} - extractor.describe().keys()
    if missing:
        raise TypeError(f"its describe() lacks {', '.join(sorted(missing))}")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")
