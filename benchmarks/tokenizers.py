"""Speed of the published tokenizers beside their public code, with the same weights and the same outputs.

Run it as ``python -m benchmarks.tokenizers --peer taming=FOLDER --peer cosmos=FOLDER``, where a folder is a
checkout of the public repository; ``--help`` lists the options. Sizes are the published ones, weights
random. Before a row is timed its outputs are compared. A row in bfloat16 is ours in bfloat16 beside ours in
float32. Memory is the most that torch held at once beyond what it held before, so it does not count what
libraries take for themselves.

Shapes: B batch, C colour channels, T H W frames and pixels, D latent channels, t h w the latent grid.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib
import logging
import os
import platform
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from benchmarks.measure import Run, Work, measure, ratio, table

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Pair:
    """Public code and ours.

    Attributes:
        theirs: The public network; its state dict is loaded into ours.
        encode: Runs the public encoder on x_BCTHW.
        decode: Runs the public decoder on the latent its encoder made.
        ours: Encoder and decoder of ours.
        weights: Maps the public state dict to ours.
        frames: Whether our parts take frames, not clips.
        num_frames: Frames of the clip.
        factors: How much faster than the public code ours is meant to encode and to decode.
    """

    theirs: nn.Module
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    ours: nn.ModuleDict
    weights: Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], list[str]]]
    num_frames: int
    factors: tuple[float, float]
    frames: bool = False


def taming(folder: Path) -> Pair:
    """Load the VQGAN f16 of taming-transformers (CompVis/taming-transformers)."""
    sys.path.insert(0, str(folder))
    module = importlib.import_module("taming.modules.diffusionmodules.model")
    from zoo_tokenizers.taming.weights import map_taming_state_dict

    options: dict[str, Any] = {
        "ch": 128,
        "out_ch": 3,
        "ch_mult": (1, 1, 2, 2, 4),
        "num_res_blocks": 2,
        "attn_resolutions": [16],
        "in_channels": 3,
        "resolution": 256,
        "z_channels": 256,
        "double_z": False,
    }
    theirs: Any = nn.Module()
    theirs.encoder = module.Encoder(**options)
    theirs.decoder = module.Decoder(**options)
    theirs.quant_conv = nn.Conv2d(256, 256, 1)
    theirs.post_quant_conv = nn.Conv2d(256, 256, 1)
    theirs.quantize = nn.ModuleDict({"embedding": nn.Embedding(1024, 256)})
    return Pair(
        theirs, theirs.encoder, theirs.decoder, _ours("taming"), map_taming_state_dict, 17, (1.3, 1.5), True
    )


def vidtok(folder: Path) -> Pair:
    """Load vidtok_kl_causal_488_4chn of VidTok (microsoft/VidTok)."""
    sys.path.insert(0, str(folder))
    module = importlib.import_module("vidtok.modules.model_3dcausal")
    from zoo_tokenizers.vidtok.weights import map_vidtok_state_dict

    options: dict[str, Any] = {
        "double_z": True,
        "z_channels": 4,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "time_downsample_factor": 4,
        "num_res_blocks": 2,
        "dropout": 0.0,
        "use_checkpoint": False,
        "init_pad_mode": "replicate",
        "norm_type": "layernorm",
        "fix_encoder": False,
        "fix_decoder": False,
    }
    theirs: Any = nn.Module()
    theirs.encoder = module.EncoderCausal3DPadding(**options)
    theirs.decoder = module.DecoderCausal3DPadding(**options)
    return Pair(
        theirs,
        theirs.encoder,
        lambda z: theirs.decoder(z[:, :4]),
        _ours("vidtok", {"latent_dim": 8}, {"latent_dim": 4}),
        map_vidtok_state_dict,
        17,
        (1.5, 1.7),
    )


def cosmos(folder: Path) -> Pair:
    """Load the Cosmos CV8x8x8 (NVIDIA/Cosmos-Tokenizer)."""
    sys.path.insert(0, str(folder))
    networks = importlib.import_module("cosmos_tokenizer.networks")
    from zoo_tokenizers.cosmos.weights import map_cosmos_state_dict

    theirs: Any = networks.TokenizerModels["CV"].value(**networks.TokenizerConfigs["CV"].value)
    return Pair(
        theirs,
        theirs.encoder,
        theirs.decoder,
        _ours("cosmos"),
        lambda state: map_cosmos_state_dict(state, stride=[8, 8, 8]),
        17,
        (1.2, 1.3),
    )


def videogpt(folder: Path) -> Pair:
    """Load the VQ-VAE of VideoGPT (wilson1yan/VideoGPT), without its package's imports of everything."""
    package = types.ModuleType("videogpt")
    package.__path__ = [str(folder / "videogpt")]
    sys.modules["videogpt"] = package
    module = importlib.import_module("videogpt.vqvae")
    from zoo_vqvae.videogpt_weights import map_videogpt_state_dict

    options = argparse.Namespace(
        embedding_dim=256, n_codes=2048, n_hiddens=240, n_res_layers=4, downsample=(4, 4, 4)
    )
    theirs = module.VQVAE(options)
    return Pair(
        theirs,
        lambda x: theirs.encoder(x * 0.5),
        lambda z: theirs.decoder(z) * 2,
        _ours("videogpt"),
        map_videogpt_state_dict,
        16,
        (1.2, 1.3),
    )


PEERS: dict[str, Callable[[Path], Pair]] = {
    "taming": taming,
    "vidtok": vidtok,
    "cosmos": cosmos,
    "videogpt": videogpt,
}


def _ours(
    name: str, encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None
) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "encoder": zoo.build_part("encoder", name, **(encoder or {})),
            "decoder": zoo.build_part("decoder", name, **(decoder or {})),
        }
    )


def stand_in(name: str, **members: Any) -> None:
    """Put an empty module where public code imports what is not installed and inference does not use."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        module.__dict__.update({"__path__": []} | members)
        sys.modules[name] = module


def stand_ins() -> None:
    """Put a stand-in for every package that some public code imports for training or for its log."""

    def as_it_is(function: Any) -> Any:
        return function

    class LightningModule(nn.Module):
        def save_hyperparameters(self) -> None:
            pass

    stand_in("pytorch_lightning", LightningModule=LightningModule)
    stand_in("skvideo")
    stand_in("skvideo.io")
    sys.modules["skvideo"].__dict__.setdefault("io", sys.modules["skvideo.io"])
    stand_in("loguru", logger=logging.getLogger("peer"))
    stand_in("rich", print=print)
    stand_in("beartype", beartype=as_it_is)
    stand_in("beartype.typing", **{name: getattr(typing, name) for name in typing.__all__})
    for name in ("lightning", "lightning.pytorch", "lightning.pytorch.utilities"):
        stand_in(name)
    stand_in("lightning.pytorch.utilities.rank_zero", rank_zero_only=as_it_is)


def randomize(module: nn.Module) -> None:
    """Draw what starts at zero or one, so that no layer is left out of the comparison."""
    rng = torch.Generator().manual_seed(0)
    for value in module.state_dict().values():
        if value.is_floating_point() and value.unique().numel() == 1:
            noise = torch.randn(value.shape, generator=rng)
            value.add_(noise * (0.1 if value.ndim < 2 else value[0].numel() ** -0.5))
            if value.ndim == 1 and value.mean() > 0.5:
                value.abs_()


@torch.no_grad()
def works(pair: Pair, name: str, size_HW: tuple[int, int], low_precision: bool) -> list[Work]:
    """Compare, and return the rows of encoding and decoding.

    Raises:
        RuntimeError: Ours and the public code disagree.
    """
    randomize(pair.theirs)
    pair.theirs.eval()
    mapped, _ = pair.weights(pair.theirs.state_dict())
    parts = ("encoder.", "decoder.")
    pair.ours.load_state_dict({key: value for key, value in mapped.items() if key.startswith(parts)})
    pair.ours.eval()
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, pair.num_frames, *size_HW, generator=rng) * 2 - 1
    if pair.frames:
        x = x[0].transpose(0, 1).contiguous()
    z = pair.encode(x)
    encoder, decoder = pair.ours["encoder"], pair.ours["decoder"]
    z_ours = z[:, : decoder.latent_dim]
    for what, found, wanted in (("encode", encoder(x), z), ("decode", decoder(z_ours), pair.decode(z))):
        error = float((found - wanted).norm() / wanted.norm())
        worst = float((found - wanted).abs().max() / wanted.abs().max())
        print(f"{name} {what}: relative difference {error:.1e}, largest {worst:.1e}", flush=True)
        if not error <= TOLERANCE:
            raise RuntimeError(f"{name} {what}: differs from the public code by {error:.1e}")
    size = f"{pair.num_frames}x{size_HW[0]}x{size_HW[1]}"

    def run(function: Callable[[Tensor], Tensor], value: Tensor) -> Run:
        return torch.no_grad()(lambda: function(value))

    rows = [
        Work(f"{name} encode {size}", run(encoder, x), {name: run(pair.encode, x)}, pair.factors[0]),
        Work(f"{name} decode {size}", run(decoder, z_ours), {name: run(pair.decode, z)}, pair.factors[1]),
    ]
    if low_precision:
        half = copy.deepcopy(pair.ours).to(torch.bfloat16)
        x_half, z_half = x.bfloat16(), z_ours.bfloat16()
        full = {"encode": run(encoder, x), "decode": run(decoder, z_ours)}
        rows += [
            Work(
                f"{name} encode {size}, bfloat16", run(half["encoder"], x_half), {"fp32": full["encode"]}, 1
            ),
            Work(
                f"{name} decode {size}, bfloat16", run(half["decoder"], z_half), {"fp32": full["decode"]}, 1
            ),
        ]
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Compare, measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenizers", description=__doc__)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=FOLDER", help=f"one of {', '.join(PEERS)}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each row (default 3)")
    parser.add_argument("--height", type=int, default=128, help="height of frames (default 128)")
    parser.add_argument("--width", type=int, default=128, help="width of frames (default 128)")
    parser.add_argument("--only", default="", help="measure rows whose name has this in it")
    parser.add_argument("--bfloat16", action="store_true", help="rows of ours in bfloat16 beside float32 too")
    options = parser.parse_args(arguments)
    stand_ins()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads of {cores} cores, {platform.machine()}"
    )
    device = torch.device("cpu")
    for peer in options.peer:
        name, _, folder = peer.partition("=")
        if name not in PEERS or not Path(folder).is_dir():
            parser.error(f"--peer {peer}: write NAME=FOLDER with a name of {', '.join(PEERS)} and a checkout")
        torch.manual_seed(0)
        pair = PEERS[name](Path(folder))
        for work in works(pair, name, (options.height, options.width), options.bfloat16):
            if options.only not in work.name:
                continue
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
            timings = measure(work, rounds=options.rounds, device=device)
            print(table([(work, timings)]))
            ours, *others = timings
            for other in others:
                print(
                    f"{work.name}: {ratio(ours, other):.2f} times as fast as {other.name} (meant: "
                    f"{work.factor:g}) with {ours.extra_mib / other.extra_mib:.2f} of its memory; "
                    f"load {load:.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
