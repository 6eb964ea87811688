"""What the ranks of an experiment do: each function runs in every process, and writes down what it found."""

from __future__ import annotations

import atexit
import hashlib
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from training.squares import GAN, VQGAN, VQVAE, Squares
from training.test_accumulate import Crowded, batches, run_of
from training.test_token_prior import PRIOR

import zoo
from zoo.data.clips import Taken
from zoo.data.sampling import Draw
from zoo.discovery import catalogue
from zoo.errors import TrainingError
from zoo.ranks import average_gradients, joined, mean_everywhere, same_everywhere, share
from zoo.testing.subject import Subject
from zoo.training import trainer
from zoo.training.loop import training_step
from zoo.training.run import start
from zoo.training.session import Session

# Adam divides a gradient by its size: one that is nothing but rounding (of a bias before batch norm) becomes
# a step of full length, and no two sums are rounded alike. A larger eps leaves such steps small.
_ADAM = {"use": "adam", "lr": 5e-5, "betas": [0.5, 0.9], "eps": 1e-4}
RECIPES = {
    "gan": {**GAN, "train": {**GAN["train"], "optimizer": _ADAM}},
    "vqgan": {**VQGAN, "train": {**VQGAN["train"], "optimizer": _ADAM, "discriminator_optimizer": _ADAM}},
    "vqvae": VQVAE,
    "prior": {
        **PRIOR,
        "tokenizer": {"use": "vqvae-video-tiny", "train": {"steps": 3, "optimizer": _ADAM}},
        "train": {**PRIOR["train"], "batch_size": 4, "optimizer": _ADAM},
    },
    # Every penalty on slopes at once, of which each walks through a player twice.
    "slopes": {
        **GAN,
        "train": {
            **GAN["train"],
            "optimizer": _ADAM,
            "objective": {
                "adversarial": {
                    "loss": "non-saturating",
                    "r1": {"weight": 1.0, "every": 2},
                    "r2": {"weight": 0.5},
                    "gradient_penalty": {"weight": 1.0, "every": 3},
                    "path_length": {"weight": 1.0, "every": 2},
                    "lecam": {"weight": 0.1},
                    "augment": {"use": "ada", "interval": 2, "adjust_clips": 40},
                }
            },
        },
    },
}
RANK = int(os.environ.get("RANK", "0"))
TIMES = ("steps_per_s", "data_wait_share", "seconds")


class Rough(Squares):
    """Squares on rough ground: no two latents are alike, so no code is chosen by a rounding error.

    Args:
        num_clips: Clips.
        dies_at: The clip, counted over the run, at whose making rank 1 is killed.
        **more: As for `Squares`.
    """

    def __init__(self, num_clips: int, *, dies_at: int | None = None, slow_s: float = 0, **more: Any) -> None:
        super().__init__(num_clips, **more)
        self.dies_at = dies_at
        self.slow_s = slow_s
        self.made = 0

    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        self.made += 1
        time.sleep(self.slow_s)
        if RANK == 1 and self.made == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        taken, name, label = super()._take(index, chance)
        rng = np.random.default_rng(index)
        frames = [frame + rng.integers(0, 100, frame.shape) for frame in taken.frames]
        return (
            Taken([np.clip(frame, 0, 255).astype(np.uint8) for frame in frames], taken.start_s),
            name,
            label,
        )


def write(folder: Path, found: Any) -> None:
    """Write down what this rank found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank-{RANK}.json").write_text(json.dumps(found), encoding="utf-8")


def digest(module: nn.Module) -> str:
    """Return a hash of every weight and buffer."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def train(
    folder: Path,
    *,
    recipes: list[str],
    steps: int,
    resume: bool = False,
    change: dict[str, Any] | None = None,
    fsdp: bool = False,
) -> None:
    """Train recipes one after the other; keep the numbers of every step and a hash of the weights."""
    found = {}
    for name in recipes:
        clips = {"train": Rough(12), "test": Rough(5, random=False)}
        result = zoo.train(
            RECIPES[name],
            data=clips,
            out=folder / name,
            steps=steps,
            resume=resume,
            fsdp=fsdp,
            num_workers=0,
            device="cpu",
            progress=False,
            train=change or {},
        )
        lines = [
            {key: value for key, value in line.items() if key not in TIMES}
            for line in result.history
            if line["kind"] == "train"
        ]
        found[name] = {"lines": lines, "sha256": digest(result.model)}
    write(folder, found)


def uneven(folder: Path, *, most: int) -> None:
    """Train on 1, 2, ... clips and measure on as many; keep how many were measured."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    measured = {}
    for num in range(1, most + 1):
        clips = {"train": Rough(num), "test": Rough(num, random=False)}
        out = folder / str(num)
        recipe = {**VQVAE, "train": {**VQVAE["train"], "batch_size": size}}
        zoo.train(recipe, data=clips, out=out, steps=1, num_workers=0, device="cpu", progress=False)
        facts = json.loads((out / "run.json").read_text(encoding="utf-8"))
        measured[num] = facts["evaluation"]["protocol"]["num_clips"]
    write(folder, measured)


def one_dies(folder: Path, *, steps: int, dies_at: int | None, slow_s: float, timeout_s: float) -> None:
    """Train with a checkpoint at every 5th step; rank 1 is killed on the way, in the first attempt alone."""
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    clips = Rough(12, dies_at=None if attempt else dies_at, slow_s=slow_s)
    recipe = {**VQVAE, "train": {**VQVAE["train"], "save_every": 5}}
    options: dict[str, Any] = {"num_workers": 0, "device": "cpu", "progress": False, "timeout_s": timeout_s}
    (folder / f"began-{RANK}-{attempt}").touch()
    try:
        result = zoo.train(recipe, data=clips, out=folder / "run", steps=steps, resume="auto", **options)
    finally:
        (folder / f"ended-{RANK}-{attempt}").write_text(str(time.time()), encoding="utf-8")
    write(folder, {"step": result.step, "sha256": digest(result.model), "attempt": attempt})


def trained_on(folder: Path, *, rows: int, batch_size: int, steps: int, part: int) -> None:
    """Train up to a step, from where an earlier part of the run ended; keep the row of every clip."""
    from zoo.training import session

    seen: list[int] = []
    step = session.training_step

    def noting(run: Any, batches: Any) -> Any:
        def passed_on() -> Any:
            for batch in batches:
                seen.extend(batch.label_B.tolist())
                yield batch

        return step(run, passed_on())

    session.training_step = noting
    recipe = {**VQVAE, "train": {**VQVAE["train"], "batch_size": batch_size, "log_every": 1000}}
    options: dict[str, Any] = {"num_workers": 0, "device": "cpu", "progress": False, "resume": part > 0}
    zoo.train(recipe, data={"train": Numbered(rows)}, out=folder / "run", steps=steps, **options)
    write(folder / f"part-{part}", seen)


class Numbered(Squares):
    """As many clips as one wants, each a picture that costs nothing and has its number for a label."""

    frame = np.zeros((16, 16, 3), np.uint8)

    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        return Taken([self.frame] * 4, 0.0), self._name(index), index


def not_finite(folder: Path, *, names: list[str], fsdp: bool) -> None:
    """Break something on rank 1 alone; keep whether all ranks did as the recipe says, and end alike."""
    from chaos.not_finite import POLICIES, survive

    found = {}
    for name in names:
        for policy, fault in itertools.product(POLICIES, ("clips nan", "model", "discriminator")):
            if name == "vqvae" and fault == "discriminator":
                continue
            out = folder / f"{name}-{policy}-{fault}"
            one = survive(out, name, fault, policy, at=3, here=RANK == 1, fsdp=fsdp)
            found[out.name] = [one.finite, one.as_asked, one.steps]
    write(folder, found)


def codebooks(folder: Path, *, parts: list[str], steps: int) -> None:
    """Train every quantizer on latents that differ between the ranks; keep a hash of its state every step.

    Each is built before the ranks have joined, from a seed of its own on each rank.
    """
    found: dict[str, Any] = {}
    built = {name: Subject(catalogue().find("quantizer", name)) for name in parts}
    modules = {name: subject.build(seed=RANK) for name, subject in built.items()}
    with joined(torch.device("cpu"), 60):
        for name, module in modules.items():
            same_everywhere(module)
            torch.manual_seed(RANK)
            weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
            optimizer = torch.optim.SGD(weights, lr=0.05) if weights else None
            hashes = []
            for step in range(steps):
                rng = torch.Generator().manual_seed(1000 * RANK + step)
                shape = (2, built[name].ports.input_dim, 2, 3, 3)
                # The spread shrinks, so that codes die and are revived.
                z_BDthw = torch.randn(shape, generator=rng) * (3 if step % 40 < 20 else 0.05)
                result = module.train()(z_BDthw.requires_grad_())
                if optimizer is not None:
                    optimizer.zero_grad()
                    (result.loss + result.z_BDthw.square().sum() / 100).backward()
                    average_gradients(weights)
                    optimizer.step()
                hashes.append(digest(module))
            found[name] = hashes
    write(folder, found)


def cut_parts(folder: Path, *, parts: list[str]) -> None:
    """Compare gradients of parts that are cut over the ranks with those of whole ones; keep what differs."""
    from zoo.training.shards import cut_by_blocks, keep_whole_at_work, modules_run

    found = {}
    with joined(torch.device("cpu"), 60):
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        for name in parts:
            kind, _, part = name.partition("/")
            subject = Subject(catalogue().find(kind, part))  # type: ignore[arg-type]
            alone = subject.build().train()
            inputs = subject.inputs(alone, batch=2)
            run = modules_run(alone)
            wanted = _gradients(subject, alone, inputs, twice=False)
            wanted = {name: None if g is None else mean_everywhere(g) for name, g in wanted.items()}
            cut = subject.build().train()
            cut_by_blocks(cut, run, mesh)
            found[name] = _apart(wanted, _gradients(subject, cut, inputs, twice=False))
            if kind == "discriminator" or subject.makes_clips:
                wanted = _gradients(subject, subject.build().train(), inputs, twice=True)
                cut = subject.build().train()
                kept = keep_whole_at_work(cut, mesh)
                kept.unshard()
                found[f"{name} twice"] = _apart(wanted, _gradients(subject, cut, inputs, twice=True))
    write(folder, found)


def _gradients(subject: Subject, module: nn.Module, inputs: Any, *, twice: bool) -> dict[str, Tensor | None]:
    """Return the gradients of a loss of all outputs; with `twice`, of a penalty on its slopes beside it."""
    torch.manual_seed(0)
    inputs = {
        name: x.clone().requires_grad_(twice) if x.is_floating_point() else x for name, x in inputs.items()
    }
    outputs = [x.float() for x in subject.outputs(module, inputs).values() if x.requires_grad]
    loss = torch.stack([x.square().mean() + x.mean() for x in outputs]).sum()
    if twice:
        asked = [x for x in inputs.values() if x.requires_grad]
        slopes = torch.autograd.grad(loss, asked, create_graph=True, allow_unused=True)
        loss = loss + torch.stack([g.square().sum() for g in slopes if g is not None]).sum()
    loss.backward()
    return {
        name: None if p.grad is None else getattr(p.grad, "full_tensor", lambda p=p: p.grad)()
        for name, p in module.named_parameters()
    }


def _apart(wanted: dict[str, Tensor | None], found: dict[str, Tensor | None]) -> float:
    """Return the largest difference of two sets of gradients, relative to the largest gradient."""
    if {name for name, g in wanted.items() if g is None} != {n for n, g in found.items() if g is None}:
        return float("inf")
    pairs = [(g, f) for g, f in zip(wanted.values(), found.values(), strict=True) if g is not None]
    largest = max((float(g.abs().max()) for g, _ in pairs), default=0.0) or 1.0
    return max((float((g - f).abs().max()) for g, f in pairs if f is not None), default=0.0) / largest


def crowded(folder: Path) -> None:
    """Have no memory for more than a clip at a time on rank 1; keep what came of it on each rank.

    That is "before" ranks exchange anything in a step, "without" any exchange, and "after" one.
    """
    found: dict[str, Any] = {}
    with joined(torch.device("cpu"), 60):
        for case, part in (("before", "encoder"), ("without", "decoder"), ("after", "decoder")):
            run = run_of("zoo-causal-video-tiny")
            if case != "without":
                run = start(zoo.build(VQVAE, seed=0), torch.device("cpu"))
            if RANK == 1:
                run.model.part(part).register_forward_pre_hook(Crowded(1))
            try:
                training_step(run, (batch.part(share(4)) for batch in batches(run)))
            except Exception as error:
                found[case] = f"{type(error).__name__}: {error}"
            else:
                found[case] = [run.accumulate, digest(run.model)]
    write(folder, found)


def signal_when_measured(number: signal.Signals) -> None:
    """Have rank 1 sent a signal as soon as the first rank measures."""

    class Signalled(Session):
        def evaluate(self, **options: Any) -> Any:
            if RANK == 1:
                os.kill(os.getpid(), number)
            return super().evaluate(**options)

    trainer.Session = Signalled  # type: ignore[misc]


def asked(folder: Path, *, slow_s: float) -> None:
    """Train while rank 1 is asked to stop as soon as the first rank measures; keep what came of it."""
    signal_when_measured(signal.SIGUSR1)
    clips = {"train": Rough(4), "test": Rough(40, random=False, slow_s=slow_s if RANK == 0 else 0)}
    began = time.monotonic()
    result = zoo.train(
        VQVAE, data=clips, out=folder / "run", steps=2, num_workers=0, device="cpu", progress=False
    )
    write(folder, {"seconds": time.monotonic() - began, "interrupted": result.interrupted})


def dies_beside(folder: Path) -> None:
    """Train; rank 1 dies while the first one measures, which is no part of a step."""
    signal_when_measured(signal.SIGKILL)
    clips = {"train": Rough(4), "test": Rough(4, random=False)}
    options: dict[str, Any] = {"num_workers": 0, "device": "cpu", "progress": False, "timeout_s": 10.0}
    try:
        zoo.train(VQVAE, data=clips, out=folder / "run", steps=2, **options)
    except TrainingError as error:
        write(folder, str(error))
        raise


def threads_at_the_end(folder: Path, *, fsdp: bool) -> None:
    """Train; write down the threads that are there when the interpreter begins to end."""
    threads = Path("/proc/self/task")
    atexit.register(lambda: write(folder, [path.read_text() for path in threads.glob("*/comm")]))
    train(folder, recipes=["vqgan"], steps=1, fsdp=fsdp)


def main() -> None:
    """Run the job that the command line names."""
    job, folder, options = sys.argv[1:]
    torch.set_num_threads(1)
    globals()[job](Path(folder), **json.loads(options))


if __name__ == "__main__":
    main()
