"""Options of K-FAC: Monte-Carlo Fisher, corrected eigenvalues, moving damping and intervals."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.runtime.communicator import Serial, run_in_threads
from pipeline.training import KFAC, KFACSettings
from pipeline.training.damping import adapted, scheduled
from pipeline.training.kronecker import rotated_second_moment, turn_eigenvalues

EVERY = {"factor_interval": 1, "inverse_interval": 1, "sample_fraction": 1.0, "kl_clip": 0.0, "block_size": 0}


def settings(**options):
    return KFACSettings(**(EVERY | options))


# Threads share torch's global generator, which layers draw their first weights from.
BUILDING = threading.Lock()


def network(seed=0):
    """Linear, convolutional, embedding and normalization layers, all small."""
    with BUILDING:
        torch.manual_seed(seed)
        layers = [
            nn.Embedding(5, 4),
            nn.Unflatten(1, (2, 3)),
            nn.Conv2d(2, 4, (2, 3), groups=2),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Flatten(),
            nn.LayerNorm(16),
            nn.Linear(16, 3),
        ]
    return nn.Sequential(*layers).double()


def batch(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, (n, 6), generator=generator), torch.randint(3, (n,), generator=generator)


def linear(n_inputs=4, n_outputs=3):
    with BUILDING:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(n_inputs, n_outputs)).double()


def points(n, n_inputs=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, n_inputs, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def run(kfac, model, n_steps, lr=0.05, start=0, communicator=None):
    """Steps of gradient descent on batches of their own; each process passes its part."""
    communicator = communicator or Serial()
    for step in range(start, start + n_steps):
        x, y = batch(seed=step)
        part = slice(communicator.rank, None, communicator.size)
        model.zero_grad()
        scores = model(x[part])
        kfac.sample_fisher(scores, communicator.rank)
        functional.cross_entropy(scores, y[part], reduction="sum").backward()
        for p in model.parameters():
            communicator.all_reduce(p.grad)
            p.grad /= len(x)
        kfac.step(lr, done=step / 20)
        with torch.no_grad():
            for p in model.parameters():
                p -= lr * p.grad
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_monte_carlo_fisher_matrix_tends_to_that_of_the_prediction():
    # E over classes y ~ p of (p - y)(p - y)' is diag(p) - p p'.
    model, (x, _) = linear(), points(3)
    p = model(x).softmax(1).detach()
    expected = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]).mean(dim=0)
    n = 1500
    kfac = KFAC(model, settings(fisher="monte_carlo"))
    for number in range(n):
        kfac.sample_fisher(model(x), number)
    functional.cross_entropy(model(x), torch.zeros(3, dtype=torch.int64)).backward()
    kfac.step(0.1)
    G = kfac.state_dict()["tensors"]["factor/G/0"]
    # Entries of single samples lie in [-1, 1].
    assert (G - expected).abs().max() < 5 / (3 * n) ** 0.5


def test_the_monte_carlo_fisher_matrix_does_not_see_the_labels():
    states = []
    for label in (0, 2):
        model, (x, _) = linear(), points(5)
        kfac = KFAC(model, settings(fisher="monte_carlo"), seed=3)
        scores = model(x)
        kfac.sample_fisher(scores, 0)
        functional.cross_entropy(scores, torch.full((5,), label)).backward()
        kfac.step(0.1)
        states.append(kfac.state_dict()["tensors"]["factor/G/0"])
    assert torch.equal(*states)


@pytest.mark.parametrize("n_positions", [1, 4])
def test_rotated_second_moments_are_the_diagonal_of_the_dense_fisher_matrix_in_the_basis(n_positions, rng):
    n, rows, columns = 5, 3, 4
    a = torch.randn(columns, n_positions, n, generator=rng, dtype=torch.float64)
    g = torch.randn(rows, n_positions, n, generator=rng, dtype=torch.float64)
    Q_A, Q_G = (torch.linalg.qr(torch.randn(k, k, generator=rng, dtype=torch.float64))[0] for k in (4, 3))
    gradients = torch.einsum("opn,ipn->noi", g, a).flatten(1)
    fisher = gradients.T @ gradients
    basis = torch.kron(Q_G, Q_A)
    expected = (basis.T @ fisher @ basis).diagonal().view(rows, columns)
    S = rotated_second_moment(a.flatten(1), g.flatten(1), [Q_A], [Q_G], n)
    torch.testing.assert_close(S, expected, rtol=1e-12, atol=1e-12)


def test_eigenvalues_keep_their_matrix_as_far_as_the_new_basis_can(rng):
    def basis(k):
        return torch.linalg.qr(torch.randn(k, k, generator=rng, dtype=torch.float64))[0]

    old, new = ([basis(4)], [basis(3)]), ([basis(4)], [basis(3)])
    S = torch.rand(3, 4, generator=rng, dtype=torch.float64)
    dense = torch.kron(old[1][0], old[0][0]) @ torch.diag(S.flatten()) @ torch.kron(old[1][0], old[0][0]).T
    to = torch.kron(new[1][0], new[0][0])
    expected = (to.T @ dense @ to).diagonal().view(3, 4)
    torch.testing.assert_close(turn_eigenvalues(S, old, new), expected)
    torch.testing.assert_close(turn_eigenvalues(S, old, old), S)


def test_corrected_eigenvalues_solve_with_the_diagonal_of_the_fisher_matrix_in_the_kronecker_basis():
    model, (x, y) = linear(), points(9)
    kfac = KFAC(model, settings(ekfac=True, factor_decay=0.0, inverse_interval=100, damping=0.02))
    natural = []
    for _ in range(2):  # the first step finds the basis, the second corrects within it
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        plain = torch.cat([model[0].weight.grad, model[0].bias.grad[:, None]], dim=1)
        kfac.step(1.0)
        natural.append(torch.cat([model[0].weight.grad, model[0].bias.grad[:, None]], dim=1))
    state = kfac.state_dict()["tensors"]
    extended = torch.cat([x, torch.ones(9, 1, dtype=torch.float64)], dim=1)
    errors = model(x).softmax(1).detach() - functional.one_hot(y, 3)
    gradients = torch.einsum("no,ni->noi", errors, extended).flatten(1)
    basis = torch.kron(state["basis/G/0"], state["basis/A/0"])
    fisher = gradients.T @ gradients / 9
    diagonal = (basis.T @ fisher @ basis).diagonal()
    expected = basis @ ((basis.T @ plain.flatten()) / (diagonal + 0.02))
    torch.testing.assert_close(natural[1].flatten(), expected, rtol=1e-10, atol=1e-12)
    # Before any correction the eigenvalues are those of the product.
    A, G = extended.T @ extended / 9, errors.T @ errors / 9
    dense = torch.kron(G, A) + 0.02 * torch.eye(15, dtype=torch.float64)
    torch.testing.assert_close(natural[0].flatten(), torch.linalg.solve(dense, plain.flatten()))


OPTIONS = {
    "plain": {},
    "blocks": {"block_size": 7},
    "memory": {"placement": "memory"},
    "replicate": {"placement": "replicate"},
    "rare": {"factor_interval": 2, "inverse_interval": 3},
    "monte carlo": {"fisher": "monte_carlo"},
    "eigenvalues": {"ekfac": True, "inverse_interval": 2},
    "blocks of eigenvalues": {"ekfac": True, "block_size": 7, "placement": "memory"},
    "adaptive intervals": {"adaptive_change": 0.5},
    "scheduled": {"damping_rule": "scheduled", "final_damping": 1e-3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("n_processes", [1, 3])
def test_a_resumed_run_goes_on_bit_by_bit(options, n_processes):
    def work(communicator):
        model = network()
        model[3] = nn.Identity()  # batch statistics would differ between processes
        kfac = KFAC(model, settings(**options), communicator=communicator, loss="sum")
        run(kfac, model, 4, communicator=communicator)
        state = kfac.state_dict()
        copy = network()
        copy[3] = nn.Identity()
        copy.load_state_dict(model.state_dict())
        resumed = KFAC(copy, settings(**options), communicator=communicator, loss="sum")
        resumed.load_state_dict(
            {
                "tensors": {k: t.clone() for k, t in state["tensors"].items()},
                "scalars": dict(state["scalars"]),
            }
        )
        return [run(k, m, 4, start=4, communicator=communicator) for k, m in ((kfac, model), (resumed, copy))]

    for undisturbed, resumed in run_in_threads(n_processes, work):
        assert torch.equal(undisturbed, resumed)


@pytest.mark.parametrize(
    ("n_processes", "options"),
    [
        *((5, o) for name, o in OPTIONS.items() if name != "monte carlo"),
        (2, OPTIONS["blocks of eigenvalues"]),
    ],
    ids=str,
)
def test_processes_end_bit_equal_and_equal_to_one(options, n_processes):
    def work(communicator):
        model = network()
        model[3] = nn.Identity()
        kfac = KFAC(model, settings(**options), communicator=communicator, loss="sum")
        return run(kfac, model, 6, communicator=communicator)

    alone = work(Serial())
    together = run_in_threads(n_processes, work)
    assert all(torch.equal(weights, together[0]) for weights in together)
    torch.testing.assert_close(together[0], alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("placement", ["replicate", "memory", "hybrid"])
def test_short_messages_are_wrong_by_their_rounding_only(placement):
    def work(communicator, communication):
        with BUILDING:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        kfac = KFAC(
            model,
            settings(placement=placement, communication=communication, damping=1.0),
            communicator=communicator,
            loss="sum",
        )
        x, y = points(8, 6)
        part = slice(communicator.rank, None, communicator.size)
        functional.cross_entropy(model(x[part].float()), y[part], reduction="sum").backward()
        for p in model.parameters():
            communicator.all_reduce(p.grad)
        kfac.step(1.0)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    exact = run_in_threads(2, lambda comm: work(comm, "float64"))[0]
    for communication, unit in (("float32", 2**-24), ("bfloat16", 2**-9)):
        parts = run_in_threads(2, lambda comm, kind=communication: work(comm, kind))
        assert torch.equal(parts[0], parts[1])
        # Three roundings of each factor, one of the gradient; damping keeps the condition near one.
        assert (parts[0] - exact).norm() < 20 * unit * exact.norm()


def test_a_state_of_three_processes_goes_on_with_two():
    def train(communicator, state=None):
        model = linear(6, 3)
        kfac = KFAC(model, settings(placement="memory"), communicator=communicator, loss="sum")
        if state is not None:
            kfac.load_state_dict(state)
        x, y = points(8, 6)
        part = slice(communicator.rank, None, communicator.size)
        functional.cross_entropy(model(x[part]), y[part], reduction="sum").backward()
        for p in model.parameters():
            communicator.all_reduce(p.grad)
        kfac.step(1.0)
        return kfac.state_dict(), torch.cat([p.grad.flatten() for p in model.parameters()])

    states = run_in_threads(3, train)
    resumed = [run_in_threads(n, lambda comm: train(comm, states[1][0])[1])[0] for n in (2, 3)]
    torch.testing.assert_close(*resumed, rtol=1e-9, atol=1e-12)


def test_scheduled_damping_goes_by_equal_ratios():
    values = [scheduled(1.0, 1e-2, done) for done in (0.0, 0.5, 1.0)]
    assert values == pytest.approx([1.0, 0.1, 0.01])


@pytest.mark.parametrize(
    ("change", "predicted", "direction"),
    [
        (-1.0, -1.0, -1),
        (-0.5, -1.0, 0),
        (-0.1, -1.0, 1),
        (0.5, -1.0, 1),
        (float("nan"), -1.0, 1),
        (-1.0, 0.1, 0),
    ],
)
def test_adaptive_damping_follows_the_trust_in_the_model(change, predicted, direction):
    after = adapted(0.1, change, predicted)
    assert (after > 0.1) - (after < 0.1) == direction


def test_the_predicted_change_is_exact_where_the_loss_is_the_model():
    # One sample and a squared error: the Fisher matrix of L = |Wx|^2 / 2 is not its Hessian, so compare with
    # the quadratic model itself, written densely.
    model, (x, y) = linear(), points(1)
    kfac = KFAC(model, settings(damping_rule="adaptive", damping=0.3))
    functional.cross_entropy(model(x), y).backward()
    gradient = torch.cat([model[0].weight.grad, model[0].bias.grad[:, None]], dim=1)
    kfac.step(1.0)
    trial = kfac._trial
    d = torch.linspace(-1, 1, 15, dtype=torch.float64).view(3, 5)
    with torch.no_grad():
        model[0].weight += d[:, :-1]
        model[0].bias += d[:, -1]
    fisher = torch.outer(gradient.flatten(), gradient.flatten())
    v = d.flatten()
    expected = gradient.flatten() @ v + v @ fisher @ v / 2 + 0.3 * v @ v / 2
    weights = dict(model.named_parameters())
    with torch.no_grad():
        found = trial.predicted_change(weights, kfac._layers, kfac._curvature.factors, 0.3)
    assert found == pytest.approx(float(expected))


def test_damping_shrinks_while_steps_do_what_the_model_predicts():
    model, (x, y) = linear(), points(40)
    kfac = KFAC(model, settings(damping_rule="adaptive", damping=1.0))
    for _ in range(30):
        model.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        kfac.step(0.1)
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
            if kfac.wants_verdict:
                kfac.judge(float(loss), float(functional.cross_entropy(model(x), y)))
    assert kfac.damping == pytest.approx((19 / 20) ** 30)


def test_damping_that_is_to_move_and_cannot_is_an_error():
    model, (x, y) = linear(), points(9)
    kfac = KFAC(model, settings(damping_rule="scheduled"))
    functional.cross_entropy(model(x), y).backward()
    with pytest.raises(ValueError, match=r"'scheduled' needs step\(lr, done=...\)"):
        kfac.step(0.1)
    kfac.remove()
    kfac = KFAC(model, settings(damping_rule="adaptive"))
    for _ in range(5):
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        kfac.step(0.1)
    model.zero_grad()
    functional.cross_entropy(model(x), y).backward()
    with pytest.raises(ValueError, match=r"'adaptive' needs judge\(before, after\)"):
        kfac.step(0.1)


def test_adaptive_damping_of_several_processes_needs_all_factors_everywhere():
    with pytest.raises(ValueError, match="set placement to 'replicate', not 'memory'"):
        run_in_threads(
            2,
            lambda comm: KFAC(
                linear(), settings(damping_rule="adaptive", placement="memory"), communicator=comm
            ),
        )


def test_intervals_grow_while_factors_stay_and_shrink_when_they_move():
    model, (x, y) = linear(), points(10)
    kfac = KFAC(model, settings(adaptive_change=0.1, kl_clip=0.0))
    ages = []
    for step in range(40):
        model.zero_grad()
        scale = 1.0 if step < 30 else 5.0 ** (step - 29)
        functional.cross_entropy(model(x * scale), y).backward()
        kfac.step(0.0)
        ages.append(kfac.statistics()["factor_age"])
    assert max(ages[:30]) > 4
    assert ages[-1] < 4


@pytest.mark.parametrize("block_size", [0, 3])
def test_statistics_are_those_of_the_damped_factors_and_the_same_on_all_processes(block_size):
    def work(communicator):
        model = linear()
        chosen = settings(damping=0.04, placement="hybrid", block_size=block_size)
        kfac = KFAC(model, chosen, communicator=communicator, loss="sum")
        x, y = points(9)
        part = slice(communicator.rank, None, communicator.size)
        functional.cross_entropy(model(x[part]), y[part], reduction="sum").backward()
        for p in model.parameters():
            communicator.all_reduce(p.grad)
        kfac.step(0.1)
        found = kfac.statistics()
        found.pop("seconds")
        tensors = kfac.state_dict()["tensors"]
        return found, torch.block_diag(*(tensors[path] for path in tensors if path.startswith("factor/A")))

    (first, A), (second, _) = run_in_threads(2, work)
    assert first == second
    assert A.shape == (5, 5)
    figures = first["layers"]["0"]
    assert figures["A"]["trace"] == pytest.approx(float(A.trace()))
    assert figures["A"]["damping"] * figures["G"]["damping"] == pytest.approx(0.04)
    damped = A + figures["A"]["damping"] * torch.eye(5, dtype=torch.float64)
    assert figures["A"]["condition"] == pytest.approx(float(torch.linalg.cond(damped)))


@pytest.mark.parametrize("name", ["damping_rule", "fisher", "placement", "communication"])
def test_unknown_choices_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be one of"):
        KFACSettings(**{name: "other"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("factor_interval", 0), ("factor_interval", 2.5), ("inverse_interval", 0), ("block_size", -1),
        ("factor_decay", 1.0), ("sample_fraction", 0.0), ("sample_fraction", 2.0), ("kl_clip", -1.0),
        ("adaptive_change", -0.1),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must .*, not {value}"):
        KFACSettings(**{name: value})


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_of_one_score_the_monte_carlo_fisher_matrix_is_that_of_two_classes(shape):
    rng = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 1).double()
    x = torch.randn(20_000, 3, generator=rng, dtype=torch.float64)
    kfac = KFAC(model, settings(fisher="monte_carlo"))
    scores = model(x).view(shape)
    kfac.sample_fisher(scores)
    scores.sum().backward()
    kfac.step(1.0)
    p = scores.detach().sigmoid()
    found = float(kfac.state_dict()["tensors"]["factor/G/"])
    assert found == pytest.approx(float((p * (1 - p)).mean()), rel=0.05)


def test_classes_are_drawn_for_rows_of_scores_only():
    model = nn.Linear(3, 4)
    kfac = KFAC(model, settings(fisher="monte_carlo"))
    scores = model(torch.ones(2, 5, 3))
    with pytest.raises(
        ValueError, match=r"not \(2, 5, 4\); pass a row per term, as by scores.flatten\(0, -2\)"
    ):
        kfac.sample_fisher(scores)
    kfac.sample_fisher(scores.flatten(0, -2))
    scores.sum().backward()
    kfac.step(1.0)
    assert kfac.terms.n == 10
