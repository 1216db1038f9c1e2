"""K-FAC's model of the curvature: the factors of all layers, their inverses, and which process holds them.

Every process has a `Curvature` of the same network. All processes must call its methods together unless a docstring
says otherwise. Each matrix is averaged and inverted at its owner, or on every process.
"""

import itertools
from collections.abc import Mapping, Sequence, Set

import torch
from torch import Tensor

from pipeline.runtime.communicator import Communicator
from pipeline.training.assignment import place
from pipeline.training.exchange import Exchange
from pipeline.training.kronecker import (
    damped_inverse,
    eigenbasis,
    is_finite,
    multiply_left,
    multiply_right,
    turn_eigenvalues,
)
from pipeline.training.passes import CORRECTION, Key, Moments
from pipeline.training.settings import KFACSettings
from pipeline.training.state import COUNTS
from pipeline.training.structures import KroneckerProduct, Structure, working_type

RETRY = 10.0  # how much more damping a factor gets when its Cholesky factorization fails


class Curvature:
    """Kronecker factors of the layers of a network, averaged over steps, and their damped inverses.

    Args:
        layers: The preconditioned layers, by name.
        settings: Settings of K-FAC.
        communicator: The processes that train together.

    Attributes:
        factors: Moving averages of the factors that this process averages.
        bases: Eigenbases of A and of G, blocks in order, of each layer whose eigenvalues are corrected.
        seen: Layers of which any process has had statistics.
        ready: Layers with inverses.
        n_retries: Inversions that needed ten times the damping.
        n_stale: Inversions that failed even then; the last inverse stayed, or the identity if there was none.
        n_skipped: Factor updates left out because statistics were not finite.
        n_averaged: How many updates the moving averages have seen.
    """

    def __init__(
        self, layers: Mapping[str, Structure], settings: KFACSettings, communicator: Communicator
    ) -> None:
        self.factors: dict[Key, Tensor] = {}
        self.bases: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
        self.seen: set[str] = set()
        self.ready: set[str] = set()
        self.n_retries = self.n_stale = self.n_skipped = self.n_averaged = 0
        self._layers = layers
        self._settings = settings
        self._communicator = communicator
        self._inverses: dict[Key, Tensor] = {}
        self._corrections: dict[str, Tensor] = {}
        self._known: set[Key] = set()  # matrices with a factor, here or at their owner
        shapes = {(name, m): shape for name, layer in layers.items() for m, shape in layer.shapes.items()}
        self._placement = place(
            shapes,
            {name: sum(p.numel() for p in layer.parameters) for name, layer in layers.items()},
            # Every process needs the eigenbases, to take moments of gradients in them.
            placement="replicate" if settings.ekfac else settings.placement,
            inverse_interval=settings.inverse_interval,
            n_processes=communicator.size,
        )
        dtype = getattr(torch, settings.communication)
        self._exchange = Exchange(shapes, self._placement.owners, communicator, dtype)

    def average(self, moments: dict[Key, Moments]) -> float | None:
        """Update the moving averages of the factors from the statistics of all processes since the last call, if any.

        Returns:
            Relative change of the factors in the Frobenius norm, averaged over factors; None unless `adaptive_change`
            is set and former factors exist.
        """
        self._average_corrections(moments)
        means, seen = self._exchange.mean(moments, like=self._like)
        if not seen:
            return None
        self.seen.update(name for name, _ in seen)
        decay = min(self._settings.factor_decay, 1 - 1 / (self.n_averaged + 1))
        self.n_averaged += 1
        n_skipped = 0
        changes = []
        for key, mean in means.items():
            if not is_finite(mean):
                n_skipped += self._speaks_for(key)
            elif key in self.factors:
                factor = self.factors[key]
                if self._settings.adaptive_change:
                    changes.append(float((mean - factor).norm() / factor.norm().clamp_min(1e-30)))
                factor.lerp_(mean, 1 - decay)
            else:
                self.factors[key] = mean
        keys = list(self._exchange.shapes)
        held = [float(key in self.factors and self._exchange.is_mine(key)) for key in keys]
        *flags, skipped, change, n_changes = self._sum([*held, n_skipped, sum(changes), len(changes)])
        self._known = {key for key, flag in zip(keys, flags, strict=True) if flag}
        self.n_skipped += round(skipped)
        return change / n_changes if n_changes else None

    def take_over(self, former: "Curvature") -> None:
        """Take the matrices of a former `Curvature` of the same processes, for layers that have the same parameters."""
        same = {
            name
            for name, layer in self._layers.items()
            if name in former._layers
            and layer.shapes == former._layers[name].shapes
            and all(p is q for p, q in zip(layer.parameters, former._layers[name].parameters, strict=True))
        }
        self.load({path: M for path, M in former.tensors().items() if path.split("/", 2)[2] in same})
        for count in COUNTS:
            setattr(self, count, getattr(former, count))

    def invert(self, damping: float) -> None:
        """Invert the factors as they are now."""
        complete = [
            name for name in self._layers if all((name, m) in self._known for m in self._layers[name].shapes)
        ]
        dampings, normalizations = self._dampings(damping)
        n_retries = n_stale = 0
        shared = []
        for name in complete:
            if self._settings.ekfac and isinstance(self._layers[name], KroneckerProduct):
                n_stale += self._turn_bases(name)
                continue
            for key in ((name, matrix) for matrix in self._layers[name].shapes):
                if name not in self._placement.preconditioners:
                    shared.append(key)
                if not self._exchange.is_mine(key):
                    continue
                inverse = damped_inverse(self.factors[key], dampings[key])
                if inverse is None:
                    inverse = damped_inverse(self.factors[key], RETRY * dampings[key])
                    n_retries += self._speaks_for(key) and inverse is not None
                    n_stale += self._speaks_for(key) and inverse is None
                if inverse is None:
                    self._inverses.setdefault(key, _identity_like(self.factors[key]))
                    continue
                if name in normalizations and key[1] == next(iter(self._layers[name].shapes)):
                    inverse /= normalizations[name]
                self._inverses[key] = inverse
        self._exchange.share(self._inverses, shared, like=self._like)
        n_retries, n_stale = (round(n) for n in self._sum([n_retries, n_stale]))
        self.n_retries += n_retries
        self.n_stale += n_stale
        self.ready.update(complete)

    def follow(self) -> None:
        """Bring all matrices to the device and type that the network has now."""
        like = self._like
        held = next(iter(self.factors.values()), like)
        if (held.dtype, held.device) == (like.dtype, like.device):
            return
        for matrices in (self.factors, self._inverses):
            matrices.update({key: M.to(like) for key, M in matrices.items()})
        self._corrections.update({name: S.to(like) for name, S in self._corrections.items()})
        for name, (A, G) in self.bases.items():
            self.bases[name] = [Q.to(like) for Q in A], [Q.to(like) for Q in G]

    def in_any_process(self, *named: Set[str]) -> list[set[str]]:
        """Return for each set of layers those that at least one process names; one message for all sets."""
        flags = iter(self._sum([float(name in names) for names in named for name in self._layers]))
        return [{name for name in self._layers if next(flags)} for _ in named]

    def natural(self, gradients: Mapping[str, Tensor], damping: float) -> dict[str, Tensor]:
        """Multiply the gradients of layers that are `ready` by their inverse Fisher matrices."""
        rank = self._communicator.rank
        found = {
            name: self._natural(name, gradient, damping)
            for name, gradient in gradients.items()
            if self._placement.preconditioners.get(name, rank) == rank
        }
        self._share_gradients(found, gradients)
        return found

    def fisher(self, name: str, gradient: Tensor) -> Tensor:
        """Multiply a layer's gradient by its Fisher matrix without damping, up to a constant factor.

        The factors of the layer must all be on this process.
        """
        layer = self._layers[name]
        return layer.natural(gradient, {m: self.factors[name, m] for m in layer.shapes})

    def figures(self, damping: float) -> dict[str, dict[str, dict[str, float]]]:
        """Return figures by layer and factor: "damping" of the diagonal, "trace", and "condition" with damping.

        Costs the eigenvalues of all factors.
        """
        keys = [key for key in self._exchange.shapes if key in self._known]
        dampings, _ = self._dampings(damping)
        table = torch.zeros(len(keys), 3, dtype=torch.float64, device=self._like.device)
        for i, key in enumerate(keys):
            if self._reports(key):
                eigenvalues = torch.linalg.eigvalsh(self.factors[key].double()).clamp_min(0)
                table[i] = torch.stack([eigenvalues.sum(), eigenvalues.min(), eigenvalues.max()])
        self._communicator.all_reduce(table)
        layers: dict[str, dict[str, dict[str, float]]] = {}
        by_factor = itertools.groupby(
            zip(keys, table.tolist(), strict=True), key=lambda row: (row[0][0], row[0][1][0])
        )
        for (name, factor), rows in by_factor:
            blocks = list(rows)
            added = dampings[blocks[0][0]]
            traces, smallest, largest = zip(*(figures for _, figures in blocks), strict=True)
            condition = (max(largest) + added) / (min(smallest) + added)
            layers.setdefault(name, {})[factor] = {
                "damping": added,
                "trace": sum(traces),
                "condition": condition,
            }
        return layers

    def tensors(self) -> dict[str, Tensor]:
        """Return all matrices by paths such as "factor/A/layer", whole on every process and not copied. Matrices that
        `placement` has distributed are gathered, so a run may continue with another number of processes.
        """
        keys = [key for key in self._exchange.shapes if key in self._known]
        factors, inverses = dict(self.factors), dict(self._inverses)
        self._exchange.share(factors, keys, like=self._like)
        spread = [key for key in keys if key[0] in self.ready and key[0] in self._placement.preconditioners]
        self._exchange.share(inverses, spread, like=self._like)
        groups: dict[str, dict[Key, Tensor]] = {"factor": factors, "inverse": inverses, "basis": {}}
        groups["correction"] = {(name, CORRECTION): S for name, S in self._corrections.items()}
        for name, bases in self.bases.items():
            for matrix, Q in zip(self._layers[name].shapes, bases[0] + bases[1], strict=True):
                groups["basis"][name, matrix] = Q
        return {
            f"{group}/{matrix}/{name}": M
            for group, matrices in groups.items()
            for (name, matrix), M in matrices.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> bool:
        """Restore what `tensors` returned; each process may call it on its own.

        Without `ekfac`, eigenbases are left out, and the inverses of their layers, which are older than the factors.

        Returns:
            Whether something was left out, so that factors must be inverted before the next step.

        Raises:
            ValueError: If the tensors belong to another network or to other blocks.
        """
        groups: dict[str, dict[Key, Tensor]] = {"factor": {}, "inverse": {}, "basis": {}, "correction": {}}
        for path, M in tensors.items():
            group, matrix, name = path.split("/", 2)
            shape = self._exchange.shapes.get((name, matrix))
            if group != "correction" and (shape is None or M.shape != shape):
                raise ValueError(f"the K-FAC state has {path} of shape {tuple(M.shape)}, the network {shape}")
            groups[group][name, matrix] = M.to(self._like, copy=True)
        turned = set() if self._settings.ekfac else {name for name, _ in groups["basis"]}
        for group in ("inverse", "basis", "correction"):
            groups[group] = {key: M for key, M in groups[group].items() if key[0] not in turned}
        self.factors, self._inverses = groups["factor"], groups["inverse"]
        self._corrections = {name: S for (name, _), S in groups["correction"].items()}
        self.bases.clear()
        for name in dict.fromkeys(name for name, _ in groups["basis"]):
            self.bases[name] = self._in_order(name, groups["basis"])
        self._known = set(self.factors)
        self.seen = {name for name, _ in self._known}
        self.ready = {name for name, _ in (*self._inverses, *groups["basis"])}
        return bool(turned)

    @property
    def _like(self) -> Tensor:
        first = next((layer.parameters[0] for layer in self._layers.values()), torch.empty(0))
        return torch.empty(0, dtype=working_type(first), device=first.device)

    def _reports(self, key: Key) -> bool:
        """Whether this process holds a factor and reports it to the others."""
        return key in self.factors and self._speaks_for(key)

    def _average_corrections(self, moments: dict[Key, Moments]) -> None:
        """Update the moving averages of the eigenvalues in the current eigenbases."""
        keys = [(name, CORRECTION) for name in self.bases]
        if not keys:
            return
        counts = self._exchange.count(moments, keys, self._like.device)
        for key, count in zip(keys, counts, strict=True):
            S = self._corrections[key[0]]
            found = moments.pop(key, None)
            total = found.total.double() if found else torch.zeros_like(S, dtype=torch.float64)
            self._communicator.all_reduce(total)
            if count and is_finite(total):
                S.lerp_((total / count).to(S.dtype), 1 - self._settings.factor_decay)

    def _turn_bases(self, name: str) -> int:
        """Compute new eigenbases of a layer, transform its eigenvalues to them, and return the number of failures."""
        found = {m: eigenbasis(self.factors[name, m]) for m in self._layers[name].shapes}
        new = {(name, m): basis[0] for m, basis in found.items() if basis is not None}
        if len(new) < len(found):
            failed = sum(self._speaks_for((name, m)) for m, basis in found.items() if basis is None)
            if name not in self.bases:
                identities = {(name, m): _identity_like(self.factors[name, m]) for m in found}
                self.bases[name] = self._in_order(name, identities)
                self._corrections[name] = self._ones(name)
            return failed
        bases = self._in_order(name, new)
        if name in self.bases:
            self._corrections[name] = turn_eigenvalues(self._corrections[name], self.bases[name], bases)
        else:
            values = {(name, m): basis[1][..., None] for m, basis in found.items() if basis is not None}
            for_A, for_G = (torch.cat(parts, dim=-2) for parts in self._in_order(name, values))
            self._corrections[name] = for_G @ for_A.mT
        self.bases[name] = bases
        return 0

    def _ones(self, name: str) -> Tensor:
        layer = self._layers[name]
        assert isinstance(layer, KroneckerProduct)
        rows, columns = (
            sum(s[-1] for s in shapes.values()) for shapes in (layer.outputs_shapes, layer.inputs_shapes)
        )
        stack = (layer.groups,) if layer.groups > 1 else ()
        return self._like.new_ones(*stack, rows, columns)

    def _in_order(self, name: str, matrices: Mapping[Key, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the matrices of a Kronecker product: the blocks of A, and those of G."""
        layer = self._layers[name]
        assert isinstance(layer, KroneckerProduct)
        return (
            [matrices[name, m] for m in layer.inputs_shapes],
            [matrices[name, m] for m in layer.outputs_shapes],
        )

    def _dampings(self, total: float) -> tuple[dict[Key, float], dict[str, float]]:
        """Return the damping of every matrix's diagonal, and the layers' normalizations that are not 1. A layer's
        matrices may be on several processes.
        """
        keys = list(self._exchange.shapes)
        traces = [
            float(self.factors[key].diagonal(dim1=-2, dim2=-1).mean()) if self._reports(key) else 0.0
            for key in keys
        ]
        means = dict(zip(keys, self._sum(traces), strict=True))
        dampings: dict[Key, float] = {}
        normalizations = {}
        for name, layer in self._layers.items():
            own = {m: means[name, m] for m in layer.shapes}
            dampings |= {(name, matrix): added for matrix, added in layer.dampings(own, total).items()}
            if (normalization := layer.normalization(own)) != 1:
                normalizations[name] = normalization
        return dampings, normalizations

    def _natural(self, name: str, gradient: Tensor, damping: float) -> Tensor:
        if name not in self.bases:
            layer = self._layers[name]
            return layer.natural(gradient, {m: self._inverses[name, m] for m in layer.shapes})
        basis_A, basis_G = self.bases[name]
        turned = multiply_right(multiply_left([Q.mT for Q in basis_G], gradient), basis_A)
        turned = turned / (self._corrections[name] + damping)
        return multiply_right(multiply_left(basis_G, turned), [Q.mT for Q in basis_A])

    def _share_gradients(self, natural: dict[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Send natural gradients that one process has computed to the others."""
        for owner in range(self._communicator.size):
            names = [name for name in gradients if self._placement.preconditioners.get(name) == owner]
            if not names or self._communicator.size == 1:
                continue
            source = natural if owner == self._communicator.rank else gradients
            message = torch.cat([source[name].flatten() for name in names])
            self._exchange.broadcast(message, owner)
            parts = torch.split(message, [gradients[name].numel() for name in names])
            natural |= {name: part.view_as(gradients[name]) for name, part in zip(names, parts, strict=True)}

    def _speaks_for(self, key: Key) -> bool:
        """Whether this process counts the failures of a matrix."""
        return self._exchange.is_mine(key) and (
            self._exchange.owners is not None or self._communicator.rank == 0
        )

    def _sum(self, numbers: Sequence[float]) -> list[float]:
        """Add up numbers over the processes."""
        if self._communicator.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self._like.device)
        self._communicator.all_reduce(total)
        return total.tolist()


def _identity_like(factor: Tensor) -> Tensor:
    return torch.eye(factor.shape[-1]).to(factor).expand_as(factor).clone()
