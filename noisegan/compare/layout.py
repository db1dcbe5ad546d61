"""Where everything of a comparison lies in its folder; docs/results.md shows it to users."""

from __future__ import annotations

from pathlib import Path

from noisegan.compare.experiment import Variant

EXPERIMENT = "experiment.json"
RESULTS = "results.json"


class Layout:
    """Paths in the folder of a comparison."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.experiment = self.folder / EXPERIMENT
        self.results = self.folder / RESULTS
        self.inversion = self.folder / "inversion" / "inversion.json"
        self.held_out = self.inversion.with_name("held_out.npz")
        self.report = self.folder / "report" / "index.html"

    def run(self, variant: Variant, seed: int) -> Path:
        """The run folder of a variant and training seed."""
        return self.folder / "runs" / f"{variant.slug}-seed{seed}"

    def evaluations(self, variant: Variant, seed: int) -> Path:
        """Scores, samples and noise maps of a run."""
        return self.folder / "evaluations" / f"{variant.slug}-seed{seed}"

    def log(self, variant: Variant, seed: int) -> Path:
        """What the worker of a run wrote to standard error."""
        return self.folder / "logs" / f"{variant.slug}-seed{seed}.log"
