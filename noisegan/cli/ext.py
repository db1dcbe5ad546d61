"""`noisegan ext`: build the native operations before they are needed, or remove what was built."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from noisegan.errors import NoiseganError


@click.group("ext")
def command() -> None:
    """Build the native operations, or remove what was built.

    They are also built when first used; noisegan doctor shows what there is.
    """


@command.command("build")
@click.option(
    "--arch",
    "architectures",
    metavar="ARCH",
    multiple=True,
    help="A GPU architecture such as sm_90 or 9.0 (repeatable).  [default: those of the GPUs here]",
)
def build(architectures: tuple[str, ...]) -> None:
    """Build the native operations for this CPU, and with nvcc for GPUs.

    \b
    noisegan ext build
    noisegan ext build --arch sm_80 --arch sm_90

    Without nvcc, GPUs need nothing built: torch's NVRTC makes their operations when they are first used. For an
    architecture that is named it makes them now, such as on a login node that has no GPU.
    """
    import torch

    from noisegan.ext import build as builder
    from noisegan.ext import cache, nvrtc
    from noisegan.ext.toolchain import cuda_toolkit

    capabilities = [builder.parse_architecture(text) for text in architectures]
    if not architectures:
        gpus = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
        if gpus and cuda_toolkit() is None:
            click.echo("CUDA  nothing to do: there is no nvcc, NVRTC is used")
        else:
            capabilities = sorted(gpus)
    failures = []

    def report(name: str, make: Callable[[], Path]) -> None:
        start = time.perf_counter()
        try:
            path = make()
        except NoiseganError as error:
            failures.append(f"{name}: {error}")
            return
        if not path.is_relative_to(cache.folder()):
            raise NoiseganError(
                f"{name}: nothing was kept, since {cache.folder()} cannot be written; set NOISEGAN_CACHE"
            )
        click.echo(f"{name}  {path}  {time.perf_counter() - start:.1f} s")

    report("CPU", builder.cpu_library)
    for capability in capabilities:
        if cuda_toolkit() is not None or builder.built_cuda_image(capability) is not None:
            make, compiler = builder.cuda_image, "nvcc"
        else:
            make, compiler = nvrtc.cuda_image, "NVRTC, as there is no nvcc"
        report(f"sm_{capability[0]}{capability[1]} by {compiler}", partial(make, capability))
    if failures:
        raise NoiseganError("; ".join(failures))


@command.command("clean")
def clean() -> None:
    """Remove all that was built for any machine that shares the cache; it is built again when it is needed."""
    from noisegan.ext import cache

    count, size = cache.clean()
    click.echo(f"removed {count} build{'s' * (count != 1)}, {size / 1e6:.1f} MB, from {cache.folder()}")
