import pytest
import torch
from torch import nn

from pipeline.precision import HalfNetwork, time_on_device
from pipeline.precision.devices import _products, uses_tensor_cores


def test_there_is_a_row_per_layer_batch_precision_and_format(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    rows = time_on_device(
        network.layers, network.parameters, x, torch.device("cpu"), batch_sizes=(1, 2), n_samples=2
    )
    wanted = [
        (layer.name, batch, precision, name)
        for batch in (1, 2)
        for layer in network.layers
        for precision in ("fp32", "fp16", "bf16")
        for name in (("NCHW", "channels_last") if len(layer.input_shape) == 3 else ("NCHW",))
    ]
    assert [(row.layer, row.batch, row.precision, row.memory_format) for row in rows] == wanted
    for row in rows:
        assert row.seconds > 0
        # Rounding inputs, weights and results once each: see `half_error` of the networks' tests; bfloat16 has 8 bits.
        unit = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}[row.precision]
        assert row.relative_error < 60 * unit
        assert (row.kernels, row.tensor_cores, row.device) == ((), None, "cpu")
    for layer in network.layers:
        mine = [row for row in rows if row.layer == layer.name and row.batch == 1 and row.precision == "fp32"]
        assert max(row.speedup for row in mine) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kernel", "wanted"),
    [
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", True),
        ("ampere_fp16_s16816gemm_fp16_64x64_ldg8_f2f_stages_64x5_tn", True),
        ("ampere_s1688gemm_tf32_128x128", True),
        ("volta_h884gemm_64x64_ldg8_tn", True),
        ("cutlass::Kernel2<cutlass_80_tensorop_s16816gemm_bf16_64x64_32x6_tn_align8>", True),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64_warpgroupsize1x1x1_execute_wgmma", True),
        ("ampere_sgemm_32x32_sliced1x4_tn", False),
        ("void cudnn::winograd_nonfused::winogradForwardData4x4<float, float>", False),
        ("implicit_convolve_sgemm", False),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::relu>", False),
    ],
)  # fmt: skip
def test_tensor_cores_are_told_by_the_names_of_kernels(kernel, wanted):
    assert uses_tensor_cores([kernel]) is wanted


def test_the_switches_of_tf32_are_put_back():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with _products("tf32"):
        assert torch.backends.cuda.matmul.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_uses_tensor_cores_on_a_gpu():
    module = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    x = torch.randn(8, 64, 32, 32)
    network = HalfNetwork.convert(module, x)
    rows = time_on_device(network.layers, network.parameters, x, torch.device("cuda"), batch_sizes=(8,))
    assert any(row.tensor_cores for row in rows if row.precision == "fp16")
