"""The scale of losses that are no mean over dimension 0, learned from what passes: factors of single terms by autograd
are the oracle."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.training import KFAC, KFACSettings
from pipeline.training.loss_terms import learn_terms

ALL = KFACSettings(
    factor_interval=1, inverse_interval=1, sample_fraction=1.0, kl_clip=0.0, block_size=0, damping=0.1
)
N, N_CLASSES = 12, 5
UNKNOWN = pytest.mark.filterwarnings("ignore:K-FAC does not recognize this loss")


def network(n_outputs=N_CLASSES, dtype=torch.float64):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, n_outputs))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model.to(dtype)


def batch(*shape, n_classes=N_CLASSES):
    rng = torch.Generator().manual_seed(7)
    return torch.randn(*shape, 4, generator=rng, dtype=torch.float64), torch.randint(
        n_classes, shape, generator=rng
    )


def exact_G(model, x, y, layer=2):
    """Second moment of the gradients at a layer's output, term by term."""
    seen = []
    handle = model[layer].register_forward_hook(lambda *call: seen.append(call[2]))
    rows = []
    for one, target in zip(x.reshape(-1, 4), y.flatten(), strict=True):
        if target >= 0:
            loss = functional.cross_entropy(model(one[None]), target[None])
            rows.append(torch.autograd.grad(loss, seen.pop())[0])
    handle.remove()
    gradients = torch.cat(rows)
    return gradients.T @ gradients / len(gradients)


def found_G(model, backward, layer="2", **options):
    kfac = KFAC(model, ALL, **options)
    backward(kfac)
    kfac.step(1.0)
    kfac.remove()
    return kfac.state_dict()["tensors"][f"factor/G/{layer}"], kfac.terms


def passes(model, x, y, n, **how):
    def backward(_):
        for xs, ys in zip(x.chunk(n), y.chunk(n), strict=True):
            (functional.cross_entropy(model(xs), ys, **how) / n).backward()

    return backward


@pytest.mark.parametrize("n", [1, 3, 4])
@pytest.mark.parametrize("layer", [0, 2])
def test_gradients_accumulated_in_parts_of_a_mean_give_the_same_factors(n, layer):
    model, (x, y) = network(), batch(N)
    G, terms = found_G(model, passes(model, x, y, n), str(layer))
    torch.testing.assert_close(G, exact_G(model, x, y, layer), rtol=1e-9, atol=1e-12)
    assert terms.source == "softmax cross-entropy"
    assert terms.weight == pytest.approx(1 / N)


@pytest.mark.parametrize("n", [1, 3])
def test_without_learning_accumulated_passes_are_parts_of_one_mean(n):
    model, (x, y) = network(), batch(N)
    G, terms = found_G(model, passes(model, x, y, n), loss="mean")
    torch.testing.assert_close(G, exact_G(model, x, y))
    assert terms.source == "a mean over dimension 0"


@pytest.mark.parametrize("scale", [2.0**16, 1 / 8, 3.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_what_the_loss_is_multiplied_by_does_not_matter(scale, reduction):
    model, (x, y) = network(), batch(N)
    G, _ = found_G(
        model, lambda _: (functional.cross_entropy(model(x), y, reduction=reduction) * scale).backward()
    )
    torch.testing.assert_close(G, exact_G(model, x, y), rtol=1e-9, atol=1e-12)


def test_ignored_targets_are_no_terms():
    model, (x, y) = network(), batch(N)
    y[::2] = -100
    G, terms = found_G(model, passes(model, x, y, 1))
    torch.testing.assert_close(G, exact_G(model, x, y), rtol=1e-9, atol=1e-12)
    assert terms.n == N / 2


@pytest.mark.parametrize("classes_last", [True, False])
def test_each_token_is_a_term(classes_last):
    model, (x, y) = network(), batch(N, 3)

    def backward(_):
        scores = model(x)
        if classes_last:
            functional.cross_entropy(scores.flatten(0, 1), y.flatten()).backward()
        else:
            functional.cross_entropy(scores.movedim(-1, 1), y).backward()

    G, terms = found_G(model, backward)
    torch.testing.assert_close(G, exact_G(model, x, y), rtol=1e-9, atol=1e-12)
    assert terms.n == 3 * N


def test_rows_that_are_flattened_inside_are_not_more_samples():
    model, (x, y) = network(), batch(N, 3)

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x.flatten(0, 1)).unflatten(0, (N, 3)).mean(dim=1)

    flat = Flat()
    kfac = KFAC(flat, ALL)
    functional.cross_entropy(flat(x), y[:, 0]).backward()
    kfac.step(1.0)
    # One term per image; its gradient at each of three positions is a third of that at the scores.
    scores = model(x).mean(dim=1).detach()
    errors = (scores.softmax(1) - functional.one_hot(y[:, 0], N_CLASSES)) / 3
    expected = 3 * errors.T @ errors / N
    torch.testing.assert_close(
        kfac.state_dict()["tensors"]["factor/G/inner.2"], expected, rtol=1e-9, atol=1e-12
    )


@UNKNOWN
def test_a_gradient_scaler_is_asked_where_the_loss_cannot_tell():
    model, (x, _) = network(), batch(N)
    target = torch.ones(N, N_CLASSES, dtype=torch.float64)
    plain, _ = found_G(model, lambda _: functional.mse_loss(model(x), target).backward())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)

    def scaled(_):
        optimizer.zero_grad()
        scaler.scale(functional.mse_loss(model(x), target)).backward()
        scaler.unscale_(optimizer)

    G, terms = found_G(model, scaled, scaler=scaler)
    torch.testing.assert_close(G, plain)
    assert terms.source == "a mean over dimension 0"


def test_with_a_scaler_a_step_of_infinite_gradients_is_passed_over():
    model, (x, y) = network(), batch(N)
    scaler = torch.amp.GradScaler("cpu")
    kfac = KFAC(model, ALL, scaler=scaler)
    (functional.cross_entropy(model(x), y) * float("inf")).backward()
    kfac.step(1.0)
    assert kfac.n_skipped == 1
    assert not kfac.state_dict()["tensors"]


def softened(y, amount=0.1):
    return (1 - amount) * functional.one_hot(y, N_CLASSES).double() + amount / N_CLASSES


def mixed(y):
    return (
        0.3 * functional.one_hot(y, N_CLASSES).double()
        + 0.7 * functional.one_hot(y.roll(1), N_CLASSES).double()
    )


@pytest.mark.parametrize("targets", [softened, mixed])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_soft_targets_tell_the_weight_too(targets, dtype):
    scores = torch.randn(N, N_CLASSES, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    y = torch.arange(N) % N_CLASSES
    loss = functional.cross_entropy(scores, targets(y).to(dtype))
    (gradient,) = torch.autograd.grad(loss / 4, scores)
    terms = learn_terms(scores.detach(), gradient)
    assert terms.source == "softmax cross-entropy with soft targets"
    assert terms.weight == pytest.approx(1 / (4 * N))


@pytest.mark.parametrize("shape", [(9,), (7, 3)])
def test_binary_cross_entropy_tells_its_weight(shape):
    rng = torch.Generator().manual_seed(1)
    scores = torch.randn(*shape, generator=rng).requires_grad_()
    y = torch.randint(2, shape, generator=rng).float()
    (gradient,) = torch.autograd.grad(functional.binary_cross_entropy_with_logits(scores, y), scores)
    terms = learn_terms(scores.detach(), gradient)
    assert terms.source == "binary cross-entropy"
    assert terms.weight == pytest.approx(1 / y.numel())


def test_weighted_classes_leave_the_fisher_matrix_of_the_scores_its_trace():
    rng = torch.Generator().manual_seed(1)
    scores = torch.randn(N, N_CLASSES, generator=rng, dtype=torch.float64).requires_grad_()
    y = torch.arange(N) % N_CLASSES
    weights = torch.arange(1, N_CLASSES + 1).double()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(scores, y, weight=weights), scores)
    terms = learn_terms(scores.detach(), gradient)
    # The loss is a mean in which term i has the weight w_i: its Fisher matrix is the sum of w_i g_i g_i'.
    w = weights[y] / weights[y].sum()
    errors = scores.softmax(1).detach() - functional.one_hot(y, N_CLASSES)
    expected = (w[:, None] * errors.square()).sum()
    assert float(gradient.square().sum() / terms.weight) == pytest.approx(float(expected))


LOSSES = {
    "squares": lambda s: s.square().mean(),
    "absolute values": lambda s: s.abs().mean(),
    "a mean": lambda s: s.mean(),
    "a margin": lambda s: (1 - s[:, 0] + s[:, 1]).clamp_min(0).mean(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("n_outputs", [2, 5])
def test_other_losses_are_not_taken_for_cross_entropies(loss, n_outputs):
    scores = torch.randn(N, n_outputs, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(scores), scores)
    assert learn_terms(scores.detach(), gradient) is None


@pytest.mark.parametrize("size", [0.0, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "loss",
    [
        functional.l1_loss,
        lambda s, t: functional.mse_loss(s, t.sign()),
        lambda s, t: functional.huber_loss(s, t, delta=0.1),
        lambda s, t: (1 - s * t.sign()).clamp_min(0).mean(),
    ],
    ids=["absolute values", "squares", "huber", "hinge"],
)
def test_other_losses_of_small_scores_are_not_taken_for_binary_cross_entropies(loss, dtype, size):
    rng = torch.Generator().manual_seed(1)
    scores = (size * torch.randn(N, 1, generator=rng)).to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(scores.float(), torch.randn(N, 1, generator=rng)), scores)
    assert learn_terms(scores.detach(), gradient) is None


@pytest.mark.parametrize("size", [1e-2, 0.3, 30.0])
def test_a_binary_cross_entropy_of_small_and_large_scores_tells_its_weight(size):
    rng = torch.Generator().manual_seed(1)
    scores = (size * torch.randn(N, 1, generator=rng)).requires_grad_()
    y = (torch.arange(N) % 2).float()[:, None]
    loss = functional.binary_cross_entropy_with_logits(scores, y)
    (gradient,) = torch.autograd.grad(loss / 4, scores)
    assert learn_terms(scores.detach(), gradient).weight == pytest.approx(1 / (4 * N))


def test_no_gradient_is_no_term_and_an_infinite_one_tells_nothing():
    scores = torch.randn(3, 4)
    assert learn_terms(scores, torch.zeros(3, 4)).n == 0
    assert learn_terms(scores, torch.full((3, 4), float("nan"))) is None
    assert learn_terms(scores[:0], scores[:0]) is None


def test_an_unknown_kind_of_loss_is_refused():
    with pytest.raises(ValueError, match="loss must be one of learned, mean, sum, not 'total'"):
        KFAC(network(), ALL, loss="total")


@pytest.mark.parametrize("margin", [5.0, 14.0])
def test_a_network_that_is_sure_of_its_targets_still_tells_the_weight(margin):
    y = torch.arange(N) % N_CLASSES
    rng = torch.Generator().manual_seed(1)
    scores = (
        torch.randn(N, N_CLASSES, generator=rng) + margin * functional.one_hot(y, N_CLASSES)
    ).requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(scores, y) / 4, scores)
    assert learn_terms(scores.detach(), gradient).weight == pytest.approx(1 / (4 * N))


def test_scores_beyond_all_doubt_tell_nothing():
    y = torch.arange(N) % N_CLASSES
    scores = (1e4 * functional.one_hot((y + 1) % N_CLASSES, N_CLASSES)).float().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(scores, y), scores)
    terms = learn_terms(scores.detach(), gradient)
    assert terms.weight == pytest.approx(
        1 / N
    )  # sure of the wrong class, whose gradient is the weight itself
    assert learn_terms(torch.full((2, 3), torch.nan), torch.ones(2, 3)) is None


@pytest.mark.parametrize("n_passes", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 0.4, 341.0, 2.0**16, 1e5 / 7])
def test_a_learned_weight_is_exact_for_any_multiple_of_a_loss(scale, n_passes):
    scores = torch.randn(N, N_CLASSES, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    y = torch.arange(N) % N_CLASSES
    (gradient,) = torch.autograd.grad(scale / n_passes * functional.cross_entropy(scores, y), scores)
    assert learn_terms(scores.detach(), gradient).weight == pytest.approx(scale / n_passes / N, rel=1e-9)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(scores.float(), y, reduction="sum"), scores)
    assert learn_terms(scores.detach().float(), gradient.float()).weight == 1.0


LOG_SOFTMAX = nn.LogSoftmax(dim=1)
SPELLED_OUT = {
    "log-probabilities": (LOG_SOFTMAX, functional.nll_loss),
    "probabilities": (nn.Softmax(dim=1), lambda p, y, **how: functional.nll_loss(p.log(), y, **how)),
}


@pytest.mark.parametrize(("last", "loss"), SPELLED_OUT.values(), ids=SPELLED_OUT)
@pytest.mark.parametrize(("n_passes", "scale"), [(1, 1024.0), (3, 1.0)])
@pytest.mark.parametrize("how", [{}, {"reduction": "sum"}, {"ignore_index": 1}], ids=str)
def test_a_cross_entropy_of_probabilities_has_the_factors_of_one_of_scores(last, loss, n_passes, scale, how):
    model = network()
    x, y = batch(N)
    kept = torch.where(y == how.get("ignore_index", -1), -100, y)

    whole = nn.Sequential(*model, last)
    kfac = KFAC(whole, ALL)
    for xs, ys in zip(x.chunk(n_passes), y.chunk(n_passes), strict=True):
        (scale / n_passes * loss(whole(xs), ys, **how)).backward()
    kfac.step(1.0)
    assert (
        kfac.terms.source == f"softmax cross-entropy of {'log-' if last is LOG_SOFTMAX else ''}probabilities"
    )
    for layer in (0, 2):
        found = kfac.state_dict()["tensors"][f"factor/G/{layer}"]
        torch.testing.assert_close(found, exact_G(network(), x, kept, layer))
    kfac.remove()


@pytest.mark.parametrize("spread", [2.0, 0.1])
def test_a_discriminator_that_returns_probabilities_has_terms_in_two_passes(spread):
    rng = torch.Generator().manual_seed(1)
    scores = (spread * torch.randn(N, generator=rng)).double()
    y = (torch.arange(N) % 2).double()
    p = scores.sigmoid().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.binary_cross_entropy(p, y) / 4, p)
    terms = learn_terms(p.detach(), gradient)
    assert terms.source == "binary cross-entropy of probabilities"
    assert terms.weight == pytest.approx(1 / (4 * N))
    (gradient,) = torch.autograd.grad(functional.mse_loss(p, y), p)
    assert learn_terms(p.detach(), gradient) is None


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("form", [torch.log_softmax, torch.softmax])
def test_other_losses_of_probabilities_are_not_taken_for_cross_entropies(name, form):
    scores = torch.randn(N, N_CLASSES, generator=torch.Generator().manual_seed(1))
    probabilities = form(scores, dim=1).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](probabilities), probabilities)
    terms = learn_terms(probabilities.detach(), gradient)
    if (name, form) == ("absolute values", torch.log_softmax):  # this is a cross-entropy, of uniform targets
        assert terms.weight == pytest.approx(1 / N)
    else:
        assert terms is None


def test_scores_in_short_numbers_tell_their_weight():
    scores = torch.randn(N, N_CLASSES, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    (gradient,) = torch.autograd.grad(
        functional.cross_entropy(scores, torch.arange(N) % N_CLASSES) / 4, scores
    )
    assert learn_terms(scores.detach(), gradient).weight == pytest.approx(1 / (4 * N), rel=1e-2)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_classes", [3, 5, 10, 100])
def test_half_precision_does_not_hide_smoothed_labels(n_classes, dtype, native):
    n, rng = 64, torch.Generator().manual_seed(0)
    for spread in (0.1, 1.0, 4.0):
        scores = spread * torch.randn(n, n_classes, generator=rng)
        y = torch.randint(n_classes, (n,), generator=rng)
        for smoothing in (0.0, 0.1, 0.3):
            found = scores.to(dtype).requires_grad_()
            loss = functional.cross_entropy(found if native else found.float(), y, label_smoothing=smoothing)
            (gradient,) = torch.autograd.grad(loss, found)
            terms = learn_terms(found.detach(), gradient)
            if smoothing and n_classes < 5:  # too few classes to tell
                assert terms is None
            else:
                assert terms.weight == pytest.approx(1 / n, rel=0.02)


@UNKNOWN
def test_a_pass_whose_terms_are_all_masked_is_one_of_the_passes():
    model, (x, _) = network(), batch(N)
    target, mask = torch.ones(N, N_CLASSES, dtype=torch.float64), torch.arange(N) >= N // 4

    def errors(found, target, mask):
        return ((found - target).square().sum(dim=1) * mask).mean()

    def in_parts(_):
        for part in zip(x.chunk(4), target.chunk(4), mask.chunk(4), strict=True):
            (errors(model(part[0]), *part[1:]) / 4).backward()

    whole, _ = found_G(model, lambda _: errors(model(x), target, mask).backward())
    G, _ = found_G(model, in_parts)
    # The oracle: gradients of single samples, each of a loss that is a mean over all.
    slopes = 2 * (model(x) - target).detach() * mask[:, None]
    torch.testing.assert_close(G, slopes.T @ slopes / N, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(G, whole, rtol=1e-9, atol=1e-12)


@UNKNOWN
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_pass_that_is_not_recognized_has_the_factor_of_the_others(reduction):
    # With three classes, smoothed labels are not recognized; the last part has them.
    model, (x, y) = network(3), batch(N, n_classes=3)
    smoothed = [0.0, 0.0, 0.0, 0.4]

    def in_parts(_):
        for xs, ys, label_smoothing in zip(x.chunk(4), y.chunk(4), smoothed, strict=True):
            loss = functional.cross_entropy(
                model(xs), ys, reduction=reduction, label_smoothing=label_smoothing
            )
            (loss / 4).backward()

    G, terms = found_G(model, in_parts)
    assert terms.source == "a mean over dimension 0"
    targets = functional.one_hot(y, 3).double()
    targets[-3:] = 0.6 * targets[-3:] + 0.4 / 3
    slopes = (model(x).softmax(1) - targets).detach()
    torch.testing.assert_close(G, slopes.T @ slopes / N, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", ["learned", "mean", "sum"])
def test_a_loss_that_is_not_recognized_is_told_once_unless_its_kind_is_given(loss):
    model, (x, _) = network(), batch(N)
    kfac = KFAC(model, ALL, loss=loss)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            model.zero_grad()
            model(x).square().sum(dim=1).mean().backward()
            kfac.step(1.0)
    assert len(told) == (loss == "learned")
    for warning in told:
        assert "pass loss='mean'" in str(warning.message)
        assert warning.filename == __file__
