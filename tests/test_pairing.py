"""Runs are paired by construction: swapping the strategy changes nothing else, and the certificate can tell."""

from __future__ import annotations

import json

import pytest
import torch

from noisegan.core.data import batch_indices
from noisegan.core.discriminator import Discriminator
from noisegan.core.generator import Generator
from noisegan.core.pairing import PairingCertificate, shared_weights_hash
from noisegan.core.rng import Streams
from noisegan.manager import Plugins

ITEMS = 10
EXPRESSIONS = ("none", "additive", "additive(per_channel=true, strength=0.2)", "fuzzy", "additive + fuzzy")


def weights(plugins: Plugins, expression: str = "none", seed: int = 1) -> str:
    small = {"resolution": 8, "channel_base": 32, "channel_max": 4, "mapping_layers": 1, "seed": seed}
    G = Generator(**small, z_dim=4, w_dim=4, noise=plugins.parse(expression))  # type: ignore[arg-type]
    return shared_weights_hash({"G": G, "D": Discriminator(**small)})  # type: ignore[arg-type]


def certificate(weights: str = "0", *, seed: int = 1, data: str = "abc") -> PairingCertificate:
    return PairingCertificate(seed=seed, data=data, initial_weights=weights)


def note(paper: PairingCertificate, steps: range, *, batch: int = 4, items: int = ITEMS) -> PairingCertificate:
    streams = Streams(paper.seed)
    for step in steps:
        paper.note_step(step, batch_indices(streams["data"], items, step * batch, batch), streams)
    return paper


@pytest.mark.parametrize("expression", EXPRESSIONS[1:])
def test_swapping_the_strategy_leaves_the_certificate_equal(plugins: Plugins, expression: str) -> None:
    base, other = (note(certificate(weights(plugins, e)), range(5)) for e in ("none", expression))
    assert base.as_dict() == other.as_dict()
    assert base.steps == 5


def test_swapping_the_strategy_leaves_latents_and_order_equal_whatever_noise_was_drawn(plugins: Plugins) -> None:
    def run(expression: str) -> list[torch.Tensor]:
        streams, seen = Streams(1), []
        G = Generator(resolution=8, z_dim=4, w_dim=4, channel_base=32, noise=plugins.parse(expression))
        for step in range(3):
            z = streams["z/G"].source(step=step, ids=range(4)).normal(4)
            G(z, noise="fresh")
            seen += [z, batch_indices(streams["data"], ITEMS, step * 4, 4)]
        return seen

    base, *others = (run(expression) for expression in EXPRESSIONS)
    assert len(others) == 4
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(base, other, strict=True))


def test_the_hash_of_shared_weights_sees_every_shared_parameter(plugins: Plugins) -> None:
    small = {"resolution": 8, "channel_base": 32, "channel_max": 4, "mapping_layers": 1}
    G = Generator(**small, z_dim=4, w_dim=4, noise=plugins.parse("fuzzy"))  # type: ignore[arg-type]
    before = shared_weights_hash({"G": G})
    for name, p in G.named_parameters():
        with torch.no_grad():
            value = p.flatten()[0].clone()
            p.view(-1)[0] += 1
            after = shared_weights_hash({"G": G})
            p.view(-1)[0] = value
        assert (after == before) == (".noise." in name), name
    assert shared_weights_hash({"G": G}) == before


def test_the_hash_of_shared_weights_sees_seed_and_network(plugins: Plugins) -> None:
    assert weights(plugins, seed=2) != weights(plugins, seed=1)
    layer = torch.nn.Linear(2, 2)
    assert shared_weights_hash({"G": layer}) != shared_weights_hash({"D": layer})


def test_the_hash_of_shared_weights_does_not_depend_on_the_order_of_networks() -> None:
    one, two = torch.nn.Linear(2, 2), torch.nn.Linear(3, 2)
    assert shared_weights_hash({"G": one, "D": two}) == shared_weights_hash({"D": two, "G": one})


def test_another_seed_is_another_order_and_other_latents() -> None:
    one, two = note(certificate(seed=1), range(3)), note(certificate(seed=2), range(3))
    assert one.data_order != two.data_order
    assert one.z != two.z


def test_another_batch_is_another_order_and_other_latents() -> None:
    one, two = note(certificate(), range(4), batch=4), note(certificate(), range(2), batch=8)
    assert one.data_order != two.data_order
    assert one.z != two.z


def test_data_of_another_size_come_in_another_order() -> None:
    one, two = note(certificate(), range(3)), note(certificate(), range(3), items=11)
    assert one.data_order != two.data_order
    assert one.z == two.z


def test_other_data_of_the_same_size_are_told_by_their_fingerprint() -> None:
    one, two = note(certificate(data="abc"), range(3)), note(certificate(data="abd"), range(3))
    assert one != two
    assert one.data_order == two.data_order


def test_every_step_and_its_place_count() -> None:
    digests = [note(certificate(), range(steps)) for steps in range(5)]
    assert len({d.data_order for d in digests}) == len({d.z for d in digests}) == 5
    strayed = certificate()
    strayed.note_step(0, torch.tensor([9, 9, 9, 9]), Streams(1))
    assert note(strayed, range(1, 4)).data_order != digests[4].data_order  # an early item is not forgotten
    items, streams = [torch.tensor([1, 2]), torch.tensor([2, 1])], Streams(1)
    swapped = []
    for order in ([0, 1], [1, 0]):
        paper = certificate()
        for step, k in enumerate(order):
            paper.note_step(step, items[k], streams)
        swapped.append(paper)
    assert swapped[0].data_order != swapped[1].data_order
    assert swapped[0].z == swapped[1].z


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_resumed_run_ends_with_the_certificate_of_an_unbroken_one(stop: int) -> None:
    whole = note(certificate(), range(6))
    kept = json.loads(json.dumps(note(certificate(), range(stop)).as_dict()))
    assert note(PairingCertificate(**kept), range(stop, 6)).as_dict() == whole.as_dict()


def test_each_epoch_shows_every_item_once_in_an_order_of_its_own() -> None:
    stream = Streams(3)["data"]
    epochs = [batch_indices(stream, ITEMS, ITEMS * k, ITEMS).tolist() for k in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(ITEMS))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_does_not_depend_on_how_it_is_cut() -> None:
    stream = Streams(3)["data"]
    whole = batch_indices(stream, ITEMS, 3, 25)
    cut = torch.cat([batch_indices(stream, ITEMS, start, count) for start, count in ((3, 4), (7, 13), (20, 8))])
    assert torch.equal(whole, cut)
