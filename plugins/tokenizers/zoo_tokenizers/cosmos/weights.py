"""Names of the public Cosmos tokenizer weights, turned into ours.

The public models hold `encoder`, `quant_conv`, `post_quant_conv` and `decoder`; an autoencoder of ours
holds `encoder`, `pre_quant`, `quantizer`, `post_quant` and `decoder`. Neither their quantizer (FSQ) nor their
continuous bottleneck (none) has weights. Encoder and decoder keep their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.converting.public_state import PublicState
from zoo.errors import RecipeError, WeightsError
from zoo_tokenizers.cosmos.image import CosmosImageDecoder, CosmosImageEncoder
from zoo_tokenizers.cosmos.model import CosmosDecoder, CosmosEncoder

_PROJECTIONS = {"pre_quant": "quant_conv", "post_quant": "post_quant_conv"}


def map_cosmos_state_dict(
    state: Mapping[str, Any], *, stride: Sequence[int], patch_size: int = 4, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public Cosmos video tokenizer (CV or DV) to those of our autoencoder.

    The result fits an autoencoder of `cosmos` encoder and decoder and both 1x1x1 projections, around a
    quantizer without weights. Tensors are passed on, not copied. Widths and depths are read from the
    tensors; the stride shows in none of them.

    Args:
        state: Names to tensors, of encoder and decoder together; a common prefix is stripped. The public
            files are TorchScript, whose ``state_dict()`` this is.
        stride: What the file's name says: [4, 8, 8], [8, 8, 8] or [8, 16, 16].
        patch_size: Side of a wavelet patch; 4 in every public file.
        prefix: Which tokenizer to take where there are several.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place. Those are
        always some: the convolutions ``downsample.conv*`` and ``upsample.conv*`` for changes of size that
        the public network does not make, which it stores and never reads, and constants of its wavelets.

    Raises:
        WeightsError: These are not such weights, names are missing, a shape does not fit, or their levels
            cannot give such a stride.
    """
    needed = {
        "encoder.conv_in.0.conv3d.weight": 5,
        "quant_conv.conv3d.weight": 5,
        "post_quant_conv.conv3d.weight": 5,
        "decoder.conv_in.0.conv3d.weight": 5,
        "decoder.conv_out.0.conv3d.weight": 5,
    }
    public = PublicState(state, family="Cosmos video tokenizer", needed=needed, prefix=prefix)
    model = _model(
        public,
        (CosmosEncoder, CosmosDecoder),
        conv=".0.conv3d.weight",
        norm="norm2.norm.weight",
        projection=".conv3d.weight",
        patch=patch_size**3,
        options={"stride": list(stride), "patch_size": patch_size},
    )

    def public_name(name: str) -> str:
        field, _, rest = name.partition(".")
        return f"{_PROJECTIONS[field]}.conv3d.{rest}" if field in _PROJECTIONS else name

    shapes = model.state_dict()
    known, unused = public.take({public_name(name): value.shape for name, value in shapes.items()})
    return {name: known[public_name(name)] for name in shapes}, unused


def map_cosmos_image_state_dict(
    state: Mapping[str, Any], *, stride: Sequence[int], patch_size: int = 4, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public Cosmos image tokenizer (CI or DI) to those of our autoencoder.

    The result fits an autoencoder of `cosmos-image` encoder and decoder and both 1x1x1 projections, whose
    kernels get a third axis, around a quantizer without weights.

    Args:
        state: Names to tensors, of encoder and decoder together; a common prefix is stripped.
        stride: [1, 8, 8] or [1, 16, 16].
        patch_size: Side of a wavelet patch; 4 in every public file.
        prefix: Which tokenizer to take where there are several.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place.

    Raises:
        WeightsError: These are not such weights, names are missing, a shape does not fit, or the stride is
            not theirs.
    """
    needed = {
        "encoder.conv_in.weight": 4,
        "quant_conv.weight": 4,
        "post_quant_conv.weight": 4,
        "decoder.conv_in.weight": 4,
        "decoder.conv_out.weight": 4,
    }
    public = PublicState(state, family="Cosmos image tokenizer", needed=needed, prefix=prefix)
    model = _model(
        public,
        (CosmosImageEncoder, CosmosImageDecoder),
        conv=".weight",
        norm="norm2.weight",
        projection=".weight",
        patch=patch_size**2,
        options={"stride": list(stride), "patch_size": patch_size},
    )

    def public_name(name: str) -> str:
        field, _, rest = name.partition(".")
        return f"{_PROJECTIONS.get(field, field)}.{rest}"

    expected = {public_name(name): value.shape for name, value in model.state_dict().items()}
    for field in _PROJECTIONS.values():
        expected[f"{field}.weight"] = expected[f"{field}.weight"][:-1]  # a 2D kernel there
    known, unused = public.take(expected)
    mapped = {name: known[public_name(name)] for name in model.state_dict()}
    for field in _PROJECTIONS:
        mapped[f"{field}.weight"] = mapped[f"{field}.weight"].unsqueeze(-1)
    return mapped, unused


def _model(
    public: PublicState,
    parts: tuple[type[nn.Module], type[nn.Module]],
    *,
    conv: str,
    norm: str,
    projection: str,
    patch: int,
    options: Mapping[str, Any],
) -> nn.ModuleDict:
    """Build the same model on the meta device, sizes read off the shapes.

    Args:
        public: The public tensors.
        parts: Encoder and decoder classes.
        conv: End of a name, after that of the first or last convolution of a part.
        norm: End of a name, after that of a residual block, of a tensor as long as the block is wide.
        projection: End of a name, after that of a projection.
        patch: Pixels in a patch.
        options: Options of both parts that show in no shape.
    """
    tensors = public.tensors
    base_channels, patches_in = tensors[f"encoder.conv_in{conv}"].shape[:2]
    quantizer_dim, encoder_dim = tensors[f"quant_conv{projection}"].shape[:2]
    decoder_dim = tensors[f"decoder.conv_in{conv}"].shape[1]
    patches_out = tensors[f"decoder.conv_out{conv}"].shape[0]

    def multipliers(levels: str) -> list[int]:
        numbers = range(public.count(rf"{levels}\.(\d+)\.block\."))
        widths = [tensors.get(f"{levels}.{n}.block.0.{norm}") for n in numbers]
        return [0 if width is None else len(width) // base_channels for width in widths]

    shared = {
        "base_channels": base_channels,
        "num_residual_blocks": public.count(r"encoder\.down\.0\.block\.(\d+)\."),
        **options,
    }
    encoder, decoder = parts
    try:
        with torch.device("meta"):
            return nn.ModuleDict(
                {
                    "encoder": encoder(
                        in_channels=patches_in // patch,
                        latent_dim=encoder_dim,
                        channel_multipliers=multipliers("encoder.down"),
                        **shared,
                    ),
                    "pre_quant": nn.Conv3d(encoder_dim, quantizer_dim, 1),
                    "post_quant": nn.Conv3d(quantizer_dim, decoder_dim, 1),
                    "decoder": decoder(
                        out_channels=patches_out // patch,
                        latent_dim=decoder_dim,
                        channel_multipliers=multipliers("decoder.up"),
                        **shared,
                    ),
                }
            )
    except RecipeError as error:
        raise WeightsError(f"these Cosmos weights are of no size that can be built: {error}") from None
