"""The table of options says how each network was trained."""

from pipeline.report.metrics import RunMetrics
from pipeline.report.options import options


def run(**spec):
    return RunMetrics(
        label="smoothed",
        optimizer="kfac",
        batch_size=64,
        train_samples=512,
        epochs=3,
        options=spec,
        seeds={},
    )


def test_options_stand_by_name_without_those_that_are_off():
    table = options(
        {
            "run": run(
                optimizer={
                    "name": "kfac",
                    "lr": 0.3,
                    "damping": 1e-3,
                    "weight_decay": 0.003286470415254532,
                    "ekfac": False,
                },
                smoothing=[
                    {"name": "mixup", "alpha": 0.4, "full_steps": 0},
                    {"name": "weight_noise", "std": 0.2, "antithetic": True},
                ],
                augmentation=[{"name": "flip"}],
                batch_size=64,
                epochs=3,
                schedule={"name": "polynomial", "power": 2.0},
                train_samples=None,
                micro_batch=256,
            ),
            "older": run(),
        }
    )
    assert table.fold
    assert table.rows == (
        (
            "smoothed",
            "K-FAC: lr 0.3, damping 10⁻³, weight decay 0.00329",
            "mixup: alpha 0.4, full steps 0; weight noise: std 0.2, antithetic; flip",
            "epochs 3, schedule polynomial: power 2, micro batch 256",
        ),
    )
    assert not options({"older": run()})


def test_what_somebody_wrote_stands_exactly_and_an_optimizer_of_ones_own_has_its_name():
    spec = {
        "optimizer": {"name": "my_method", "lr": 0.1, "decay": 0.99995},
        "micro_batch": 65536,
        "betas": [0.9, 1],
    }
    own = run(**spec).model_copy(update={"optimizer": "my_method"})
    assert options({"run": own}).rows == (
        ("smoothed", "my method: lr 0.1, decay 0.99995", "–", "micro batch 65,536, betas 0.9 1"),
    )
