"""Weights cut over the ranks by `fully_shard` (FSDP), for models too large for each to hold.

Between two steps a rank holds its share of every weight, of its moving average and of its optimiser's state.
A part is put together in one of two ways:

- *block by block*: encoder, decoder and generator. A block's weights are gathered when it is run, forwards
  and backwards, and let go again; its gradients arrive as each rank's share of the mean.
- *whole while at work*: the discriminators, and a generator whose path lengths are measured. Their weights
  are gathered before an update and let go after it, because a penalty on slopes walks back through a part
  twice, and `fully_shard` lets weights go after the first walk, while the second still reads them. Gradients
  are averaged as without.

Codebooks, projections, single numbers and a frozen tokenizer stay whole on every rank.

Optimisers are given the rank's own share of each weight as a plain tensor, so they have to be among those
that treat every number alone (`BY_NUMBER`). Checkpoints and models are those of one process: the shares are
put together, tensor by tensor, in the memory of the first rank's host.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from zoo.assemblies import Assembly
from zoo.building import plan
from zoo.errors import TrainingError
from zoo.ranks import (
    average_gradients,
    cut_alike,
    distributed,
    everywhere,
    is_first,
    own_share,
    when_leaving,
    whole,
    world_size,
)
from zoo.training.player import Weights

if TYPE_CHECKING:
    from zoo.recipes import Recipe

BY_NUMBER = (
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "lion",
    "momentum",
    "nadam",
    "radam",
    "rmsprop",
    "sgd",
)
"""Optimisers whose step of one weight's number depends on no other number of the weight."""
_ALSO_RUN = ("loss", "own_loss")
"""Methods of a part, besides `forward`, that a step calls."""


class CutWeights(Weights):
    """The weights of one player, cut over the ranks but for a few.

    Args:
        parameters: All of them, cut.
        at_work: Their modules that are whole while at work.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], at_work: list[FSDPModule]) -> None:
        self._cut = list(parameters)
        self._at_work = at_work
        super().__init__(
            nn.Parameter(parameter.to_local().detach(), requires_grad=parameter.requires_grad)
            if isinstance(parameter, DTensor)
            else parameter
            for parameter in self._cut
        )
        there = {id(parameter) for module in at_work for parameter in _parameters(module)}
        self._whole = [p for p in self._cut if not isinstance(p, DTensor) and id(p) not in there]

    def settle(self) -> None:
        average_gradients(self._whole)
        for module in self._at_work:
            gathered = _parameters(module)
            average_gradients(gathered)
            gradients = [parameter.grad for parameter in gathered]
            for parameter in gathered:
                parameter.grad = None
            module.reshard()
            for parameter, gradient in zip(_parameters(module), gradients, strict=True):
                parameter.grad = None if gradient is None else cut_alike(gradient, parameter)
        for parameter, own in zip(self._cut, self.updated, strict=True):
            if isinstance(parameter, DTensor):
                own.grad = None if parameter.grad is None else own_share(parameter.grad)
                parameter.grad = None

    def clip(self, max_norm: float) -> Tensor:
        pairs = [
            (parameter, own.grad)
            for parameter, own in zip(self._cut, self.updated, strict=True)
            if own.grad is not None
        ]
        cut = [gradient for parameter, gradient in pairs if isinstance(parameter, DTensor)]
        whole = [gradient for parameter, gradient in pairs if not isinstance(parameter, DTensor)]
        total = everywhere(_squares(cut, self.updated[0].device)) + _squares(whole, self.updated[0].device)
        norm = total.sqrt()
        torch._foreach_mul_(cut + whole, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def forget(self) -> None:
        super().forget()
        for parameter in [*self._cut, *(p for module in self._at_work for p in _parameters(module))]:
            parameter.grad = None

    def whole_state(self, state: dict[str, Any]) -> dict[str, Any]:
        def joined(parameter: nn.Parameter, value: Any) -> Any:
            if not _is_share(value, parameter):
                return value
            assert isinstance(parameter, DTensor)
            share = DTensor.from_local(
                value,
                parameter.device_mesh,
                parameter.placements,
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
            return whole(share)

        return self._with_each(state, joined)

    def own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        def shared(parameter: nn.Parameter, value: Any) -> Any:
            is_whole = isinstance(value, Tensor) and value.ndim and value.shape == parameter.shape
            return own_share(cut_alike(value.to(parameter.device), parameter)) if is_whole else value

        return self._with_each(state, shared)

    def _with_each(self, state: dict[str, Any], change: Any) -> dict[str, Any]:
        trained = [parameter for parameter in self._cut if parameter.requires_grad]
        of_each = {
            number: {name: change(trained[number], value) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        return {**state, "state": of_each}


class Shards:
    """Cuts a model, and its moving average, over the ranks.

    Args:
        model: The model, whole and on the CPU.

    Raises:
        TrainingError: What `refuse_fsdp` says.
    """

    def __init__(self, model: Assembly) -> None:
        refuse_fsdp(model.recipe)
        self._model = model
        # Beside the one that is cut, on the first rank's host: it is measured and saved.
        self._published = copy.deepcopy(model).eval() if is_first() else model
        self._at_work: list[FSDPModule] = []

    def cut(self, average: Assembly | None) -> None:
        """Cut the model, which by now is where it is trained and the same on all ranks.

        Args:
            average: Its moving average, which shares its discriminators.
        """
        model = self._model
        mesh = init_device_mesh(next(model.parameters()).device.type, (world_size(),))
        # What torch caches keeps every mesh for ever, and a mesh the group: see `zoo.ranks.joined`.
        when_leaving(getattr(mesh, "_pg_registry", {}).clear)
        adversarial = model.recipe.train.objective.adversarial
        walks_twice = adversarial is not None and adversarial.path_length is not None
        run = _run_in_a_rehearsal(model.recipe)
        for name, part in model.networks().items():
            if not _has_weights(part):
                continue
            if walks_twice and name == "generator":
                self._at_work.append(keep_whole_at_work(part, mesh))
            else:
                cut_by_blocks(part, run[name], mesh)
            if average is not None:
                cut_by_blocks(average.get_submodule(name), run[name], mesh)
        for discriminator in filter(_has_weights, model.discriminator):
            self._at_work.append(keep_whole_at_work(discriminator, mesh))

    def weights(self, parameters: Iterable[nn.Parameter]) -> CutWeights:
        """Return the weights of a player, of which these are all."""
        own = list(parameters)
        there = set(map(id, own))
        mine = [module for module in self._at_work if id(_parameters(module)[0]) in there]
        return CutWeights(own, mine)

    def gather(self) -> None:
        """Put together what is whole while at work."""
        for module in self._at_work:
            module.unshard()

    def let_go(self) -> None:
        """Leave each rank with its share of every weight."""
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def publish(self, tensors: Mapping[str, Tensor]) -> Assembly:
        """Put whole weights into the copy on the first rank's host, and return it; on others the model."""
        if is_first():
            self._published.load_state_dict(tensors)
        return self._published


def refuse_fsdp(recipe: Recipe) -> None:
    """Refuse to cut weights over ranks where that cannot be done.

    Raises:
        TrainingError: There is one rank only, an optimiser looks at more than one number at a time, or the
            recipe has something that needs whole weights.
    """
    if not distributed():
        raise TrainingError(
            "--fsdp cuts the weights over several ranks, and there is one: start with torchrun "
            "(torchrun --nproc-per-node 2 -m zoo train ... --fsdp), or leave it out"
        )
    train = recipe.train
    for field in ("optimizer", "discriminator_optimizer"):
        config = getattr(train, field)
        if config is not None and config.use not in BY_NUMBER:
            raise TrainingError(
                f"--fsdp gives an optimizer a share of each weight, and train.{field} {config.use!r} may "
                f"need all of it: choose one of {', '.join(BY_NUMBER)}, or leave out --fsdp"
            )
    adversarial = train.objective.adversarial
    needs_whole_weights = {
        "compile": train.compile,
        "memory_format": train.memory_format != "contiguous",
        "objective.adversarial.contrastive": adversarial is not None and adversarial.contrastive is not None,
    }
    for field, is_on in needs_whole_weights.items():
        if is_on:
            raise TrainingError(
                f"--fsdp cuts the weights, and train.{field} needs them whole: leave out one of the two"
            )


def _is_share(value: Any, parameter: nn.Parameter) -> bool:
    return (
        isinstance(parameter, DTensor)
        and isinstance(value, Tensor)
        and value.ndim > 0
        and value.shape == parameter.to_local().shape
    )


def _squares(tensors: list[Tensor], device: torch.device) -> Tensor:
    if not tensors:
        return torch.zeros((), device=device)
    return torch.stack(torch._foreach_norm(tensors)).float().square().sum()


def _parameters(module: FSDPModule) -> list[nn.Parameter]:
    assert isinstance(module, nn.Module)
    return list(module.parameters())


def _has_weights(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None


def cut_by_blocks(part: nn.Module, run: Collection[str], mesh: DeviceMesh) -> None:
    """Cut the blocks of a part, each for itself, then what is left of it.

    Args:
        part: The part.
        run: Names of its modules that are called when it is run; others only hold weights for their parents.
        mesh: The ranks.
    """
    # The last layer is looked at outside of its block, for the adaptive weight.
    last = id(getattr(part, "last_layer", None))
    for name, block in _blocks(part):
        if name in run and last not in map(id, block.parameters()):
            _shard(block, mesh)
    _shard(part, mesh)
    for method in _ALSO_RUN:
        if hasattr(part, method):
            register_fsdp_forward_method(part, method)


def keep_whole_at_work(part: nn.Module, mesh: DeviceMesh) -> FSDPModule:
    """Cut a part that is put together by hand, before an update; its gradients stay each rank's own."""
    _shard(part, mesh)
    assert isinstance(part, FSDPModule)
    part.set_reshard_after_forward(False)
    part.set_reshard_after_backward(False)
    part.set_requires_gradient_sync(False)
    return part


def _shard(module: nn.Module, mesh: DeviceMesh) -> None:
    single = {parameter for parameter in module.parameters() if not parameter.ndim}
    module.register_forward_hook(_no_view)
    fully_shard(module, mesh=mesh, ignored_params=single)


def _no_view(module: nn.Module, given: Any, made: Any) -> Any:
    """Copy what is a view: a change in place would take it out of reach of what gathers weights backwards."""
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) and x._base is not None else x, made)


def _blocks(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield what a part is a list of: the outermost such modules that have modules of their own."""
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)
    for name, child in module.named_children():
        inner = f"{path}{name}"
        if is_list and any(child.children()) and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield inner, child
        else:
            yield from _blocks(child, f"{inner}.")


def _run_in_a_rehearsal(recipe: Recipe) -> dict[str, set[str]]:
    """Return, by part, the names of its modules that are called when a model is run."""
    clip = recipe.clip
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        twin = plan(recipe).make()
        found = {name: modules_run(part) for name, part in twin.networks().items()}
        twin.rehearse((1, clip.channels, clip.num_frames, clip.height, clip.width))
    return found


def modules_run(part: nn.Module) -> set[str]:
    """Return a set that takes the names of the modules of a part as they are called."""
    found = set[str]()
    for name, module in part.named_modules():
        module.register_forward_pre_hook(lambda _module, _args, name=name: found.add(name))
    return found
