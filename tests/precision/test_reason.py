import itertools
from dataclasses import replace

import pytest
from round_roofs import ROUND_ROOFS

from pipeline.precision.reason import TimedPrecision, _seconds, reason
from pipeline.precision.roofline import bound
from pipeline.precision.work import Work

ROOFS = replace(ROUND_ROOFS, pair_gflops=200.0)


def side(flops, n_bytes, conversions, slower=1.2):
    work = Work(flops, n_bytes / 2, n_bytes / 2, conversions)
    limit = bound(work, ROOFS)
    return TimedPrecision(work, limit, slower * limit.seconds)


CASES = {
    "memory on both sides": (
        side(32e6, 671e6, 0), side(32e6, 335e6, 16e6), (1.9, 2.1),
        ["FP16 wins, 2.00x", "DRAM-bound", "335 MB from DRAM at 25 GB/s take 13.4 ms",
         "FP32 needs 26.8 ms for 671 MB."],
    ),
    "a nearer cache": (
        side(1e6, 40e6, 0), side(1e6, 10e6, 1e6), (14.0, 16.0),
        ["FP16 wins, 14.71x", "10 MB from L3 at 100 GB/s take 100 µs", "L3-bound",
         "FP32 needs 1.47 ms for 40 MB from DRAM and L3."],
    ),
    "arithmetic on both sides": (
        side(1e9, 1e6, 0), side(1e9, 5e5, 2e6, slower=1.3), (0.91, 0.93),
        ["FP16 loses, 0.92x", "Both sides are compute-bound: 1 billion FLOPs at 100 GFLOP/s take 10 ms; moving fewer",
         "2 million conversions are added"],
    ),
    "arithmetic, and yet a gain": (
        side(1e9, 30e6, 0), side(1e9, 15e6, 2e6, slower=1.1), (1.05, 1.1),
        ["FP16 wins", "take 10 ms; the gain comes from moving 15 MB instead of 30 MB."],
    ),
    "arithmetic after memory": (
        side(1e6, 20e6, 0), side(1e8, 9e6, 0), (0.7, 1.1),
        ["no clear difference", "FP32 is DRAM-bound by 20 MB;", "FP16's 9 MB take less than the arithmetic"],
    ),
    "conversions": (
        side(1e5, 60e3, 0), side(1e5, 30e3, 1e6), (0.1, 0.2),
        ["FP16 loses", "conversion-bound: 1 million conversions at 50 G/s take 20 µs; FP32 converts nothing, is "
         "compute-bound and takes 1 µs at least."],
    ),
    "memory, and yet a loss": (
        side(32e6, 671e6, 0), side(32e6, 335e6, 16e6, slower=2.6), (0.91, 0.94),
        ["FP16 loses, 0.92x", "FP32 needs 26.8 ms for 671 MB",
         "waits, which the bounds leave out, take 21.4 ms in FP16 and 5.37 ms in FP32 (predicted"],
    ),
    "conversions, and yet a loss": (
        side(1e5, 4e6, 0, slower=1.0), side(1e5, 1e6, 15e5, slower=1.9), (0.68, 0.72),
        ["FP16 loses, 0.70x", "conversion-bound", "which the bounds leave out", "27 µs in FP16 and nothing in FP32"],
    ),
    "far from any roof": (
        side(1e3, 1e3, 0, slower=9), side(1e3, 5e2, 10, slower=9), (0.99, 1.01),
        ["no clear difference, 1.00x", "FP16 took 90 ns, 9.0 times the bound: short loops"],
    ),
}  # fmt: skip


def test_weights_are_called_weights_and_fewer_operations_are_told():
    work = Work(8e6, 330e6, 5e6, 16e6, routine="winograd4 fp16")
    half = TimedPrecision(
        work, bound(work, ROOFS), 2e-3, "Winograd F(4x4, 3x3) 32 outputs wide, fp16 weights, avx2"
    )
    sentence = reason(side(32e6, 671e6, 0), half, (1.9, 2.1), ROOFS, flops=32e6)
    assert "335 MB of FP16 weights from DRAM at 25 GB/s take 13.4 ms" in sentence
    work = Work(1e9, 1e5, 1e5, 0, routine="winograd4 fp16")
    half = TimedPrecision(work, bound(work, ROOFS), 1.1e-2)
    sentence = reason(side(4e9, 4e5, 0), half, (3.5, 3.7), ROOFS, flops=4e9)
    assert "1 billion FLOPs (4 billion by definition) at 100 GFLOP/s take 10 ms" in sentence


def ran(work, routine, seconds):
    return TimedPrecision(work, bound(work, ROOFS), seconds, routine)


@pytest.mark.parametrize("rounded", [False, True])
def test_a_layer_that_the_plan_left_at_float32_says_so(rounded):
    routine = "direct convolution 16 outputs wide, fp32 weights, avx512"
    single = ran(Work(1e9, 1e5, 1e5, 0, routine="direct fp32"), routine, 1.3e-2)
    work = Work(1e9, 1e5, 5e4 if rounded else 1e5, 0, routine="direct fp32")
    sentence = reason(single, ran(work, routine, 1.1e-2), (1.1, 1.2), ROOFS)
    subject = "The plan with FP16 activations" if rounded else "The plan"
    assert sentence.startswith(
        f"{subject} wins, 1.18x by direct convolution with FP32 weights, kept because narrower ones take longer or "
        "err more. "
    )
    assert ("both move the same 200 kB" in sentence) == (not rounded)
    assert sentence.count("FP16") == rounded
    assert "The plan took 11 ms (predicted: 10 ms, speedup 1." in sentence


@pytest.mark.parametrize(
    ("routine", "words"),
    [
        ("matrix-vector 64 outputs wide, fp16 weights, avx512_bf16", "by matrix-vector product with FP16 weights. "),
        ("Winograd F(4x4, 3x3) 32 outputs wide, fp16 weights, avx2", "by Winograd F(4x4, 3x3) with FP16 weights. "),
        (
            "Winograd F(2x2, 3x3) 64 outputs wide, bf16 weights, avx512_bf16",
            "by Winograd F(2x2, 3x3) with BF16 weights. ",
        ),
        ("depthwise convolution, fp16 weights, portable", "by depthwise convolution with FP16 weights. "),
        ("maximum over windows, avx512", "by maximum over windows. "),
        ("addition, neon", "by addition. "),
    ],
)  # fmt: skip
def test_the_sentence_names_what_ran(routine, words):
    single = side(32e6, 671e6, 0)
    half = side(32e6, 335e6, 16e6)
    sentence = reason(single, ran(half.work, routine, half.seconds), (1.9, 2.1), ROOFS)
    precision = "BF16" if "BF16" in words else "FP16"
    assert sentence.startswith(f"{precision} wins, 2.00x {words}")
    assert "avx" not in sentence
    undecided = reason(single, ran(half.work, routine, half.seconds), (0.9, 2.1), ROOFS)
    words = words.replace(" with ", " of ").replace("by ", "with ", 1)
    assert undecided.startswith(f"{precision} makes no clear difference, 2.00x {words}")


def test_bfloat16_products_are_not_called_fp16():
    routine = "direct convolution 32 outputs wide, bf16 weights, avx512_bf16"
    # Bound by arithmetic, whose roof is twice as high; and by memory, where the weights are what is moved.
    many = ran(Work(4e9, 1e5, 1e5, 1e5, routine="direct bf16"), routine, 2.1e-2)
    sentence = reason(side(4e9, 4e5, 0), many, (1.9, 2.1), ROOFS)
    assert sentence.startswith("BF16 wins")
    assert "4 billion FLOPs at 200 GFLOP/s take 20 ms as products of BF16 pairs" in sentence
    assert "; FP32's run at 100 GFLOP/s." in sentence
    few = ran(Work(8e6, 33e6, 5e5, 5e5, routine="product bf16, vector"), routine, 1.5e-3)
    sentence = reason(side(8e6, 67e6, 0), few, (1.7, 1.9), ROOFS)
    assert "33.5 MB of BF16 weights" in sentence
    assert "FP16" not in sentence


@pytest.mark.parametrize("name", CASES)
def test_the_sentence_has_the_verdict_the_limit_and_the_numbers(name):
    single, half, interval, wanted = CASES[name]
    sentence = reason(single, half, interval, ROOFS)
    assert all(words in sentence for words in wanted), sentence
    assert ("bounds leave out" in sentence) == ("and yet a loss" in name)


@pytest.mark.parametrize("name", CASES)
def test_a_reason_is_three_short_sentences(name):
    routines = ("", "Winograd F(4x4, 3x3) 32 outputs wide, split weights, avx2")
    for routine, cold, beaten in itertools.product(routines, (False, True), (False, True)):
        single, half, interval, _ = CASES[name]
        single, half = (
            replace(one, routine=routine, seconds=0.9 * one.bound.seconds if beaten else one.seconds)
            for one in (single, half)
        )
        sentences = reason(single, half, interval, ROOFS, cold=cold, flops=1.5 * half.work.flops).split(". ")
        assert len(sentences) == 3
        assert sentences[-1].endswith(").")
        for sentence in sentences:
            assert sentence[0].isupper()
            assert "  " not in sentence
            assert sum(not word.strip("(")[0].isdigit() for word in sentence.split()) <= 25, sentence


def test_split_numbers_are_called_so_and_counted_with_all_their_products():
    routine = "direct convolution 32 outputs wide, split weights, amx_bf16"
    sentence = reason(
        side(4e9, 4e5, 0),
        ran(Work(12e9, 4e5, 1e5, 1e5, routine="direct split"), routine, 6.1e-2),
        (0.6, 0.7),
        ROOFS,
    )
    assert "with split FP16 weights" in sentence
    assert "12 billion FLOPs at 200 GFLOP/s" in sentence


@pytest.mark.parametrize("name", CASES)
def test_the_sentence_predicts_by_the_model_of_the_tick_alone(name):
    single, half, interval, _ = CASES[name]
    single, half = (
        replace(one, bound=replace(one.bound, predicted=factor * one.bound.seconds))
        for one, factor in ((single, 3.0), (half, 2.0))
    )
    sentence = reason(single, half, interval, ROOFS)
    speedup = single.bound.predicted / half.bound.predicted
    assert sentence.count("predict") == 1
    assert sentence.endswith(f"(predicted: {_seconds(half.bound.predicted)}, speedup {speedup:.2f}x).")


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ((1.0, 0.97), None),
        ((1.0, 0.9), " FP16's 9 ms is below the bound of 10 ms, so a roof is too low here (predicted"),
        ((0.8, 0.9), " FP32's 8 ms and FP16's 9 ms are below the bounds of 10 ms and 10 ms, so a roof"),
    ],
)
def test_a_layer_that_beats_its_bound_shows_that_the_bound_is_wrong(factors, words):
    single, half = side(1e9, 1e6, 0, slower=factors[0]), side(1e9, 5e5, 0, slower=factors[1])
    sentence = reason(single, half, (1.0, 1.1), ROOFS)
    assert words in sentence if words else "too low" not in sentence


@pytest.mark.parametrize(
    ("executed", "routine", "words"),
    [
        (
            4e9,
            "direct fp16",
            "4 billion FLOPs (3 billion before padding) at",
        ),
        (
            9e9,
            "direct split",
            "9 billion FLOPs (3 billion before splitting) at",
        ),
        (3e9, "direct fp16", "3 billion FLOPs at"),
    ],
)
def test_flops_beyond_the_definition_are_told(executed, routine, words):
    work = Work(executed, 1e5, 1e5, 0, routine=routine)
    half = TimedPrecision(work, bound(work, ROOFS), 0.1)
    assert words in reason(side(3e9, 4e5, 0), half, (0.9, 1.1), ROOFS, flops=3e9)


def test_bytes_of_several_levels_have_the_rates_of_the_roofs():
    work = Work(1e3, 1e5, 1e4, 0)
    half = TimedPrecision(work, bound(work, ROOFS, mode="network", resident=2e6), 1e-5)
    sentence = reason(side(1e3, 2e5, 0), half, (0.9, 1.1), ROOFS)
    assert "from L3 and L1 at 100 and 400 GB/s take" in sentence
