"""Integrals of 1/|x - y| over triangles: exact where the integrand is singular or nearly so, Gauss rules elsewhere."""

import math

import torch
from torch import Tensor

from pipeline.hmatrix import _native

QuadratureRule = tuple[Tensor, Tensor]  # barycentric coordinates (q, 3) and weights (q,) that sum to 1


def gauss_rule(n_points: int) -> QuadratureRule:
    """Return the symmetric rule of 1, 3 or 7 points on a triangle: exact for degree 1, 2 or 5 [1].

    References:
        [1] Dunavant, "High degree efficient symmetrical Gaussian quadrature rules for the triangle", IJNME 1985.
    """
    if n_points == 1:
        return torch.full((1, 3), 1 / 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    if n_points == 3:
        return (1 + 3 * torch.eye(3, dtype=torch.float64)) / 6, torch.full((3,), 1 / 3, dtype=torch.float64)
    if n_points == 7:
        root = math.sqrt(15)
        coordinates, weights = [torch.full((1, 3), 1 / 3, dtype=torch.float64)], [9 / 40]
        for sign in (-1, 1):
            a = (6 + sign * root) / 21
            coordinates.append(a + (1 - 3 * a) * torch.eye(3, dtype=torch.float64))
            weights += [(155 + sign * root) / 1200] * 3
        return torch.cat(coordinates), torch.tensor(weights, dtype=torch.float64)
    raise ValueError(f"a quadrature rule must have 1, 3 or 7 points, not {n_points}")


def split_rule(rule: QuadratureRule) -> QuadratureRule:
    """Return a rule applied to each of the four triangles between corners and edge midpoints."""
    points, weights = rule
    corner = (torch.eye(3, dtype=torch.float64)[:, None] + torch.eye(3, dtype=torch.float64)) / 2
    middle = (1 - torch.eye(3, dtype=torch.float64))[None] / 2
    return (points @ torch.cat([corner, middle])).reshape(-1, 3), weights.repeat(4) / 4


def triangle_potential(points: Tensor, corners: Tensor) -> Tensor:
    """Return the integral of 1/|x - y| over flat triangles y, exactly, at any x: on, beside or far off the triangle.

    An edge at signed distance t from the foot of x, from l- to l+ along itself, with distances R-, R+ of its ends and
    h the height of x, adds t log((R+ + l+)/(R- + l-)) - h (atan(t l+/(R0² + h R+)) - atan(t l-/(R0² + h R-))) with
    R0² = t² + h² [1, equation 5; 2]. Far away the sum cancels: digits are lost as (distance/diameter)².

    Args:
        points: Shape (..., 3).
        corners: Shape (..., 3, 3), broadcast against the points.

    References:
        [1] Wilton et al., "Potential integrals for uniform and linear source distributions on polygonal and
            polyhedral domains", IEEE Trans. Antennas Propagat. 1984.
        [2] Graglia, "On the numerical integration of the linear shape functions times the 3-D Green's function or its
            gradient on a plane triangle", IEEE Trans. Antennas Propagat. 1993.
    """
    a, b, c = corners.unbind(dim=-2)
    normal = torch.linalg.cross(b - a, c - a)
    normal = normal / normal.norm(dim=-1, keepdim=True)
    height = _dot(points - a, normal).abs()
    total = torch.zeros_like(height)
    for start, end in ((a, b), (b, c), (c, a)):
        length = (end - start).norm(dim=-1)
        along = (end - start) / length[..., None]
        lower = _dot(start - points, along)
        upper = lower + length
        t = _dot(start - points, torch.linalg.cross(along, normal))
        square = t * t + height * height
        far, near = (upper * upper + square).sqrt(), (lower * lower + square).sqrt()
        # (R+ + l+)/(R- + l-) = (R- - l-)/(R+ - l+): take the form whose terms do not cancel.
        beyond = upper + lower < 0
        numerator = torch.where(beyond, near - lower, far + upper)
        denominator = torch.where(beyond, far - upper, near + lower)
        # t log(...) tends to 0 on the edge's line, where the logarithm itself may be infinite.
        on_line = t.abs() <= 1e-14 * length
        total += torch.where(on_line, 0.0, t * (numerator / torch.where(on_line, 1.0, denominator)).log())
        angle = torch.atan2(t * upper, square + height * far) - torch.atan2(t * lower, square + height * near)
        total -= height * angle
    return total


def self_mean(corners: Tensor) -> Tensor:
    """Return the mean of 1/|x - y| with both points in the same triangle, exactly [1]; shape (...,).

    It is -4/3 sum_i log(1 - l_i/s)/l_i with edges l_i and half the perimeter s.

    References:
        [1] Eibert, Hansen, "On the calculation of potential integrals for linear source distributions on triangular
            domains", IEEE Trans. Antennas Propagat. 1995.
    """
    edges = (corners - corners.roll(1, dims=-2)).norm(dim=-1)
    half = edges.sum(dim=-1, keepdim=True) / 2
    mean: Tensor = (torch.log1p(-edges / half) / edges).sum(dim=-1) * (-4 / 3)
    return mean


def pair_means(targets: Tensor, sources: Tensor) -> Tensor:
    """Return the mean of 1/|x - y| over pairs of different triangles of shape (p, 3, 3) each; shape (p,).

    The integral over one triangle is exact, and that over the other uses a rule; both orders are averaged, so
    that the result is symmetric. If the centers are more than 1.5 diameters apart, three points suffice, and
    beyond 1 diameter seven. Closer triangles may touch: the potential then has kinks r log r along the common
    edge, where four times the points leave a quarter of the error. One extrapolation from 7 to 28 points is
    thus worth several subdivisions, and leaves a relative error of less than a thousandth.
    """
    separation = (targets.mean(dim=1) - sources.mean(dim=1)).norm(dim=1)
    diameter = torch.maximum(*((t - t.roll(1, dims=1)).norm(dim=2).amax(dim=1) for t in (targets, sources)))
    ratio = separation / diameter
    seven = gauss_rule(7)
    means = torch.empty_like(ratio)
    for pairs, rule in ((ratio >= 1.5, gauss_rule(3)), (ratio < 1.5, seven)):
        means[pairs] = _symmetric_mean(targets[pairs], sources[pairs], rule)
    close = ratio < 1
    finer = _symmetric_mean(targets[close], sources[close], split_rule(seven))
    means[close] = finer + (finer - means[close]) / 3
    return means


def _symmetric_mean(targets: Tensor, sources: Tensor, rule: QuadratureRule) -> Tensor:
    """Return the mean, with an exact inner integral and the rule outside, natively: see `native/potential.hpp`."""
    corners = (
        part.detach().cpu().double().reshape(-1, 9).contiguous().numpy() for part in (targets, sources)
    )
    means = _native.symmetric_means(*corners, *(part.numpy() for part in rule))
    return torch.from_numpy(means).to(targets)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(dim=-1)
