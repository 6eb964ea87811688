"""Speed of a training step of the published GANs beside their public code, from the same weights.

Run it as ``python -m benchmarks.gans --peer mocogan=FOLDER --peer digan=FOLDER --peer stylegan-v=FOLDER``,
where a folder is a checkout of the public repository; ``--help`` lists the options. Sizes and settings are
the published ones, weights random and clips noise. Before a row is timed, the frames both generators make,
the scores both discriminators give and the slopes of those scores are compared.

A step is what one turn of the loop does: the update of the generator, that of the discriminators, and the
moving average where there is one. Ours is `zoo.training.loop.training_step`. Public code is its own networks
and operators, and for StyleGAN-V and DIGAN its own loss class, driven as its loop does it; for MoCoGAN, whose
trainer is in Python 2, the loop is written out here. Ours judges for the discriminators the clips that the
generator's update has made, public code makes them anew. Where R1 is lazy, a row is a step without it and
another one a step with it. Left out on both sides: augmentation, and MoCoGAN's categories.

Shapes: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import importlib
import itertools
import os
import platform
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

import zoo
from benchmarks.measure import Work, measure, ratio, table
from benchmarks.tokenizers import randomize, stand_in
from zoo.training.loop import training_step
from zoo.training.run import Labelled, start

TOLERANCES = {"frames": 1e-5, "scores": 1e-5, "slopes": 1e-3}
"""Largest relative differences, in float32.

A leaky ReLU whose input is 0 but for rounding has one slope or five times it, and there are millions of them:
at 128x128 the public DIGAN's slopes in float32 are 7e-4 off its own in float64, ours 8e-5, and in float64 the
two differ by 2e-15.
"""
LAZY = 16
Noise = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A public GAN and ours.

    Attributes:
        recipe: Ours, by name.
        networks: The public networks.
        step: Takes a public training step on x_BCTHW, with the lazy penalty or without.
        make: The public frames of noise of ours at times_BT.
        judge: The public scores of x_BCTHW at times_BT, one tensor a head.
        weights: Maps the public state dict to ours.
        seen: Numbers of the frames that the comparison judges.
        lazy: Whether there is a penalty at every 16th step.
        factor: How much faster than the public code ours is meant to be.
    """

    recipe: str
    networks: nn.ModuleDict
    step: Callable[[Tensor, bool], None]
    make: Callable[[Noise, Tensor], Tensor]
    judge: Callable[[Tensor, Tensor], list[Tensor]]
    weights: Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], list[str]]]
    seen: list[int]
    lazy: bool
    factor: float


class Settings(dict[str, Any]):
    """A mapping read by attribute, all that the networks need of omegaconf."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        value = self[name]
        return Settings(value) if isinstance(value, dict) else value


def stand_ins() -> None:
    """Put a stand-in for what the networks' files import and training on the CPU does not need."""
    stand_in("requests")
    stand_in("psutil")
    stand_in("omegaconf", DictConfig=Settings, OmegaConf=Settings)
    omegaconf: Any = sys.modules["omegaconf"]
    if omegaconf.OmegaConf is Settings:
        omegaconf.OmegaConf = types.SimpleNamespace(create=Settings, to_container=dict)
    # The name that numpy had for it when the code was published.
    if "float" not in np.__dict__:
        np.__dict__["float"] = float


def modules(folder: Path, *names: str) -> list[Any]:
    """Import from a checkout, in place of what another one has under the same names."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("src", "training", "torch_utils", "dnnlib"):
            del sys.modules[name]
    # Both ways that these programs call their own packages.
    sys.path[:0] = [str(folder), str(folder / "src")]
    return [importlib.import_module(name) for name in names]


class PublicLoop:
    """The loop that StyleGAN-V and DIGAN have from StyleGAN2: phases of a step, each with its update.

    Args:
        G: The generator.
        D: The discriminator.
        learning_rates: Of the two, as their lazy penalties leave them.
        decay: Share of the moving average that each step keeps.
    """

    def __init__(self, G: nn.Module, D: nn.Module, *, learning_rates: tuple[float, float], decay: float):
        self.G, self.D, self.decay = G, D, decay
        self.average = copy.deepcopy(G).eval()
        for module in (G, D, self.average):
            module.requires_grad_(False)
        rate_G, rate_D = learning_rates
        self.optimizer_G = torch.optim.Adam(G.parameters(), lr=rate_G, betas=(0.0, 0.99))
        self.optimizer_D = torch.optim.Adam(
            D.parameters(), lr=rate_D, betas=(0.0, 0.99 ** (LAZY / (LAZY + 1)))
        )

    def step(self, accumulate: Callable[[str, int], None], penalised: bool) -> None:
        """Take a step; `accumulate` runs their loss for a phase, times a factor."""
        phases = [("Gmain", self.G, self.optimizer_G, 1), ("Dmain", self.D, self.optimizer_D, 1)]
        if penalised:
            phases.append(("Dreg", self.D, self.optimizer_D, LAZY))
        for name, module, optimizer, gain in phases:
            optimizer.zero_grad(set_to_none=True)
            module.requires_grad_(True)
            accumulate(name, gain)
            module.requires_grad_(False)
            for parameter in module.parameters():
                if parameter.grad is not None:
                    torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
            optimizer.step()
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.G.parameters(), strict=True):
                kept.copy_(new.lerp(kept, self.decay))
            for old, now in zip(self.average.buffers(), self.G.buffers(), strict=True):
                old.copy_(now)


def stylegan_v(folder: Path) -> Pair:
    """Load StyleGAN-V at 256x256 (universome/stylegan-v)."""
    networks, losses = modules(folder, "training.networks", "training.loss")
    from zoo_gan.stylegan_v.weights import map_stylegan_v_state_dict

    sampling = {"type": "random", "max_dist": 32, "num_frames_per_video": 3, "max_num_frames": 1024}
    config = Settings(
        sampling={**sampling, "total_dists": [1, 2, 4, 8, 16, 32]},
        use_noise=False,
        input={"type": "temporal"},
        w_dim=512,
        z_dim=512,
        c_dim=0,
        motion={
            "z_dim": 512,
            "v_dim": 512,
            "motion_z_distance": 16,
            "gen_strategy": "conv",
            "kernel_size": 11,
            "use_fractional_t": True,
            "fourier": True,
        },
        time_enc={
            "cond_type": "concat_const",
            "dim": 256,
            "min_period_len": 16,
            "max_period_len": 1024,
            "phase_dropout_std": 1.0,
        },
        concat_res=16,
        num_frames_div_factor=2,
        dummy_c=False,
        model={"loss_kwargs": {"video_consistent_aug": True}},
    )
    shared: dict[str, Any] = {"channel_base": 16384, "channel_max": 512, "num_fp16_res": 0, "conv_clamp": 256}
    G = networks.Generator(
        c_dim=0,
        w_dim=512,
        img_resolution=256,
        img_channels=3,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs=shared,
        cfg=config,
    )
    D = networks.Discriminator(
        c_dim=0,
        img_resolution=256,
        img_channels=3,
        mapping_kwargs={"num_layers": 2},
        epilogue_kwargs={"mbstd_group_size": 4},
        cfg=config,
        **shared,
    )
    loop = PublicLoop(G, D, learning_rates=(0.002, 0.0025 * LAZY / (LAZY + 1)), decay=0.997784)
    loss = losses.StyleGAN2Loss(
        config,
        torch.device("cpu"),
        G.mapping,
        G.synthesis,
        D,
        style_mixing_prob=0,
        r1_gamma=0.2048,
        pl_weight=0,
    )

    def step(x_BCTHW: Tensor, penalised: bool) -> None:
        batch = len(x_BCTHW)
        frames = rearrange(x_BCTHW[:, :, [0, 9, 16]], "B C T H W -> B T C H W").contiguous()
        times_BT = torch.tensor([[0.0, 9.0, 16.0]]).repeat(batch, 1)
        none_BC = torch.zeros(batch, 0)

        def accumulate(phase: str, gain: int) -> None:
            loss.accumulate_gradients(
                phase=phase,
                real_img=frames,
                real_c=none_BC,
                real_t=times_BT,
                gen_z=torch.randn(batch, 512),
                gen_c=none_BC,
                gen_t=times_BT,
                sync=True,
                gain=gain,
            )

        loop.step(accumulate, penalised)

    def make(noise: Noise, times_BT: Tensor) -> Tensor:
        none_BC = torch.zeros(len(times_BT), 0)
        # Published clips have codes for 1024 frames; those beyond the clip's are not read.
        motion = F.pad(noise["motion"], (0, 0, 0, 128))
        ws = G.mapping(noise["content"], none_BC, skip_w_avg_update=True)
        frames = G.synthesis(ws, t=times_BT, c=none_BC, motion_z=motion)
        return rearrange(frames, "(B T) C H W -> B C T H W", B=len(times_BT))

    def judge(x_BCTHW: Tensor, times_BT: Tensor) -> list[Tensor]:
        frames = rearrange(x_BCTHW, "B C T H W -> (B T) C H W")
        return [D(frames, torch.zeros(len(times_BT), 0), times_BT)["image_logits"]]

    return Pair(
        "gan-video-stylegan-v",
        nn.ModuleDict({"G_ema": G, "D": D}),
        step,
        make,
        judge,
        map_stylegan_v_state_dict,
        seen=[0, 9, 16],
        lazy=True,
        factor=1.2,
    )


def digan(folder: Path) -> Pair:
    """Load DIGAN at 128x128 (sihyun-yu/digan)."""
    networks, losses = modules(folder, "training.networks", "training.loss")
    from zoo_gan.digan.weights import map_digan_state_dict

    features = {"predictable_emb_size": 128, "use_cosine": True, "use_diagonal": True}
    coordinates = {
        "enabled": True,
        "per_resolution": True,
        "kernel_size": 1,
        "coord_dim": 2,
        "fallback": False,
        "use_full_cache": False,
        "global_motion": False,
        "motion_sigma": 0.25,
        "res_configs": {str(2**n): features for n in range(2, 10)},
    }
    config = Settings(
        fp32=True,
        upsampling_mode="nearest",
        use_noise=False,
        fmaps=1,
        num_extra_convs={"128": 1, "256": 1},
        input={"type": "coords", "resolution": 32, "coord_fuser_cfg": coordinates},
        coords=coordinates,
        fmm={"enabled": True, "rank": 10, "activation": "demod"},
    )
    shared: dict[str, Any] = {"channel_base": 32768, "channel_max": 512, "num_fp16_res": 0}
    G = networks.Generator(
        z_dim=512,
        c_dim=0,
        w_dim=512,
        img_resolution=128,
        img_channels=3,
        ours=True,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs=shared | {"conv_clamp": None},
        cfg=config,
    )
    D = networks.OurDiscriminator(
        0, 128, 3, conv_clamp=256, epilogue_kwargs={"mbstd_group_size": 4}, **shared
    )
    loop = PublicLoop(G, D, learning_rates=(0.002, 0.0025 * LAZY / (LAZY + 1)), decay=0.5 ** (64 / 20000))
    loss = losses.OurStyleGAN2Loss(
        torch.device("cpu"), G.mapping, G.synthesis, D, style_mixing_prob=0, r1_gamma=1, pl_weight=0
    )

    def shown(x_BCTHW: Tensor, times_BT: Tensor) -> Tensor:
        between_B = (times_BT[:, 1] - times_BT[:, 0]) / 15
        plane = between_B[:, None, None, None].expand(-1, 1, *x_BCTHW.shape[3:])
        return torch.cat([rearrange(x_BCTHW, "B C T H W -> B (T C) H W"), plane], dim=1)

    def step(x_BCTHW: Tensor, penalised: bool) -> None:
        batch = len(x_BCTHW)
        pair = shown(x_BCTHW[:, :, [2, 11]], torch.tensor([[2.0, 11.0]]).repeat(batch, 1))
        none_BC = torch.zeros(batch, 0)

        def accumulate(phase: str, gain: int) -> None:
            loss.accumulate_gradients(
                phase=phase,
                real_img=pair,
                real_c=none_BC,
                gen_z=torch.randn(batch, 512),
                gen_c=none_BC,
                sync=True,
                gain=gain,
            )

        loop.step(accumulate, penalised)

    def make(noise: Noise, times_BT: Tensor) -> Tensor:
        ws = G.mapping(noise["content"], None)
        frames = G.synthesis(ws, (times_BT / 15).reshape(-1, 1, 1, 1), noise["motion"][:, 0])
        return rearrange(frames, "(B T) C H W -> B C T H W", B=len(times_BT))

    def judge(x_BCTHW: Tensor, times_BT: Tensor) -> list[Tensor]:
        motion, frames, _ = D(shown(x_BCTHW, times_BT), torch.zeros(len(times_BT), 0))
        return [motion, frames]

    return Pair(
        "gan-video-digan",
        nn.ModuleDict({"G_ema": G, "D": D}),
        step,
        make,
        judge,
        map_digan_state_dict,
        seen=[2, 11],
        lazy=True,
        factor=1.2,
    )


def mocogan(folder: Path) -> Pair:
    """Load MoCoGAN (sergeytulyakov/mocogan), whose one division of whole numbers is of Python 2."""
    from zoo_gan.mocogan.weights import map_mocogan_state_dict

    source = (
        (folder / "src" / "models.py").read_text().replace("h.size(0) / video_len", "h.size(0) // video_len")
    )
    models: Any = types.ModuleType("mocogan_models")
    exec(compile(source, "models.py", "exec"), models.__dict__)
    G = models.VideoGenerator(3, 50, 6, 10, 16)
    judges = nn.ModuleDict(
        {
            "image": models.PatchImageDiscriminator(3, use_noise=True, noise_sigma=0.1),
            "video": models.VideoDiscriminator(3, use_noise=True, noise_sigma=0.1),
        }
    )
    criterion = nn.BCEWithLogitsLoss()
    optimizers = [
        torch.optim.Adam(module.parameters(), lr=2e-4, betas=(0.5, 0.999), weight_decay=1e-5)
        for module in (G, *judges.values())
    ]

    def step(x_BCTHW: Tensor, penalised: bool) -> None:
        batch = len(x_BCTHW)
        turns = [
            (judges["image"], x_BCTHW[:, :, 5], G.sample_images),
            (judges["video"], x_BCTHW, G.sample_videos),
        ]
        optimizer_G, *optimizers_D = optimizers
        for (judge, real, sample), optimizer in zip(turns, optimizers_D, strict=True):
            optimizer.zero_grad()
            real_scores, _ = judge(real)
            fake_scores, _ = judge(sample(batch)[0].detach())
            loss = criterion(real_scores, torch.ones_like(real_scores))
            (loss + criterion(fake_scores, torch.zeros_like(fake_scores))).backward()
            optimizer.step()
        optimizer_G.zero_grad()
        losses = []
        for judge, _, sample in turns:
            scores, _ = judge(sample(batch)[0])
            losses.append(criterion(scores, torch.ones_like(scores)))
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer_G.step()

    def make(noise: Noise, times_BT: Tensor) -> Tensor:
        given = copy.copy(G)
        steps = iter(noise["motion"].unbind(1))
        labels = noise["category"].argmax(1).numpy()
        given.get_gru_initial_state = lambda num: noise["motion_start"]
        given.get_iteration_noise = lambda num: next(steps)
        given.sample_z_content = lambda num, length: noise["content"].repeat_interleave(length, 0)
        given.sample_z_categ = lambda num, length: (noise["category"].repeat_interleave(length, 0), labels)
        frames: Tensor = given.sample_videos(len(times_BT), times_BT.shape[1])[0]
        return frames

    def judge(x_BCTHW: Tensor, times_BT: Tensor) -> list[Tensor]:
        return [judges["image"](x_BCTHW[:, :, 0])[0], judges["video"](x_BCTHW)[0]]

    return Pair(
        "gan-video-base",
        nn.ModuleDict({"generator": G, **judges}),
        step,
        make,
        judge,
        lambda state: map_mocogan_state_dict(state, discriminators=["mocogan-patch-image", "mocogan-video"]),
        seen=list(range(16)),
        lazy=False,
        factor=1.2,
    )


PEERS: dict[str, Callable[[Path], Pair]] = {"mocogan": mocogan, "digan": digan, "stylegan-v": stylegan_v}


def compare(name: str, pair: Pair, model: Any, batch: int) -> None:
    """Compare frames, scores and slopes.

    Raises:
        RuntimeError: Ours and the public code disagree.
    """
    rng = torch.Generator().manual_seed(0)
    times_BT = torch.tensor(pair.seen, dtype=torch.float32).repeat(batch, 1)
    noise = model.draw_noise(batch, generator=rng)
    with torch.no_grad():
        ours_x = (
            model.generator(noise)
            if len(pair.seen) == model.recipe.clip.num_frames
            else (model.generator(noise, times_BT))
        )
        checks = {"frames": (ours_x, pair.make(noise, times_BT))}

    def judged(x_BCTHW: Tensor, times_BT: Tensor) -> list[Tensor]:
        scores = []
        for judge in model.discriminator:
            told = (times_BT,) if "times" in getattr(judge, "conditions", ()) else ()
            seen = x_BCTHW[:, :, 0] if judge.consumes == "image" else x_BCTHW
            scores += judge(seen, *told).logits
        return scores

    x_BCTHW = torch.rand(ours_x.shape, generator=rng) * 2 - 1
    results = []
    for judges in (judged, pair.judge):
        torch.manual_seed(0)
        x = x_BCTHW.clone().requires_grad_()
        scores = judges(x, times_BT)
        (slope,) = torch.autograd.grad(torch.stack([score.sum() for score in scores]).sum(), x)
        results.append((torch.cat([score.detach().flatten() for score in scores]), slope))
    for what, found, wanted in zip(("scores", "slopes"), *results, strict=True):
        checks[what] = found, wanted
    for what, (found, wanted) in checks.items():
        error = float((found - wanted).norm() / wanted.norm())
        print(f"{name} {what}: relative difference {error:.1e}", flush=True)
        if not error <= TOLERANCES[what]:
            raise RuntimeError(f"{name} {what}: differs from the public code by {error:.1e}")


def works(name: str, pair: Pair, batch: int) -> list[Work]:
    """Give ours the public weights, compare, and return the rows of this GAN.

    Raises:
        RuntimeError: Ours and the public code disagree.
    """
    with torch.no_grad():
        randomize(pair.networks)
    pair.networks.train()
    plain: dict[str, Any] = {"train": {"objective": {"adversarial": {"augment": None}}}}
    model: Any = zoo.build(pair.recipe, **plain)
    model.load_state_dict(pair.weights(pair.networks.state_dict())[0])
    run = start(model, torch.device("cpu"))
    compare(name, pair, model, batch)
    clip = model.recipe.clip
    x_BCTHW = torch.rand(batch, 3, clip.num_frames, clip.height, clip.width) * 2 - 1
    batches: Iterator[Labelled] = itertools.repeat(Labelled(x_BCTHW))

    def ours(penalised: bool) -> None:
        run.step = 0 if penalised else 1
        training_step(run, batches)

    def theirs(penalised: bool) -> None:
        pair.step(x_BCTHW, penalised)

    size = f"{batch} x {clip.num_frames}x{clip.height}x{clip.width}"
    kinds = {" step with R1": True, " step": False} if pair.lazy else {" step": False}
    return [
        Work(
            f"{name}{kind}, {size}",
            functools.partial(ours, penalised),
            {name: functools.partial(theirs, penalised)},
            pair.factor,
        )
        for kind, penalised in kinds.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    """Compare, measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gans", description=__doc__)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=FOLDER", help=f"one of {', '.join(PEERS)}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each row (default 3)")
    parser.add_argument("--clips", type=int, default=2, help="clips of a batch (default 2)")
    parser.add_argument("--only", default="", help="measure rows whose name has this in it")
    parser.add_argument(
        "--processor-time", action="store_true", help="count the processor's time, not that on the wall"
    )
    options = parser.parse_args(arguments)
    stand_ins()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads of {cores} cores, {platform.machine()}"
        f", {'processor' if options.processor_time else 'wall'} time"
    )
    clock = time.process_time if options.processor_time else time.perf_counter
    rows = []
    for peer in options.peer:
        name, _, folder = peer.partition("=")
        if name not in PEERS or not Path(folder).is_dir():
            parser.error(f"--peer {peer}: write NAME=FOLDER with a name of {', '.join(PEERS)} and a checkout")
        torch.manual_seed(0)
        pair = PEERS[name](Path(folder))
        for work in works(name, pair, options.clips):
            if options.only not in work.name:
                continue
            timings = measure(work, rounds=options.rounds, device=torch.device("cpu"), clock=clock)
            rows.append((work, timings))
            print(f"{work.name}: {ratio(*timings):.2f} times as fast as {name}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
