import numpy as np
import pytest
import torch

from pipeline.training.smoothing import (
    SAM,
    SMOOTHINGS,
    GradientNoise,
    LabelSmoothing,
    Mixup,
    RunningMixup,
    WeightAverage,
    WeightNoise,
)

CASES = {
    "weight_noise": [WeightNoise(0.3), WeightNoise(0.3, antithetic=False, annealed=True)],
    "mixup": [Mixup(0.4)],
    "running_mixup": [RunningMixup(0.4), RunningMixup(0.4, depth=1)],
    "label_smoothing": [LabelSmoothing(0.1)],
    "sam": [SAM(0.05), SAM(0.5, adaptive=True)],
    "gradient_noise": [GradientNoise(0.1)],
    "weight_average": [WeightAverage(0.25)],
}
ROWS = [smoothing for row in CASES.values() for smoothing in row]
WRONG = [(WeightNoise, -0.1), (Mixup, 0.0), (Mixup, -1.0), (LabelSmoothing, 1.0), (LabelSmoothing, -0.1)]
WRONG += [(RunningMixup, 0.0), (SAM, -0.1), (GradientNoise, -0.1), (WeightAverage, 0.0), (WeightAverage, 1.1)]


def generator(*key):
    return np.random.default_rng(key or 0)


def micro_batch(n=7, n_classes=4):
    images = torch.randn(n, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.nn.functional.one_hot(torch.arange(n) % n_classes, n_classes).float()
    return images, targets


def former(age):
    """Micro-batches of earlier steps, one sample larger; there were two."""
    return micro_batch(n=8) if age <= 2 else None


def test_every_smoothing_has_a_case():
    assert {name: {type(case) for case in row} for name, row in CASES.items()} == {
        name: {kind} for name, kind in SMOOTHINGS.items()
    }


@pytest.mark.parametrize("smoothing", ROWS, ids=repr)
def test_blended_targets_are_probabilities_and_blended_images_have_their_shape(smoothing):
    images, targets = micro_batch()
    blended, probabilities = smoothing.blend(images, targets, generator(), former)
    assert blended.shape == images.shape
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(targets)))


@pytest.mark.parametrize("smoothing", ROWS, ids=repr)
def test_inputs_are_left_alone_and_one_generator_state_gives_one_result(smoothing):
    images, targets = micro_batch()
    weights = {"a": torch.ones(2, 3), "b": torch.ones(3)}
    before = [tensor.clone() for tensor in (images, targets, *weights.values())]
    first, again = (smoothing.blend(images, targets, generator(5), former) for _ in range(2))
    one, same = (smoothing.displace(weights, generator(5), sign=1, done=0.3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(one[name], same[name]) for name in one)
    after = (images, targets, *weights.values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_a_strength_out_of_range_is_refused(kind, value):
    with pytest.raises(ValueError, match=r"must (be|lie)"):
        kind(value)


def test_label_smoothing_takes_its_amount_from_the_label_and_spreads_it():
    _, targets = LabelSmoothing(0.2).blend(*micro_batch(n=1, n_classes=4), generator(), former)
    torch.testing.assert_close(targets, torch.tensor([[0.85, 0.05, 0.05, 0.05]]))


def test_mixup_mixes_images_and_targets_of_the_same_pairs_with_the_same_weight():
    images, targets = micro_batch()
    # A linear function of image and target mixes as they do, so pixels that repeat the target show the
    # pairing.
    images = targets[:, None, :, None].expand(-1, 1, -1, 3)
    blended, probabilities = Mixup(0.4).blend(images, targets, generator(1), former)
    torch.testing.assert_close(blended[:, 0, :, 0], probabilities)


def test_mixup_keeps_the_means_of_a_micro_batch():
    images, targets = micro_batch()
    for seed in range(5):
        blended, probabilities = Mixup(0.4).blend(images, targets, generator(seed), former)
        torch.testing.assert_close(blended.mean(dim=0), images.mean(dim=0))
        torch.testing.assert_close(probabilities.mean(dim=0), targets.mean(dim=0))


def test_mixup_weights_have_the_variance_of_the_beta_distribution():
    targets = torch.eye(2)
    weights = []
    for seed in range(4000):
        blended = Mixup(0.4).blend(torch.zeros(2, 1, 1, 1), targets, generator(seed), former)[1]
        weights.append(blended[0, 0].item())
    # Half of the permutations of two are the identity; the others show the weight, of variance
    # 1 / (4 (2 alpha + 1)).
    mixed = np.array([w for w in weights if w != 1.0])
    assert len(mixed) == pytest.approx(2000, abs=5 * np.sqrt(1000))
    assert mixed.mean() == pytest.approx(0.5, abs=5 * np.sqrt(0.139 / 2000))
    assert mixed.var() == pytest.approx(1 / (4 * 1.8), rel=0.15)


def test_weight_noise_is_relative_to_each_matrix_and_spares_vectors():
    weights = {
        "small": torch.full((200, 50), 0.01),
        "large": torch.full((50, 200), 10.0),
        "bias": torch.ones(50),
    }
    noise = WeightNoise(0.3).displace(weights, generator(), sign=1, done=0.0)
    assert set(noise) == {"small", "large"}
    for name, displacement in noise.items():
        # The deviation of 10,000 normal numbers is known to 1/sqrt(20,000).
        assert displacement.std().item() / weights[name].mean().item() == pytest.approx(
            0.3, rel=5 / 20_000**0.5
        )
        assert abs(displacement.mean()) < 5 * 0.3 * weights[name].mean() / 100


def test_antithetic_pairs_take_opposite_noise_and_others_their_own():
    weights = {"a": torch.ones(4, 5)}
    first, second = (WeightNoise(0.3).displace(weights, generator(), sign=s, done=0.0)["a"] for s in (1, -1))
    assert torch.equal(first, -second)
    free = WeightNoise(0.3, antithetic=False)
    first, second = (free.displace(weights, generator(), sign=s, done=0.0)["a"] for s in (1, -1))
    assert not torch.equal(first.abs(), second.abs())


def test_annealed_noise_falls_as_a_cosine():
    weights = {"a": torch.ones(4, 5)}
    annealed = WeightNoise(0.3, annealed=True)
    start, half, end = (annealed.displace(weights, generator(), sign=1, done=d)["a"] for d in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, start / 2)
    torch.testing.assert_close(end, torch.zeros_like(end))


def quadratic_gradient(weight, H, b):
    return (H @ weight.flatten() - b).view_as(weight)


def test_antithetic_noise_leaves_the_gradient_of_a_quadratic_exactly_as_it_is():
    torch_generator = torch.Generator().manual_seed(0)
    H, b = (
        torch.randn(6, 6, generator=torch_generator).double(),
        torch.randn(6, generator=torch_generator).double(),
    )
    weight = torch.randn(2, 3, generator=torch_generator).double()
    pair = [
        quadratic_gradient(
            weight + WeightNoise(0.5).displace({"w": weight}, generator(), sign=s, done=0.0)["w"], H, b
        )
        for s in (1, -1)
    ]
    torch.testing.assert_close(
        (pair[0] + pair[1]) / 2, quadratic_gradient(weight, H, b), rtol=1e-12, atol=1e-12
    )


def moved_by_noise(rows, std, *, sign):
    """Return the rows displaced for each of twenty generators, one below the other.

    One matrix holds the rows 200 times or more: its noise is that of as many matrices, since it is independent and
    relative to their common mean square.
    """
    weight = {"w": rows}
    return torch.cat(
        [
            rows + WeightNoise(std).displace(weight, generator(seed), sign=sign, done=0.0)["w"]
            for seed in range(20)
        ]
    )


def test_the_average_loss_of_a_quadratic_rises_by_half_the_variance_times_the_trace():
    # E[(w + e)' H (w + e)] / 2 = w' H w / 2 + s^2 tr(H) / 2: the Gaussian convolution in closed form.
    H, std, n = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64)), 0.3, 20_000
    moved = moved_by_noise(torch.ones(n // 20, 6, dtype=torch.float64), std, sign=1)
    losses = 0.5 * ((moved @ H) * moved).sum(dim=1).numpy()
    assert len(losses) == n
    expected = 0.5 * 21 + std**2 * 21 / 2
    assert np.mean(losses) == pytest.approx(expected, abs=5 * np.std(losses) / np.sqrt(n))


def test_the_averaged_gradient_of_a_cubic_is_that_of_its_gaussian_convolution():
    # L = sum w^3: E[3 (w + e)^2] = 3 (w^2 + s^2).
    std, n = 0.25, 4000
    rows = torch.full((n // 20, 4), 2.0, dtype=torch.float64)
    pair = [moved_by_noise(rows, std, sign=sign) for sign in (1, -1)]
    mean = 3 * torch.cat(pair).square().mean(dim=0)
    assert len(pair[0]) == n
    variance = (0.25 * 2.0) ** 2
    # Of a pair only 3 e^2 is random; its deviation is 3 sqrt(2) s^2.
    assert (mean - 3 * (4 + variance)).abs().max() < 5 * 3 * 2**0.5 * variance / n**0.5


@pytest.mark.parametrize(
    ("share", "n_steps", "n_averaged"), [(0.25, 40, 10), (0.3, 10, 3), (1.0, 7, 7), (0.01, 7, 1)]
)
def test_the_weight_average_takes_the_last_share_of_all_steps(share, n_steps, n_averaged):
    taken = [WeightAverage(share).averages((step + 1) / n_steps) for step in range(n_steps)]
    assert taken == [False] * (n_steps - n_averaged) + [True] * n_averaged
