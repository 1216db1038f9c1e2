"""A made-up study with every part, in the numbers of a real one; tests copy it and change what they need."""

import copy
import math
import os
from functools import cache

import numpy as np
import pytest
from filelock import FileLock
from pages import write_no_svg

from pipeline.report import Metrics, render
from pipeline.report import formatting as f

# name: (label, optimizer, batch, smoothing, final train loss, test accuracies, test losses, steps)
RUNS = {
    "sgd_small": ("SGD, batch 64", "sgd", 64, [], 0.02, (0.8644, 0.8671), (0.540, 0.528), 2560),
    "sgd_large": ("SGD, batch 1024", "sgd", 1024, [], 0.28, (0.8479, 0.8446), (0.433, 0.441), 160),
    "kfac": ("K-FAC, batch 1024", "kfac", 1024, [], 0.004, (0.8582, 0.8601), (0.847, 0.861), 160),
    "kfac_smooth": (
        "K-FAC smoothed, batch 1024", "kfac", 1024, ["mixup", "weight_noise"], 0.14,
        (0.8673, 0.8651), (0.396, 0.404), 160,
    ),
}  # fmt: skip
ROUTINES = {"conv3x3": "direct convolution", "maxpool2x2": "pooling", "linear": "matrix-vector"}
LAYERS = {
    # name: (kind, parameters, flops per sample, speedups at batch 1 and 64, bound at 1 and 64)
    "conv1": ("conv3x3", 320, 4.5e5, (1.04, 0.97), ("compute", "compute")),
    "conv2": ("conv3x3", 9248, 1.4e7, (1.21, 0.94), ("L2", "compute")),
    "conv3": ("conv3x3", 18496, 7.2e6, (1.18, 0.99), ("L2", "compute")),
    "pool": ("maxpool2x2", 0, 2.5e4, (1.6, 2.4), ("L1", "DRAM")),
    "fc1": ("linear", 401536, 8.0e5, (3.12, 1.06), ("L3", "compute")),
    "fc2": ("linear", 1290, 2.6e3, (1.31, 1.45), ("L1", "L2")),
}


@pytest.fixture
def metrics() -> dict:
    return _copy()


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return _arrays()


@pytest.fixture(scope="session")
def full(tmp_path_factory) -> str:
    """The page of the whole study, rendered once for all tests that only read it, by whichever process comes first."""
    shared = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent if shared else tmp_path_factory.mktemp("full")
    path = folder / "full.html"
    with FileLock(folder / "full.lock"):
        if not path.exists():
            path.write_bytes(render(Metrics.model_validate(_copy()), _arrays()).encode())
        return path.read_bytes().decode()


@pytest.fixture
def no_svg(monkeypatch):
    """Run all the code of the figures but the writing of SVG, which takes nine tenths of a page's time."""
    write_no_svg(monkeypatch)


def _copy() -> dict:
    """A copy of the study that shares the long lists of blocks; tests replace them and never change them."""
    shared = {
        id(matrix["structure"]["blocks"]): matrix["structure"]["blocks"]
        for matrix in METRICS["matrices"].values()
    }
    return copy.deepcopy(METRICS, shared)


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    longitude, latitude = np.linspace(-180, 180, 181), np.linspace(-70, 80, 76)
    x, y = np.radians(longitude)[None], np.radians(latitude)[:, None]
    grid = 900 * np.clip(np.sin(2 * x) * np.cos(3 * y) + 0.5 * np.sin(5 * x + 4 * y), 0, None)
    truth = rng.gamma(1.2, 300, size=700)
    return {
        "airports/longitude": rng.uniform(-180, 180, 700),
        "airports/latitude": rng.uniform(-60, 70, 700),
        "airports/values": truth,
        "airports/predicted": truth + rng.normal(0, 150, 700),
        "airports/grid_longitude": longitude,
        "airports/grid_latitude": latitude,
        "airports/grid": grid,
        "airports/std": np.full(700, 160.0),
        "airports/grid_std": 100 + 0.1 * grid,
        "airports/coverage_level": np.array([0.5, 0.9, 0.95, 0.99]),
        "airports/coverage_found": np.array([0.55, 0.91, 0.947, 0.985]),
        "airports/variogram_distance": np.geomspace(0.001, 1, 8),
        "airports/variogram_values": np.linspace(0.2, 1.1, 8),
        "airports/variogram_residuals": np.linspace(0.95, 1.05, 8),
    }


def _run(name: str) -> dict:
    label, optimizer, batch, smoothing, train_loss, accuracies, losses, steps = RUNS[name]
    seeds = {}
    for seed, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True)):
        history = []
        for epoch in range(1, 21):
            left = math.exp(-epoch / (3 if optimizer == "kfac" else 5)) + 0.01 * math.sin(3 * epoch + seed)
            low = train_loss + (2.0 - train_loss) * max(left - math.exp(-20 / 5), 0)
            history.append(
                {
                    "epoch": epoch, "steps": steps * epoch // 20, "train_loss": low,
                    "seconds": 1.7 * epoch * (1 + seed / 1000),
                    "train_accuracy": 1 - 0.3 * low, "validation_loss": loss + 0.9 * left - 0.02 * seed,
                    "validation_accuracy": accuracy - 0.35 * left, "gap": loss - low,
                    "n_retries": 0, "n_stale": 0, "n_skipped": 0, "step_size": 0.3, "damping": 0.03, "factor_age": 1,
                    "inverse_age": 1, "gradient_seconds": 1.0, "preconditioner_seconds": 0.2,
                    "evaluation_seconds": 0.1,
                }
            )  # fmt: skip
        history[-1]["train_loss"] = train_loss
        seeds[str(seed)] = {
            "history": history,
            "test": {"loss": loss, "accuracy": accuracy},
            "train": {"loss": train_loss, "accuracy": 1 - 0.35 * train_loss},
            "seconds": 34.1 + seed,
            "steps": steps,
        }
    return {
        "label": label, "optimizer": optimizer, "batch_size": batch, "train_samples": 8192,
        "epochs": 20, "smoothing": smoothing,
        "processes": 2, "seeds": seeds,
    }  # fmt: skip


def _timings() -> list[dict]:
    rows = []
    for name, (kind, parameters, flops, speedups, bounds) in LAYERS.items():
        for batch, speedup, bound in zip((1, 64), speedups, bounds, strict=True):
            rate = {"compute": 190.0, "DRAM": 4.0, "L3": 55.0, "L2": 90.0, "L1": 20.0}[bound] * (
                0.9 if batch == 1 else 1
            )
            half = flops * batch / rate / 1e9
            n_bytes = 2 * parameters + batch * 6000
            rows.append(
                {
                    "layer": name, "batch": batch, "mode": "network", "predicted_seconds_fp16": half,
                    "executed_flops": flops * batch, "traffic_fp16": {bound: n_bytes}, "n_disturbed": 0,
                    "routine_fp32": f"{ROUTINES[kind]} 16 outputs wide, fp32 weights, avx512",
                    "routine_fp16": f"{ROUTINES[kind]} 16 outputs wide, fp16 weights, avx512",
                    "seconds_fp32": half * speedup, "interval": [speedup * 0.96, speedup * 1.05],
                    "seconds_fp16": half, "interval_fp32": [half * speedup * 0.97, half * speedup * 1.03],
                    "interval_fp16": [half * 0.98, half * 1.02], "speedup": speedup,
                    "predicted_speedup": speedup * 1.08, "flops": flops * batch, "bytes_fp32": 2 * n_bytes,
                    "bytes_fp16": n_bytes, "intensity": flops * batch / n_bytes, "gflops": rate,
                    "gbytes": n_bytes / half / 1e9, "bound": bound,
                    "reason": _reason(bound, speedup, ROUTINES[kind], flops * batch, n_bytes, half),
                }
            )  # fmt: skip
    return rows


def _reason(bound: str, speedup: float, routine: str, flops: float, n_bytes: float, seconds: float) -> str:
    """Three sentences as those of `precision.reason`."""
    verdict = f"FP16 wins, {speedup:.2f}x by {routine} with FP16 weights."
    took, took_fp32 = f.seconds(seconds), f.seconds(2 * seconds)
    moved, moved_fp32 = f.n_bytes(n_bytes), f.n_bytes(2 * n_bytes)
    limit = (
        f"The layer is {bound}-bound: {moved} from {bound} at {n_bytes / seconds / 1e9:.2g} GB/s take {took}; FP32 "
        f"needs {took_fp32} for {moved_fp32}."
    )
    if bound == "compute":
        verdict = f"FP16 makes no clear difference, {speedup:.2f}x with {routine} of FP16 weights."
        limit = (
            f"Both sides are compute-bound: {flops / 1e6:.3g} million FLOPs at {flops / seconds / 1e9:.0f} GFLOP/s "
            f"take {took}, so moving {moved} instead of {moved_fp32} saves no time."
        )
    return f"{verdict} {limit} FP16 took {took} (predicted: {took}, speedup {1.08 * speedup:.2f}x)."


def _blocks(depth: int, n: int) -> list[list[int]]:
    """Blocks of a plane's quadtree in Morton order with strong admissibility: distance of boxes above one."""

    @cache
    def place(code: int) -> tuple[int, int]:
        return sum(((code >> 2 * k) & 1) << k for k in range(16)), sum(
            ((code >> 2 * k + 1) & 1) << k for k in range(16)
        )

    blocks = []
    pending = [(0, 0, 0)]
    while pending:
        level, a, b = pending.pop()
        (ax, ay), (bx, by) = place(a), place(b)
        size = n / 4**level
        box = [round(a * size), round((a + 1) * size), round(b * size), round((b + 1) * size)]
        if max(abs(ax - bx), abs(ay - by)) > 1:
            blocks.append([*box, round(40 - 6 * level + (a * 7 + b * 3) % 5)])
        elif level == depth:
            blocks.append([*box, -1])
        else:
            pending += [(level + 1, 4 * a + i, 4 * b + j) for i in range(4) for j in range(4)]
    return blocks


def _matrix(n: int, points: str, task: str, kernel: str, result: dict, ratio: float, depth: int) -> dict:
    dense = 8 * n * n
    levels = [
        {
            "level": level, "boxes": 4**level, "unknowns": n // 4 ** (depth - level), "seconds": 0.4 * level,
            "skeletons": n // 4 ** (depth - level) // 4, "bytes": round(dense / ratio / 2 ** (depth + 1 - level)),
        }
        for level in range(depth, 1, -1)
    ]  # fmt: skip
    return {
        "kernel": kernel, "nugget": 0.0, "nugget_at_bound": False, "n": n, "dimension": 3,
        "points": points, "task": task,
        "compress": {
            "seconds": 3.21, "n_bytes": round(dense / ratio), "dense_bytes": dense, "tolerance": 1e-6,
            "relative_error": 7.8e-7, "missed": False, "n_rows": n, "max_rank": 88, "levels": levels, "notes": [],
            "symmetric": True, "precision": "float64",
        },
        "solve": {
            "assemble_seconds": 0.1, "factor_kind": "cholesky",
            "factorize_seconds": 4.31, "factor_bytes": round(1.2 * dense / ratio), "factor_tolerance": 1e-6,
            "solve_seconds": 0.42, "iterations": 9, "relative_residual": 6.1e-9,
            "exact_residual": 4.4e-7, "logdet": -123456.78, "notes": [],
            "processes": 2,
        },
        "result": result,
        "structure": {"n": n, "blocks": _blocks(depth, n)},
    }  # fmt: skip


METRICS = {
    "study": {
        "name": "default", "description": "Four ways to train, one network in half precision, three matrices.",
        "seeds": [0, 1],
        "dataset": {
            "name": "fashion_mnist", "train_samples": 8192, "validation_samples": 2048, "test_samples": 10000,
            "classes": ["top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"],
            "source": "https://example.org/fashion, sha256 pinned",
        },
        "model": {"name": "cnn", "n_parameters": 430890},
    },
    "training": {name: _run(name) for name in RUNS},
    "claims_of": {
        "reference": "sgd_small", "large_batch": "sgd_large", "second_order": "kfac", "smoothed": "kfac_smooth",
    },
    "precision": {
        "kfac_smooth": {
            "seed": 0, "budget_points": 0.1, "mode": "network",
            "plans": {
                batch: {
                    "n_saturated": place,
                    "accuracy": {"fp32": 0.8673, "fp16": 0.8672 - place / 1e4, "n_samples": 10000,
                                 "n_changed": 3 + place, "points_lost": 0.01 + place / 100,
                                 "interval_lost": [-0.02, 0.04]},
                    "verification": {"output_error": 0.0043 * (1 + place), "n_samples": 4096, "points": 0.0,
                                     "n_changed": 1},
                    "errors": [
                        {"layer": name, "added_error": 2.9e-4, "relative_error": 2.9e-4 * (1 + depth / 5) * (1 + place),
                         "sqnr_db": 70.7 - depth - 6 * place, "growth": 1.1, "largest": 12.5, "n_saturated": 0,
                         "n_subnormal": 3, "n_flushed": 1, "n_results": 4096}
                        for depth, name in enumerate(LAYERS)
                    ],
                    "predictions": {
                        "changed": [{"sample": 1234, "label": 0, "before": 0, "after": 6, "margin": 0.0012}],
                        "confusion_before": [[860 if i == j else 15 for j in range(10)] for i in range(10)],
                        "confusion_after": [[860 - (i == 0) if i == j else 15 + (i == 0 and j == 6) for j in range(10)]
                                            for i in range(10)],
                    },
                }
                for place, batch in enumerate(("1", "64"))
            },
            "candidates": [
                {"layer": "conv1", "batch": 1, "routine": routine, "seconds": 2e-6, "error": error, "chosen": chosen}
                for routine, error, chosen in (("direct fp32", 0.0, False), ("winograd4 fp16", 1e-3, True))
            ],
            "device_timings": [
                {"layer": "conv1", "batch": 1, "device": "GPU of a node", "precision": "fp16",
                 "memory_format": "NCHW", "seconds": 8e-6, "speedup": 2.1, "relative_error": 3e-4,
                 "kernels": ["s16816gemm"], "tensor_cores": True}
            ],
            "file_bytes": {"fp32": 1724000, "fp16": 863500},
            "layers": [
                {
                    "name": name, "kind": kind, "routine": ROUTINES[kind],
                    "weight_dtype": "float16", "output_error": 3e-4, "output_sqnr_db": 70.0,
                    "n_parameters": parameters, "flops": flops, "sqnr_db": 68.2 + place, "n_overflow": 0,
                    "relative_error": 3.7e-4 / (1 + place / 9), "n_subnormal": 12 * place, "n_flushed": place // 4,
                }
                for place, (name, (kind, parameters, flops, _, _)) in enumerate(LAYERS.items())
            ],
            "timings": _timings(),
            "roofs": {
                "gflops": 233.0, "bandwidth": {"L1": 460.0, "L2": 200.0, "L3": 110.0, "DRAM": 38.0},
                "instruction_set": "AVX-512",
            },
        }
    },
    "matrices": {
        "airports": _matrix(
            28298, "airports", "kriging", "Matern(nu=0.5, length=0.05)",
            {"quantity": "elevation", "rmse": 212.4, "rmse_mean_predictor": 431.9, "unit": "m", "n_held_out": 700,
             "log_likelihood": -18234.5},
            53.0, 4,
        ),
        "capacitance": _matrix(
            12288, "cube", "capacitance", "Laplace single layer",
            {"capacitance": 0.66031, "reference": 0.6606782, "relative_error": 5.6e-4, "unit": "× 4πε₀"}, 21.0, 3,
        ),
        "embeddings": _matrix(
            8192, "embeddings", "classification", "Gaussian(length=6)",
            {"accuracy": 0.871, "softmax_accuracy": 0.8672, "n_test": 10000}, 2.4, 2,
        ),
    },
    "scaling": {
        "kernel": "Exponential(length=0.1)", "points": "uniform_square", "tolerance": 1e-6,
        "rows": [
            {
                "n": n, "compress_seconds": 2.1e-5 * n**1.05, "factorize_seconds": 6e-5 * n**1.08,
                "product_seconds": 3e-7 * n**1.01, "solve_seconds": 1.1e-6 * n**1.03,
                "operator_bytes": round(4400 * n**1.01), "factor_bytes": round(3900 * n**1.04), "relative_error": 8e-7,
            }
            for n in (2000, 4000, 8000, 16000, 32000)
        ],
    },
    "rules": [
        {"rule": rule, "job": f"run{place}/0", "seconds": seconds + place, "max_rss_mb": memory}
        for rule, seconds, memory, jobs in (
            ("train", 34.2, 812.0, 8), ("convert", 3.1, 640.0, 1), ("time_layers", 21.7, 655.0, 1),
            ("compress", 4.4, 910.0, 3), ("solve", 6.8, 1204.0, 3), ("points", 1.2, 210.0, 3),
            ("freeze_spec", 0.3, 90.0, 16),
        )
        for place in range(jobs)
    ],
    "provenance": {
        "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False, "date": "2026-11-23T02:01:36+01:00",
        "host": "node01",
        "platform": "Linux 6.1", "cpu": "AMD EPYC 9655", "python": "3.11.9",
        "versions": {"torch": "2.13.0", "numpy": "2.4.1", "snakemake": "9.27.1"}, "code": "9f2c77aa",
        "command": "snakemake --configfile config/default.yaml",
    },
}  # fmt: skip
