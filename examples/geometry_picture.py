"""Noise on four spaces: samples of Exp_m(sigma e) in the plane, on a sphere, in a ball and among matrices.

Run it whole, `python examples/geometry_picture.py picture.png`, or cell by cell in an editor that knows `# %%`. Takes
seconds. Each panel shows three points m and, around each, noise of one strength: 400 samples, and the circles where
|sigma e| is 1, 2 and 3 sigma, which geodesics carry to circles of the space.
"""

# %% What is drawn: points, a strength, and normals that all four spaces share
import math
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch

from noisegan.core.rng import Streams
from noisegan.plugins.geometry import manifold

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIGMA = 0.25
COUNT = 400
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44")
angles = torch.linspace(0, 2 * math.pi, 121)
circle = torch.stack((angles.cos(), angles.sin()), dim=-1)  # [121, 2]
e = Streams(0)["picture"].source(ids=range(COUNT)).normal(3)  # [400, 3]


def around(space, m, xi):
    """Exp_m(E_m xi): where noise of normal coordinates xi [..., dim] takes the point m."""
    return space.exp(m, space.from_normal(m, xi))


# %% The plane: Exp_m(sigma e) = m + sigma e, the noise of StyleGAN
figure = plt.figure(figsize=(15, 4.2), constrained_layout=True)
plane = manifold("euclidean", dim=2)
axes = figure.add_subplot(1, 4, 1, aspect="equal", title="Euclidean: m + sigma e")
for m, colour in zip(torch.tensor([[-1.0, -0.5], [0.2, 0.8], [1.2, -0.6]]), COLOURS, strict=True):
    axes.scatter(*around(plane, m, SIGMA * e[:, :2]).T, s=3, color=colour, alpha=0.5)
    for k in (1, 2, 3):
        axes.plot(*around(plane, m, k * SIGMA * circle).T, lw=0.8, color=colour)

# %% The sphere: noise turns a direction, and what goes far enough comes back on the other side
sphere = manifold("sphere", dim=2)
axes = figure.add_subplot(1, 4, 2, projection="3d", title="Sphere: noise turns a direction")
u, v = np.mgrid[0 : 2 * np.pi : 40j, 0 : np.pi : 20j]
axes.plot_surface(np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v), alpha=0.08, color="grey")
for m, colour in zip(torch.tensor([[1.0, -0.9, -0.5], [0.3, -1.0, 0.9], [0.9, 0.5, 0.7]]), COLOURS, strict=True):
    m = sphere.project(m)
    axes.scatter(*around(sphere, m, SIGMA * e[:, :2]).T, s=3, color=colour, alpha=0.5)
    for k in (1, 2, 3):
        axes.plot(*around(sphere, m, k * SIGMA * circle).T, lw=0.8, color=colour)
axes.view_init(elev=25, azim=-40)
axes.set_box_aspect((1, 1, 1), zoom=1.5)
axes.set_axis_off()

# %% The Poincare ball: the same length is ever shorter in the picture, and nothing leaves the ball
ball = manifold("poincare_ball", dim=2)
axes = figure.add_subplot(1, 4, 3, aspect="equal", title="Poincaré ball: nothing leaves it")
axes.plot(*circle.T, color="grey", lw=1)
for xi, colour in zip(torch.tensor([[0.0, 0.0], [1.3, 1.0], [-2.4, -0.8]]), COLOURS, strict=True):
    m, _ = ball.carry(xi)  # features as normal coordinates at the centre
    axes.scatter(*around(ball, m, SIGMA * e[:, :2]).T, s=3, color=colour, alpha=0.5)
    for k in (1, 2, 3):
        axes.plot(*around(ball, m, k * SIGMA * circle).T, lw=0.8, color=colour)
axes.set_axis_off()

# %% Symmetric positive definite matrices: every sample is drawn as its ellipse, and stays one
spd = manifold("spd_affine", n=2)
axes = figure.add_subplot(1, 4, 4, aspect="equal", title="SPD(2): ellipses stay ellipses")
for i, (xi, colour) in enumerate(
    zip(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.9, -1.0], [-0.6, 0.9, 0.9]]), COLOURS, strict=True)
):
    m, _ = spd.carry(xi)
    centre = torch.tensor([4.5 * i, 0.0])
    for matrix in around(spd, m, SIGMA * e[:40]):
        axes.plot(*(centre + circle @ torch.linalg.cholesky(matrix).T).T, lw=0.5, color=colour, alpha=0.4)
    axes.plot(*(centre + circle @ torch.linalg.cholesky(m).T).T, lw=2, color=colour)
axes.set_axis_off()

# %% One file
out = Path(sys.argv[1] if len(sys.argv) > 1 else "geometry.png")
figure.savefig(out, dpi=110)
print(out)
