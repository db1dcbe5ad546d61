"""What a training run is made of: a frozen description, resolved from presets, printed, saved, and never passed on.

config = TrainConfig(data="digits", outdir="runs", noise="fuzzy", kimg=1).resolve()
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from noisegan.core.shapes import ARCHITECTURES
from noisegan.errors import NoiseganError
from noisegan.validation import explain

PRESETS: dict[str, dict[str, Any]] = {
    # 32 px on a laptop's CPU. gamma measured on Fashion-MNIST.
    "tiny": {
        "resolution": 32, "z_dim": 128, "w_dim": 128, "map_depth": 4, "cbase": 1024, "cmax": 128,
        "batch": 16, "gamma": 0.2, "ema_kimg": 5.0, "ema_rampup": 0.05, "kimg": 100.0, "tick": 1.0, "snap": 5,
    },
    # 64 px; gamma is tiny's times the ratio of pixels.
    "64": {
        "resolution": 64, "z_dim": 256, "w_dim": 256, "map_depth": 8, "cbase": 4096, "cmax": 256,
        "batch": 16, "gamma": 0.8, "ema_kimg": 5.0, "ema_rampup": 0.05, "kimg": 1000.0, "tick": 4.0, "snap": 10,
    },
    # Configurations E and F of Karras et al. 2020, table 1; F doubles the width of the high resolutions.
    "e": {
        "z_dim": 512, "w_dim": 512, "map_depth": 8, "cbase": 16384, "cmax": 512,
        "batch": 32, "gamma": 10.0, "ema_kimg": 10.0, "kimg": 25000.0, "tick": 4.0, "snap": 50,
    },
    "f": {
        "z_dim": 512, "w_dim": 512, "map_depth": 8, "cbase": 32768, "cmax": 512,
        "batch": 32, "gamma": 10.0, "ema_kimg": 10.0, "kimg": 25000.0, "tick": 4.0, "snap": 50,
    },
}  # fmt: skip

Architecture = Literal["skip", "residual", "plain"]
assert Architecture.__args__ == ARCHITECTURES  # type: ignore[attr-defined]

RESUMABLE = ("kimg", "tick", "snap", "device", "workers", "batch_gpu", "graphs", "outdir", "desc", "data")
"""Options that may change on resume. `data` may be another path; the fingerprint must agree."""


class TrainConfig(BaseModel):
    """Options of `noisegan train`. None means: the preset's, or found out at the start.

    Lengths are in thousands of real images (kimg), with fractions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: str = Field(description="folder, zip, .npz, .npy or IDX file of images, or digits, fashion-mnist")
    outdir: str = Field(description="where run folders are made")
    cfg: Literal["tiny", "64", "e", "f"] = Field("tiny", description="preset: tiny, 64, or the paper's E or F")
    noise: str = Field("additive", description="noise strategies, such as fuzzy, 'fuzzy(alpha=0.3)', additive+fuzzy")
    seed: int = Field(0, ge=0, description="seed of every stream of the run")
    desc: str | None = Field(None, description="end of the run folder's name")

    resolution: int | None = Field(None, description="image size, a power of two from 8 to 1024")
    resize: str | None = Field(None, description="how to resize: lanczos, bicubic, box, nearest or pad")
    crop: str | None = Field(None, description="how to crop: center")
    mirror: bool = Field(False, description="add the mirror image of every image")
    cond: bool = Field(False, description="train with class labels")

    kimg: float | None = Field(None, gt=0, description="length of the training")
    tick: float | None = Field(None, gt=0, description="how often to report")
    snap: int | None = Field(None, ge=1, description="ticks between snapshots")
    batch: int | None = Field(None, ge=1, description="images per step, over all devices")
    batch_gpu: int | None = Field(None, ge=1, description="images at a time per device; gradients are accumulated")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="dtype of the high-resolution blocks")
    device: str = Field("auto", description="cpu, cuda, cuda:N, mps or auto")
    graphs: Literal["auto", "off"] = Field("auto", description="auto: as CUDA graphs on a single GPU; off: never")
    workers: int = Field(2, ge=1, description="threads that read images")

    z_dim: int | None = Field(None, ge=1, description="size of z")
    w_dim: int | None = Field(None, ge=1, description="size of w")
    map_depth: int | None = Field(None, ge=1, description="layers of the mapping network")
    cbase: int | None = Field(None, ge=1, description="channels at resolution r are min(cmax, cbase / r)")
    cmax: int | None = Field(None, ge=1, description="largest number of channels")
    g_arch: Architecture = Field("skip", description="architecture of the generator")
    d_arch: Architecture = Field("residual", description="architecture of the discriminator")
    mbstd_group: int = Field(4, ge=1, description="group of the minibatch standard deviation; 1 leaves it out")

    glr: float = Field(0.002, gt=0, description="learning rate of the generator")
    dlr: float = Field(0.002, gt=0, description="learning rate of the discriminator")
    gamma: float | None = Field(None, ge=0, description="weight of the R1 penalty; 0 leaves it out")
    r1_interval: int = Field(16, ge=1, description="steps between R1 penalties (lazy regularisation)")
    pl_weight: float = Field(2.0, ge=0, description="weight of the path-length penalty; 0 leaves it out")
    pl_interval: int = Field(4, ge=1, description="steps between path-length penalties (lazy regularisation)")
    pl_shrink: int = Field(2, ge=1, description="the path-length batch is the batch divided by this")
    style_mixing: float = Field(0.9, ge=0, le=1, description="probability of mixing the styles of two latents")
    ema_kimg: float | None = Field(None, gt=0, description="half-life of the generator's average")
    ema_rampup: float | None = Field(None, gt=0, description="share of the training so far that bounds the half-life")

    def __init__(self, /, **options: Any) -> None:
        """Check the options, with one clear sentence for each bad one.

        Raises:
            NoiseganError: for an unknown or missing option, or a value out of range.
        """
        for name in ("data", "outdir"):
            if isinstance(options.get(name), PurePath):
                options[name] = str(options[name])
        if isinstance(options.get("cfg"), str):
            options["cfg"] = options["cfg"].lower()
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise NoiseganError(explain(error, TrainConfig, spell=_option)) from None

    def resolve(self) -> TrainConfig:
        """Fill in the preset's values and check that they fit together; `resolution` may stay open for the data.

        Raises:
            NoiseganError: when batch sizes do not fit.
        """
        preset = {key: value for key, value in PRESETS[self.cfg].items() if getattr(self, key) is None}
        config = self.model_copy(update=preset)
        if config.batch_gpu is not None and config.batch_gpu > config.need("batch"):
            raise NoiseganError(f"--batch-gpu {config.batch_gpu} is larger than --batch {config.batch}")
        if config.total_nimg < 1:
            raise NoiseganError(f"--kimg {config.kimg} is less than one image: one image is 0.001")
        return config

    def need(self, name: str) -> Any:
        """The value of an option that `resolve` has filled in."""
        value = getattr(self, name)
        assert value is not None, f"{name} is not resolved"
        return value

    @property
    def total_nimg(self) -> int:
        return to_nimg(self.need("kimg"))

    @property
    def tick_nimg(self) -> int:
        return max(1, to_nimg(self.need("tick")))

    def is_snapshot(self, nimg: int) -> bool:
        """Whether the schedule has a snapshot when `nimg` images were shown; an interrupted run may hold others."""
        if nimg >= self.total_nimg:
            return True
        # A long step may pass several ticks; the last of them decides.
        every = self.tick_nimg * self.need("snap")
        return bool(nimg // every > (nimg - self.need("batch")) // every)

    def micro_batch(self, world_size: int) -> int:
        """Images at a time on each of `world_size` devices.

        Raises:
            NoiseganError: when the batch cannot be split so.
        """
        batch: int = self.need("batch")
        if batch % world_size:
            raise NoiseganError(f"--batch {batch} cannot be split over {world_size} processes evenly")
        per_device = batch // world_size
        micro = min(self.batch_gpu or per_device, per_device)
        if per_device % micro:
            raise NoiseganError(f"--batch-gpu {micro} does not divide the {per_device} images of each process")
        group = min(self.mbstd_group, batch)
        if micro % group:
            raise NoiseganError(
                f"{micro} images at a time cannot be split into minibatch-std groups of {group}: change --batch, "
                "--batch-gpu or --mbstd-group"
            )
        return micro

    def check_world(self, world_size: int, kind: str) -> None:
        """Check the options against the number of processes and their kind of device (`cpu`, `cuda`, `mps`).

        Raises:
            NoiseganError: when a batch cannot be split, or float16 is asked of a CPU.
        """
        self.micro_batch(world_size)
        if self.pl_weight > 0 and self.pl_batch < world_size:
            raise NoiseganError(
                f"the path-length batch, --batch {self.batch} / --pl-shrink {self.pl_shrink}, is smaller than the "
                f"{world_size} processes: use a larger --batch or a smaller --pl-shrink"
            )
        if self.precision == "fp16" and kind == "cpu":
            raise NoiseganError("--precision fp16 needs a GPU (a CPU computes it hundreds of times slower): use bf16")

    @property
    def pl_batch(self) -> int:
        """Samples of a path-length penalty."""
        batch: int = self.need("batch")
        return max(batch // self.pl_shrink, 1)


def to_nimg(kimg: float) -> int:
    """Thousands of images to images."""
    return round(kimg * 1000)


def networks(config: TrainConfig, *, resolution: int, img_channels: int, c_dim: int) -> dict[str, dict[str, Any]]:
    """Arguments of `Generator` and `Discriminator`, noise aside, as plain data for checkpoints."""
    shared = {
        "resolution": resolution,
        "img_channels": img_channels,
        "c_dim": c_dim,
        "channel_base": config.need("cbase"),
        "channel_max": config.need("cmax"),
        "seed": config.seed,
        "clamp": 256.0 if config.precision == "fp16" else None,  # keeps float16 from overflowing, Karras et al. 2020b
    }
    generator = shared | {
        "z_dim": config.need("z_dim"),
        "w_dim": config.need("w_dim"),
        "mapping_layers": config.need("map_depth"),
        "architecture": config.g_arch,
    }
    discriminator = shared | {"architecture": config.d_arch, "mbstd_group": config.mbstd_group}
    return {"G": generator, "D": discriminator}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
