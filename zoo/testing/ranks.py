"""Whether a part stays the same on all ranks while they train it: two processes, tiny and short.

Shape legend: B batch, D latent channels, t h w the latent grid.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from zoo.ranks import average_gradients, same_everywhere
from zoo.testing.results import CheckSkipped, fail
from zoo.testing.subject import Subject, seeded
from zoo.weights import saveable

STEPS = 4
_RANKS = 2
_WAIT_S = 120.0


def check_ranks_agree(subject: Subject) -> None:
    """Trained on two ranks with different latents, its state is the same on both, to the bit."""
    if not dist.is_available():
        raise CheckSkipped("this build of torch has no torch.distributed")
    # A server that has imported torch once; its forks have no threads of ours.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__, "torch._dynamo"])  # einops needs the latter
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            processes.Process(
                target=_train,
                args=(subject.part.load(), subject.options, subject.ports.input_dim, number, folder),
                daemon=True,
            )
            for number in range(_RANKS)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(_WAIT_S)
        late = [process for process in ranks if process.exitcode is None]
        for process in late:
            process.kill()
        troubles = [path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob("error-*"))]
        states = [load_file(path) for path in sorted(Path(folder).glob("state-*"))]
    promised = "codebooks are the same on all ranks at every step, wherever the model was built"
    if troubles or len(states) < _RANKS:
        found = troubles[0] if troubles else f"{len(late)} of {_RANKS} ranks hung for {_WAIT_S:g} s"
        todo = "make every rank take part in the same collectives, whatever its latents are"
        raise fail(promised, found, todo)
    differ = [name for name, value in states[0].items() if not torch.equal(value, states[1][name])]
    if differ:
        raise fail(
            promised,
            f"{', '.join(differ)} differ after {STEPS} steps",
            "sum counts and vectors over the ranks (zoo.ranks.everywhere, zoo.codebook.count_and_sum) and "
            "draw with zoo.codebook.draw_vectors",
        )


def _train(
    target: type[nn.Module], options: dict[str, Any], input_dim: int, number: int, folder: str
) -> None:
    """Train a part on one rank, and write down its state or what went wrong."""
    torch.set_num_threads(1)
    try:
        with seeded(number):  # built before the ranks meet, and otherwise on each
            module: Any = target(**options)
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=_RANKS
        )
        same_everywhere(module)
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        module.train()
        for step in range(STEPS):
            rng = torch.Generator().manual_seed(100 * number + step)
            x = torch.randn(2, input_dim, 2, 3, 2, generator=rng).requires_grad_()
            with seeded(100 * number + step):
                result = module(x)
            if weights:
                (result.loss + result.z_BDthw.square().mean()).backward()
                average_gradients(weights)
            with torch.no_grad():
                for parameter in weights:
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
                        parameter.grad = None
        if number == 0:  # in evaluation one rank has to get on alone
            with torch.no_grad():
                module.eval()(torch.zeros(1, input_dim, 2, 3, 2))
        save_file(saveable(module.state_dict()), f"{folder}/state-{number}")
        dist.barrier()
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = f"rank {number} raised {type(error).__name__}: {str(error).splitlines()[0]}"
        Path(folder, f"error-{number}").write_text(f"{words} ({place.filename}:{place.lineno})")
