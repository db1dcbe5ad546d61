"""A strategy of one's own in one file of twenty lines, used without installing anything:

noisegan check ripple --plugin examples/ripple.py
noisegan train --data digits --cfg tiny --noise ripple --plugin examples/ripple.py --kimg 2 --outdir runs
"""

import torch

from noisegan.api import FeatureInjector, Params, StrategySpec, hookimpl


class Ripple(FeatureInjector):
    """out = m + r sin(2 pi (y + u)): a wave along y whose phase u is drawn per sample; r is learned."""

    def __init__(self):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(0.0))

    def draw(self, source):
        return source.uniform(1, 1, 1)

    def forward(self, x, noise, w):
        y = torch.linspace(0, 1, x.shape[2], dtype=x.dtype, device=x.device)[:, None]  # [H, 1]
        return x + self.strength * torch.sin(2 * torch.pi * (y + noise))


@hookimpl
def register_strategies(register):
    about = {"summary": "waves of random phase", "reference": "this file"}
    register(
        StrategySpec(name="ripple", params=Params, feature=lambda site, p: Ripple(), identity_at_init=True, **about)
    )
