"""Inverting the images of a folder into another: batches, what is finished already, stopping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisegan import facade
from noisegan.core.images import to_bytes
from noisegan.core.noise import noise_mode
from noisegan.core.reporting import counting
from noisegan.errors import Interrupted, NoiseganError
from noisegan.inversion.encoder import load_encoder
from noisegan.inversion.output import (
    STRIP,
    VIDEO_FRAMES,
    file_sha256,
    finished,
    read_projected,
    video_writer,
    write_inversion,
)
from noisegan.inversion.precision import check_precision, compute_in
from noisegan.inversion.projector import Inversion, Projector, ProjectorOptions, digest_id
from noisegan.inversion.targets import as_batch, read_targets
from noisegan.manager import Plugins


def project(
    network: str | Path,
    target: str | Path,
    outdir: Path,
    *,
    batch: int = 16,
    device: str = "auto",
    precision: str = "fp32",
    encoder: str | Path | None = None,
    save_video: bool = False,
    plugins: Plugins | None = None,
    **options: Any,
) -> Iterator[str]:
    """Invert an image or a folder of images; the same as `noisegan project`.

    Args:
        network: run folder or snapshot; its averaged generator is inverted.
        target: an image, or a folder of images.
        outdir: an existing folder; gets a folder per image. Images whose folder is there, made with the same settings,
            are passed over.
        batch: images at a time.
        precision: `fp32`, or `bf16`, `fp16`: what the generator's blocks of high resolution and the networks of the
            distances compute in. Latents, noise and the distances told of results stay in float32.
        encoder: a folder or file that `train-encoder` made.
        save_video: write proj.mp4.
        **options: fields of `ProjectorOptions`. `perturbation` is 0 with an encoder where it is left out.

    Yields:
        a line for each finished image, when its batch is, and one at the end.

    Raises:
        NoiseganError: for mistakes in the options, targets that cannot be read, folders that hold something else.
        Interrupted: when the user stops; finished images are kept, in the space pti those of an unfinished batch too.
    """
    if options.get("perturbation") is None:  # what an encoder saw is not to be shaken off
        options["perturbation"] = ProjectorOptions.perturbation if encoder is None else 0.0
    chosen = ProjectorOptions(**options)
    if save_video:
        video_writer()
    snapshot = facade.load(network, plugins=plugins, device=device)
    check_precision(precision, snapshot.device)
    G, digest = snapshot.G_ema, file_sha256(snapshot.path)
    targets = read_targets(target, resolution=G.resolution, channels=G.img_channels)
    start = None
    if encoder is not None:
        start = load_encoder(encoder, G, snapshot.device, network_sha256=digest)
    shared = {
        "network": str(snapshot.path.resolve()),
        "network_sha256": digest,
        "precision": precision,
        "encoder": start.about if start is not None else None,
    } | chosen.as_dict()
    settings = [shared | {"target_sha256": sha256(each.image.numpy().tobytes()).hexdigest()} for each in targets]
    pairs = zip(targets, settings, strict=True)
    waiting = [(each, own) for each, own in pairs if not finished(outdir, each, own)]
    if len(waiting) < len(targets):
        yield f"{len(targets) - len(waiting)} of {len(targets)} images are there already"
    if not waiting:
        return
    compute_in(G, precision, snapshot.device)
    projector = Projector(G, chosen, encoder=start)
    told = {"loss_weights": projector.loss.describe()} | _noise_told(projector)
    lines: list[str] = []

    def write(found: Inversion) -> None:
        each, own = waiting[len(lines)]
        about = {"target": str(each.path.resolve()), "target_changes": each.changes}
        write_inversion(outdir, each, found, own | about | told, video=save_video)
        distances = ", ".join(f"{name} {value:.4f}" for name, value in found.final.items())
        changes = f" ({each.changes})" if each.changes else ""
        lines.append(f"{each.name}: {distances}, {found.seconds:.1f} s{changes}")

    per_image = chosen.steps_per_image
    try:
        with counting(f"{len(waiting)} images, steps") as progress:
            for first in range(0, len(waiting), batch):
                projector.run(
                    as_batch([each for each, _ in waiting[first : first + batch]]),
                    frames=VIDEO_FRAMES if save_video else STRIP,
                    progress=lambda steps, first=first: progress(  # type: ignore[misc]
                        first * per_image + steps, len(waiting) * per_image
                    ),
                    take=write,
                )
                yield from lines[first:]
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped: {len(lines)} of {len(waiting)} images are finished in {outdir}; the same command goes on with "
            "the rest"
        ) from None
    yield f"{len(lines)} images in {outdir} (space {chosen.space}, noise {chosen.noise}, {chosen.steps} steps)"


def render_again(
    folder: str | Path,
    network: str | Path | None = None,
    *,
    mode: str | None = None,
    noise_seed: int | None = None,
    device: str = "auto",
    plugins: Plugins | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[tuple[str, Tensor]]:
    """Render inversions again, one at a time.

    Args:
        folder: of one inversion, or of several.
        network: where their network is; default: where it was.
        mode: None for the noise that was found, else `fresh`, `frozen` or `off`.
        noise_seed: of that noise; an image's id in it is its content's. Default: for `fresh` chance, for `frozen` that
            of the inversion, so that one with fixed noise is shown as it was.
        tell: called with what the user should know.

    Yields:
        (name, image [C, R, R] uint8)

    Raises:
        NoiseganError: when there is no inversion, or its network is another or not there.
    """
    where, digest, precision = None, None, None
    for projected in read_projected(folder):
        settings = projected.settings
        wanted = Path(network if network is not None else settings["network"])
        if wanted != where:
            snapshot = facade.load(wanted, plugins=plugins, device=device)
            G, where, digest, precision = snapshot.G_ema, wanted, file_sha256(snapshot.path), None
        if settings["network_sha256"] != digest:
            raise NoiseganError(f"{projected.folder} was made by another network than {wanted}; give its own --network")
        if settings["precision"] != precision:
            precision = settings["precision"]
            slow = precision == "fp16" and snapshot.device.type == "cpu"
            if slow:
                tell("made in fp16, which needs a GPU: rendered in fp32 on this CPU, so not the very bytes of proj.png")
            compute_in(G, "fp32" if slow else precision, snapshot.device)
        noise = None
        if mode is not None:
            seed, number = noise_seed, digest_id(settings["target_sha256"])
            if mode == "frozen":
                seed = settings.get("noise_seed", 0) if seed is None else seed
            else:
                number += 2**62  # no id of an inversion: what it started from is not fresh
            with torch.no_grad():
                noise = G.draw_noise(noise_mode(mode, 1, seed=seed, ids=[number]), 1)
        yield projected.name, to_bytes(projected.render(G, noise)).cpu()


def _noise_told(projector: Projector) -> dict[str, Any]:
    """Which noise was optimised, and which was left as drawn."""
    optimised = [info.key for info in projector.infos if info.optimised]
    if projector.options.noise != "optimised":
        optimised = []
    return {
        "noise_optimised": optimised,
        "noise_kept": {
            info.key: "drawn as computed numbers" if info.matters else "without influence on the image"
            for info in projector.infos
            if not info.optimised
        },
    }
