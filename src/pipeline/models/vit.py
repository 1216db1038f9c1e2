"""A small vision transformer."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.classifier import Classifier, initialized
from pipeline.options import Count


class PatchEmbedding(nn.Module):
    """Cut images into patches, map each to a vector, and add a learned vector for its position."""

    def __init__(self, input_shape: tuple[int, int, int], patch: int, width: int) -> None:
        super().__init__()
        channels, height, img_width = input_shape
        self.n_patches = (height // patch) * (img_width // patch)
        self.project = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Embedding(self.n_patches, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, n_patches, width); rows and columns beyond the last whole patch are left out."""
        patches = self.project(x).flatten(2).transpose(1, 2)
        # Positions are looked up for every sample, so that hooks on this layer see one entry a sample.
        places = torch.arange(self.n_patches, device=self.position.weight.device)
        return patches + self.position(places.expand(x.shape[0], self.n_patches))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention [1, appendix A] by linear layers, whose Kronecker factors are known."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_patches, width) to the same shape."""
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention, then two linear layers; each has a normalized input and a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_patches, width) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.contract(self.gelu(self.expand(self.norm2(x))))  # type: ignore[no-any-return]


class MeanOverPatches(nn.Module):
    """The mean over all patches, shape (n, width)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_patches, width) to (n, width)."""
        return x.mean(dim=1)


def vit(
    *,
    input_shape: tuple[int, int, int],
    n_classes: int,
    generator: torch.Generator,
    patch: Count = 4,
    width: Count = 64,
    depth: Count = 4,
    heads: Count = 4,
) -> Classifier:
    """Build a small vision transformer [1] with the mean over patches as features.

    It has 205 thousand parameters for images of 28 pixels.

    Args:
        input_shape: Channels, height, width; both sides must hold a patch.
        n_classes: Number of classes, one score each.
        generator: Source of the initial weights, which live on its device.
        patch: Pixels of a patch's side.
        width: Length of the vectors; a multiple of the heads.
        depth: Number of blocks.
        heads: Number of heads of the attention.

    References:
        [1] Dosovitskiy et al., "An image is worth 16x16 words: transformers for image recognition at scale",
            ICLR 2021.
    """
    if width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}")
    if patch > min(input_shape[1:]):
        raise ValueError(f"a patch of {patch} pixels does not fit into images of {input_shape[1:]}")

    def build() -> Classifier:
        layers: OrderedDict[str, nn.Module] = OrderedDict(embed=PatchEmbedding(input_shape, patch, width))
        for i in range(depth):
            layers[f"block{i + 1}"] = TransformerBlock(width, heads)
        layers["norm"] = nn.LayerNorm(width)
        layers["pool"] = MeanOverPatches()
        return Classifier(nn.Sequential(layers), nn.Linear(width, n_classes))

    return initialized(build, generator)
