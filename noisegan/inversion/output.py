"""What an inversion leaves on disk: a folder per image that is whole or not there, and the way back from it.

target.png            the image as the network was asked to show it
proj.png              the reconstruction
progress.png          target, images on the way, reconstruction, side by side
projected_w.npz       `w` [1, num_ws, D]; `noise/<key>` [1, ...]; `loss/<name>` [steps]; `z` [1, z_dim] in space z
tuned.safetensors     the tuned generator's tensors, in space pti
settings.json         options, network, target, distances of proj.png, seconds
proj.mp4              the way as a film, when asked for and imageio with ffmpeg is there
"""

from __future__ import annotations

import copy
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from noisegan.core.generator import Generator
from noisegan.core.images import make_grid, save_image, to_bytes
from noisegan.core.layers import settle
from noisegan.errors import NoiseganError
from noisegan.files import temporary_folder, unwritable, write_json
from noisegan.inversion.projector import Inversion, ProjectorOptions, unused_options
from noisegan.inversion.targets import Target

SETTINGS, ARRAYS, TUNED = "settings.json", "projected_w.npz", "tuned.safetensors"
STRIP = 8
"""Images on the way that progress.png shows."""
VIDEO_FRAMES, VIDEO_FPS = 120, 24
DEFAULTS = {"encoder": None} | ProjectorOptions().as_dict()
"""Of settings, for folders that were written before there was such an option."""
_NOISE, _LOSS = "noise/", "loss/"
_TOLD = {"network", "network_sha256", "precision", "space", "noise", "loss", "target_sha256", "distances", "seconds"}
"""Without these settings.json is not that of an inversion."""


def write_inversion(
    outdir: Path, target: Target, found: Inversion, settings: Mapping[str, Any], *, video: bool = False
) -> Path:
    """Write the folder `outdir/<target.name>`; it appears when it is whole.

    Raises:
        NoiseganError: when it cannot be written.
    """
    folder = outdir / target.name
    try:
        with temporary_folder(outdir, f".{target.name}.") as temporary:
            _fill(temporary, target, found, settings, video=video)
            temporary.rename(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def _fill(folder: Path, target: Target, found: Inversion, settings: Mapping[str, Any], *, video: bool) -> None:
    image = to_bytes(found.image)
    frames = to_bytes(found.frames) if found.frames is not None else image[None][:0]
    save_image(target.image, folder / "target.png")
    save_image(image, folder / "proj.png")
    shown = frames[torch.linspace(0, len(frames) - 1, STRIP).round().long()] if len(frames) > STRIP else frames
    strip = torch.cat([target.image[None], shown, image[None]])
    save_image(make_grid(strip, len(strip)), folder / "progress.png")
    arrays = {"w": found.w[None]} | {f"{_NOISE}{key}": tensor[None] for key, tensor in found.noise.items()}
    if found.z is not None:
        arrays["z"] = found.z[None]
    plain: dict[str, Any] = {name: tensor.numpy() for name, tensor in arrays.items()}
    plain |= {f"{_LOSS}{name}": values for name, values in found.losses.items()}
    np.savez(folder / ARRAYS, **plain)
    if found.tuned is not None:
        save_file({name: tensor.contiguous() for name, tensor in found.tuned.items()}, folder / TUNED)
    if video:
        _film(folder / "proj.mp4", target.image, frames)
    about = {"distances": found.final, "seconds": found.seconds, "frame_steps": found.frame_steps}
    if found.tuned is not None:
        about["tuning_seconds"] = found.tuning_seconds
    write_json(folder / SETTINGS, dict(settings) | about)


def finished(outdir: Path, target: Target, settings: Mapping[str, Any]) -> bool:
    """Whether a target's folder is there and was made with the same settings.

    Raises:
        NoiseganError: when it was made with others, or is somebody else's.
    """
    folder = outdir / target.name
    if not folder.exists():
        return False
    try:
        there = _settings(folder)
    except (OSError, ValueError):
        raise NoiseganError(f"{folder} is there and holds no finished inversion; choose another --outdir") from None
    before, now = _lasting(there), _lasting(json.loads(json.dumps(dict(settings))))
    other = [name for name in now if before.get(name, DEFAULTS.get(name)) != now[name]]
    if other:
        raise NoiseganError(
            f"{folder} holds an inversion with other settings ({', '.join(other)} differ); choose another --outdir, "
            "or delete it"
        )
    return True


def _lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an inversion depends on. Where its network and its encoder lie does not count, their content does."""
    unused = unused_options([settings["space"]], [settings["noise"]]) | {"network"}
    lasting = {name: value for name, value in settings.items() if name not in unused}
    return lasting | {"encoder": (settings.get("encoder") or {}).get("sha256")}


@dataclass(frozen=True, eq=False)
class Projected:
    """An inversion read back: w [1, num_ws, D], noise [1, ...] by key, tuned tensors or None, settings."""

    name: str
    folder: Path
    w: Tensor
    noise: dict[str, Tensor]
    tuned: dict[str, Tensor] | None
    settings: dict[str, Any]

    @torch.no_grad()
    def render(self, G: Generator, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """The image [C, R, R] of this inversion, with its own noise or with given noise [1, ...] by key.

        With its own noise these are the bytes of proj.png, on the same kind of device.

        Raises:
            NoiseganError: when it was made by another network.
        """
        device = G.mapping.w_avg.device
        own = {key: tensor.to(device) for key, tensor in self.noise.items()}
        wanted = {key: list(tensor.shape) for key, tensor in G.draw_noise("off", 1).items()}
        if list(self.w.shape[1:]) != [G.num_ws, G.w_dim] or wanted != {k: list(v.shape) for k, v in own.items()}:
            raise NoiseganError(f"{self.folder} was made by another network than this one; give its own --network")
        synthesis = G.synthesis
        if self.tuned is not None:
            synthesis = copy.deepcopy(synthesis)
            if self.tuned.keys() != dict(synthesis.named_parameters()).keys():
                raise NoiseganError(f"{self.folder / TUNED} does not fit this network; give its own --network")
            synthesis.load_state_dict(self.tuned, strict=False)  # buffers stay
            settle(synthesis, device)
        image: Tensor = synthesis(self.w.to(device), own if noise is None else dict(noise))
        return image[0]


def read_projected(path: str | Path) -> Iterator[Projected]:
    """The inversion in a folder, or all those in the folders of an output folder, by name; each is read when asked for.

    Raises:
        NoiseganError: when there is none, or one is damaged.
    """
    path = Path(path)
    if (path / ARRAYS).is_file():
        yield read_inversion(path)
        return
    folders = sorted(file.parent for file in path.glob(f"*/{ARRAYS}") if not file.parent.name.startswith("."))
    if not folders:
        raise NoiseganError(f"{path} holds no inversion ({ARRAYS}), nor do folders in it; make one with project")
    yield from map(read_inversion, folders)


def read_inversion(folder: Path) -> Projected:
    """The inversion in a folder.

    Raises:
        NoiseganError: when there is none, or it is damaged.
    """
    with _intact(folder):
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files if not name.startswith(_LOSS)}
        settings = _settings(folder)
        tuned = load_file(folder / TUNED) if (folder / TUNED).is_file() else None
        noise = {name[len(_NOISE) :]: tensor for name, tensor in tensors.items() if name.startswith(_NOISE)}
        return Projected(folder.name, folder, tensors["w"], noise, tuned, settings)


def _settings(folder: Path) -> dict[str, Any]:
    """Raises:
    OSError, ValueError: when they cannot be read, or are not those of an inversion.
    """
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not settings.keys() >= _TOLD:
        raise ValueError(f"{SETTINGS} is none of an inversion")
    return settings


@contextmanager
def _intact(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise NoiseganError(f"{folder} holds no whole inversion ({reason}); make it again") from None


def file_sha256(path: Path) -> str:
    """What a network is known by."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def video_writer() -> Any:
    """imageio with ffmpeg.

    Raises:
        NoiseganError: when it is not installed.
    """
    try:
        import imageio.v2
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise NoiseganError("--save-video needs imageio with ffmpeg: pip install 'imageio[ffmpeg]'") from None
    return imageio.v2


def _film(path: Path, target: Tensor, frames: Tensor) -> None:
    """Target and image on the way side by side, enlarged to 256 pixels a side where smaller."""
    writer = video_writer().get_writer(path, mode="I", fps=VIDEO_FPS, codec="libx264", macro_block_size=2)
    with writer:
        for frame in frames:
            pair = torch.cat([target, frame], dim=2)[:3]  # [C, R, 2R]
            pair = pair.expand(3, -1, -1) if len(pair) == 1 else pair
            factor = max(1, 256 // pair.shape[1])
            large = pair.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
            writer.append_data(large.permute(1, 2, 0).contiguous().numpy())
