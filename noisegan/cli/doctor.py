"""`noisegan doctor`: what noisegan runs on here, and a test of its operations."""

from __future__ import annotations

import json
import sys
from typing import Any

import click


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> None:
    """Show what noisegan runs on here, and test its operations.

    \b
    NOISEGAN_EXT chooses what the operations run on:
      auto    the fastest there is (default)
      native  the C++ library on CPUs, nvcc's image on GPUs, or an error
      nvrtc   as auto on CPUs, NVRTC's image on GPUs or an error
      ref     plain PyTorch
    What is built is kept in $NOISEGAN_CACHE, by default ~/.cache/noisegan.

    Exits with status 0 when every operation computes what it should on every device and 1 when one does not.

    \b
    The JSON is an object {versions, devices, tools, cache, NOISEGAN_EXT, backends, self_tests}:
      backends    by device {backend, why}; backend is native, nvrtc, reference, or null for an error
      self_tests  a list of {op, device, backend, dtypes, passed, detail}
    """
    from noisegan.ext.doctor import examine

    found = examine()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print(found)
    if not all(test["passed"] for test in found["self_tests"]):
        sys.exit(1)


def _print(found: dict[str, Any]) -> None:
    versions, tools, cache = found["versions"], found["tools"], found["cache"]
    _section(
        "Versions",
        {name.replace("_", " "): "none" if version is None else version for name, version in versions.items()},
    )
    _section("Devices", {item["device"]: _device(item) for item in found["devices"]})
    _section(
        "Tools",
        {
            "C++": ", ".join(tools["compilers"]) or "none: install g++ or clang++",
            "ninja": tools["ninja"] or "none: pip install ninja",
            "nvcc": tools["nvcc"] or "none",
            "NVRTC": tools["nvrtc"] or "none",
        },
    )
    _section("Cache", {"folder": cache["folder"], "holds": f"builds: {len(cache['entries'])}, {_size(cache['bytes'])}"})
    _section(
        f"Backends (NOISEGAN_EXT={found['NOISEGAN_EXT']})",
        {device: f"{item['backend'] or 'ERROR'}: {item['why']}" for device, item in found["backends"].items()},
    )
    click.echo(click.style("Self-tests: values and first derivatives", bold=True))
    tests = found["self_tests"]
    width = max((len(test["op"]) for test in tests), default=0)
    for test in tests:
        result = click.style("pass", fg="green") if test["passed"] else click.style("FAIL", fg="red")
        detail = ", ".join(test["dtypes"]) if test["passed"] else test["detail"]
        click.echo(f"  {result}  {test['op']:{width}}  {test['device']:6}  {test['backend']:9}  {detail}")
    failed = sum(not test["passed"] for test in tests)
    click.echo(f"{len(tests) - failed} of {len(tests)} operations are right")


def _section(title: str, lines: dict[str, str]) -> None:
    click.echo(click.style(title, bold=True))
    width = max(map(len, lines))
    for name, text in lines.items():
        click.echo(f"  {name:{width}}  {text}")


def _device(item: dict[str, Any]) -> str:
    parts = [item["name"]]
    if "threads" in item:
        parts += [f"threads: {item['threads']}", item["capability"], " ".join(item["features"])]
    elif "capability" in item:
        parts += [f"capability {item['capability']}", _size(item["memory_bytes"])]
    return ", ".join(part for part in parts if part)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
