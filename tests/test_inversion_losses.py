"""The distances of inversions: read, weighted, brought to the size that their networks take."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_inversion import CPU

from noisegan.core.rng import Streams
from noisegan.errors import NoiseganError
from noisegan.inversion.losses import make_loss, parse_loss, seen


def test_losses_are_read_and_refused() -> None:
    assert parse_loss("st-lpips-alex") == [("st-lpips-alex", 1.0)]
    assert parse_loss("lpips-vgg=2, mse=0.1") == [("lpips-vgg", 2.0), ("mse", 0.1)]
    with pytest.raises(NoiseganError, match="unknown distance 'lpips' in the loss 'lpips'; did you mean 'lpips-"):
        parse_loss("lpips")
    for text in ("mse=0", "mse=x", "mse=", "mse,mse"):
        with pytest.raises(NoiseganError, match="write each distance once, with a weight above 0"):
            parse_loss(text)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_loss_is_the_weighted_sum_of_its_distances(channels: int) -> None:
    a, b = (Streams(0)[name].source(ids=range(3)).normal(channels, 32, 32).clamp(-1, 1) for name in "ab")
    loss = make_loss("st-lpips-alex=2,mse=0.5", CPU)
    values = loss(a, loss.prepare(b))
    torch.testing.assert_close(loss.total(values), 2 * values["st-lpips-alex"] + 0.5 * values["mse"])
    zero = loss(b, loss.prepare(b))
    assert all(float(value.abs().max()) < 1e-6 for value in zero.values())
    if channels != 4:
        torch.testing.assert_close(values["mse"], (a - b).square().mean(dim=(1, 2, 3)))
    assert str(loss) == "st-lpips-alex=2,mse=0.5"
    assert loss.describe()["st-lpips-alex"]["network"].startswith("alex_shift_tolerant.pth sha256:")


def test_colour_of_what_cannot_be_seen_does_not_matter_and_alpha_does() -> None:
    image = Streams(0)["i"].source(ids=range(1)).normal(4, 8, 8).clamp(-1, 1)
    unseen, other = image.clone(), image.clone()
    unseen[:, 3] = -1
    other[:, 3], other[:, :3] = -1, 0.5
    torch.testing.assert_close(seen(unseen), seen(other))
    loss = make_loss("mse", CPU)
    white, see_through = torch.ones(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    see_through[:, 3] = -1
    assert float(loss(see_through, loss.prepare(white))["mse"]) == pytest.approx(2.0)  # over black 4, over white 0


def test_the_distance_on_its_own_is_that_of_the_extractor() -> None:
    from noisegan.metrics.extractors.st_lpips import load_st_lpips

    a, b = (Streams(0)[name].source(ids=range(2)).normal(3, 32, 32).clamp(-1, 1) for name in "ab")
    loss = make_loss("st-lpips-alex", CPU)
    expected = load_st_lpips(CPU)[0].distance(a, b)
    torch.testing.assert_close(loss(a, loss.prepare(b))["st-lpips-alex"], expected)


def test_small_and_large_images_are_brought_into_the_networks_range() -> None:
    loss = make_loss("st-lpips-alex", CPU)
    for size in (8, 512):
        a, b = (Streams(0)[name].source(ids=range(1)).normal(1, size, size).clamp(-1, 1) for name in "ab")
        assert 0 < float(loss(a, loss.prepare(b))["st-lpips-alex"]) < 5


def test_large_images_are_seen_averaged_down_to_256() -> None:
    loss = make_loss("st-lpips-alex", CPU)
    a, b = (Streams(0)[name].source(ids=range(1)).normal(3, 512, 512).clamp(-1, 1) for name in "ab")
    large = loss(a, loss.prepare(b))["st-lpips-alex"]
    a, b = (F.avg_pool2d(x, 2) for x in (a, b))
    torch.testing.assert_close(large, loss(a, loss.prepare(b))["st-lpips-alex"])
