"""Several processes that train one model together, as `torchrun` starts them: one rank each.

Every rank holds the model and takes its share of each batch; what they learn is averaged. Whatever is drawn
by chance for the clips of a batch is drawn for the whole batch on every rank, and each takes its share: so
ranks together do what one process would.

Shape legend: B clips.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import gc
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zoo.errors import TrainingError, ZooError

TIMEOUT_S = 300.0
"""Seconds that a rank waits for the others before it gives up."""
_PrefixStore: Any = getattr(dist, "PrefixStore", None)  # absent in builds without torch.distributed
_BUCKET_BYTES = 25 * 2**20
_BEAT_S = 1.0
_T = TypeVar("_T")
_joined: _Joined | None = None
_micro = (0, 1)
_attempt: Attempt | None = None


class _Joined:
    """What this module keeps of the group it started."""

    def __init__(self, store: Any, timeout_s: float) -> None:
        self.store = store
        self.timeout_s = timeout_s
        self.turns = 0
        self.asked = threading.Event()
        self.leaving: list[Callable[[], object]] = []


def distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """How many ranks there are; 1 without `torchrun`."""
    return dist.get_world_size() if distributed() else 1


def rank() -> int:
    """Number of this process; the first, 0, is the one that writes files and speaks."""
    return dist.get_rank() if distributed() else 0


def is_first() -> bool:
    """Whether this is the process that speaks, also before it joined the others and after."""
    return rank() == 0 if distributed() else os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def joined(device: torch.device, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Join the other ranks where `torchrun` started this process; within a group that is there, do nothing.

    Args:
        device: Where this rank computes; of CUDA devices NCCL carries the tensors, gloo all others.
        timeout_s: Seconds that a rank waits for the others before it gives up.

    Raises:
        TrainingError: The other ranks cannot be reached.
    """
    global _joined
    if not dist.is_available() or dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    # Imported while there is a group, it would keep that one as a default of its functions for ever, and with
    # it threads that make the interpreter abort now and then when it ends.
    with contextlib.suppress(ImportError):
        import torch.distributed.nn.functional
    wait = datetime.timedelta(seconds=timeout_s)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    try:
        from torch.distributed.rendezvous import rendezvous

        store, number, size = next(iter(rendezvous("env://", timeout=wait)))
        store.set_timeout(wait)
        name = name_together(store, number, size, timeout_s)
        group = _PrefixStore(f"zoo {name}", store)
        dist.init_process_group(backend, store=group, rank=number, world_size=size, timeout=wait)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} did not reach the others "
            f"within {timeout_s:g} s: {str(error).splitlines()[0]}"
        ) from error
    _joined = _Joined(_PrefixStore(f"zoo turns {name}", store), timeout_s)
    atexit.register(gc.collect)  # what is left of this group goes while the interpreter is whole
    try:
        yield
    finally:
        for work in _joined.leaving:
            work()
        _joined = None
        with contextlib.suppress(Exception):  # of a rank that is gone
            dist.destroy_process_group()


def name_together(store: Any, number: int, size: int, timeout_s: float) -> str:
    """Return a name that all ranks which start now agree on, and that no earlier ones had.

    The store of `torchrun` outlives the ranks that it starts again, and holds the addresses of those that are
    gone. So each asks with a word of its own, and the first one answers whoever asks anew until all heard.

    Args:
        store: What the ranks share.
        number: Of this rank.
        size: Number of ranks.
        timeout_s: Seconds to wait for the others.

    Raises:
        RuntimeError: Some did not come in time.
    """
    own = uuid.uuid4().hex
    if number:
        store.set(f"zoo asks {number}", own)
        name: str = store.get(f"zoo answers {own}").decode()
        store.set(f"zoo heard {name} {number}", "")
        return name
    missing, answered = set(range(1, size)), dict[int, bytes]()
    began = time.monotonic()
    while missing:
        for other in sorted(missing):
            if store.check([f"zoo heard {own} {other}"]):
                missing.remove(other)
            elif store.check([f"zoo asks {other}"]):
                asked = store.get(f"zoo asks {other}")
                if asked != answered.get(other):
                    store.set(f"zoo answers {asked.decode()}", own)
                    answered[other] = asked
        if missing and time.monotonic() - began > timeout_s:
            raise RuntimeError(f"nothing was heard of rank {', '.join(map(str, sorted(missing)))}")
        time.sleep(0.01)
    return own


def when_leaving(work: Callable[[], object]) -> None:
    """Do something when this process leaves the group that it joined here."""
    if _joined is not None:
        _joined.leaving.append(work)


def own_device(asked: str | torch.device | None = None) -> str | torch.device | None:
    """Return the device asked for: of CUDA devices without a number the one `torchrun` gives this process.

    Where nothing is asked for that is its CUDA device too; None without one.
    """
    if str(asked or "cuda") == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return asked


@contextlib.contextmanager
def micro_batch(index: int, count: int) -> Iterator[None]:
    """Within it, only part `index` out of `count` of this rank's share of the batch is at work."""
    global _micro
    before, _micro = _micro, (index, count)
    try:
        yield
    finally:
        _micro = before


def num_parts() -> int:
    """In how many parts a batch goes through the model: ranks, times the parts of each one's share."""
    return world_size() * _micro[1]


def share(num: int) -> slice:
    """Return which of `num` clips are at work here: this rank's, or a part of them within `micro_batch`.

    Raises:
        TrainingError: They cannot be shared out alike.
    """
    index, count = _micro
    parts = num_parts()
    if num % parts:
        raise TrainingError(
            f"a batch of {num} clips cannot be shared out alike to {world_size()} ranks"
            + (f" in {count} parts each" if count > 1 else "")
            + f": set train.batch_size to a multiple of {parts}"
        )
    place, size = rank() * count + index, num // parts
    return slice(place * size, (place + 1) * size)


def shared_draw(draw: Callable[[int], _T], num: int) -> _T:
    """Draw for the clips of the whole batch and return what is for those at work here.

    Args:
        draw: Makes a tensor of so many rows, or a mapping of such; from a generator in the same state on all
            ranks.
        num: Clips at work here.
    """
    if num_parts() == 1:
        return draw(num)
    total = draw(num * num_parts())
    own = share(num * num_parts())
    if isinstance(total, dict):
        return {key: value[own] for key, value in total.items()}  # type: ignore[return-value]
    return total[own]  # type: ignore[index]


class GivenUp(Exception):
    """Another rank has given up what all of them were at."""


class Attempt:
    """What all ranks do alike and any may give up, until they first exchange something in the course of it.

    From then on the others wait for each rank at every exchange.

    Attributes:
        given_up: Whether any rank has; None until the ranks have asked each other.
    """

    def __init__(self) -> None:
        self.given_up: bool | None = None

    def is_given_up(self, here: bool) -> bool:
        """Whether any rank gave up, this one if `here`; each asks once, before an exchange or at the end."""
        if self.given_up is None:
            self.given_up = any_rank(here)
        return self.given_up


@contextlib.contextmanager
def attempt() -> Iterator[Attempt]:
    """Within it, the first exchange among the ranks raises `GivenUp` where one of them has given up."""
    global _attempt
    _attempt = Attempt()
    try:
        yield _attempt
    finally:
        _attempt = None


def _exchange(tensor: Tensor) -> None:
    """Put the sum over all ranks in the place of a tensor."""
    # A compiled network cannot ask, and no rank may give it up.
    if not torch.compiler.is_compiling() and _attempt is not None and _attempt.is_given_up(False):
        raise GivenUp
    dist.all_reduce(tensor)


def everywhere(total: Tensor) -> Tensor:
    """Return the sum over all ranks without a gradient, as a new tensor where there are several."""
    if not distributed():
        return total
    total = total.detach().clone().contiguous()
    _exchange(total)
    return total


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return everywhere(x) / world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every rank's loss depends on every rank's x, and what they find is averaged in the end.
        return _Mean.apply(gradient)  # type: ignore[no-untyped-call]


def mean_everywhere(x: Tensor) -> Tensor:
    """Return the mean over all ranks; gradients pass, of any order."""
    return _Mean.apply(x) if distributed() else x  # type: ignore[no-untyped-call]


def rows_everywhere(x_BD: Tensor) -> Tensor:
    """Return the rows of all ranks, in their order; gradients pass."""
    before, total = places_of_ranks(len(x_BD), x_BD.device)
    own = nn.functional.pad(x_BD, (0, 0, before, total - before - len(x_BD)))
    return world_size() * mean_everywhere(own)


def places_of_ranks(num: int, device: torch.device) -> tuple[int, int]:
    """Return how many places the ranks before this one have, and all ranks together; each gives its own."""
    if not distributed():
        return 0, num
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[rank()] = num
    _exchange(counts)
    found = counts.tolist()
    return sum(found[: rank()]), sum(found)


def any_rank(flag: bool) -> bool:
    """Whether it is so on any rank; every rank asks."""
    if not distributed():
        return flag
    told = torch.tensor([float(flag)])
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


@contextlib.contextmanager
def among_others(when: Callable[[], str] = str) -> Iterator[None]:
    """Within it, an error that says that this rank lost the others tells what to do then.

    Args:
        when: What to say first, such as the step.

    Raises:
        TrainingError: A rank died, or did not answer in time.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ZooError) or not is_loss_of_rank(error):
            raise
        raise TrainingError(
            f"{when()}rank {rank()} lost the others: {str(error).splitlines()[0]}. Start all ranks again "
            "with --auto-resume; they go on from the last checkpoint"
        ) from error


def is_loss_of_rank(error: BaseException) -> bool:
    """Whether an error says that this rank lost the others: one died, or did not answer in time."""
    return distributed() and (isinstance(error, dist.DistError) or "gloo" in str(error))


def gathered(value: Any) -> list[Any]:
    """Return the plain data of every rank, in their order; every rank gives its own."""
    if not distributed():
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Put the mean over all ranks in the place of every gradient, in buckets, in the order of the parameters.

    A parameter that has a gradient on some rank has one on all afterwards.
    """
    if not distributed():
        return
    has = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
    dist.all_reduce(has, dist.ReduceOp.MAX)
    for used, parameter in zip(has.tolist(), parameters, strict=True):
        if used and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    waiting = []
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        waiting.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in waiting:
        assert work is not None
        work.wait()
        flat /= world_size()
        for gradient, mean in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield runs of tensors of one type and device, each of about 25 MB."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        last = bucket[-1] if bucket else tensor
        if bucket and (size >= _BUCKET_BYTES or (tensor.dtype, tensor.device) != (last.dtype, last.device)):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


@torch.no_grad()
def same_everywhere(module: nn.Module) -> None:
    """Give every rank the weights and buffers of rank 0."""
    if distributed():
        for tensor in [*module.parameters(), *module.buffers()]:
            whole = tensor.data.contiguous()
            dist.broadcast(whole, 0)
            tensor.data.copy_(whole)


def own_share(tensor: Tensor) -> Tensor:
    """Return this rank's share of a tensor that is cut over the ranks, and any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def cut_alike(tensor: Tensor, like: Tensor) -> Tensor:
    """Cut a whole tensor, which every rank has, as another one is cut; nothing is sent."""
    if not hasattr(like, "to_local"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole(tensor: Tensor) -> Tensor:
    """Put together a tensor that is cut over the ranks, on the first one's host; on others it is empty.

    Any other tensor is returned as it is. Every rank calls it, for the same tensors in the same order.
    """
    if not hasattr(tensor, "full_tensor"):
        return tensor
    cut: Any = tensor.detach()
    full: Tensor = cut.full_tensor()
    return full.cpu() if is_first() else full.new_empty(0)


def on_first(work: Callable[[], _T], *, asks: Callable[[], bool] | None = None) -> _T | None:
    """Do something on rank 0 while the others wait, however long it takes; they get None.

    The first rank tells the others each second that it is alive.

    Args:
        work: What is done there.
        asks: Whether this rank, one of those that wait, wants the work to end early; it ends where it looks
            at `asked_to_end`.

    Raises:
        TrainingError: On the others, when it failed there or its sign of life stays away; on rank 0 whatever
            the work raised.
    """
    if not distributed():
        return work()
    if _joined is None:  # a group of the caller's: all that is left is to wait in it
        result = work() if rank() == 0 else None
        dist.barrier()
        return result
    _joined.turns += 1
    store, key = _joined.store, str(_joined.turns)
    if rank():
        _wait(store, key, _joined.timeout_s, asks)
        return None
    over = threading.Event()
    _joined.asked.clear()
    beating = threading.Thread(target=_beat, args=(store, key, over, _joined.asked), daemon=True)
    beating.start()
    end = "failed"
    try:
        result = work()
        end = "done"
    finally:
        over.set()
        beating.join()
        store.set(key, end)
    return result


def asked_to_end() -> bool:
    """Whether another rank wants what this one does in `on_first` to end early."""
    return _joined is not None and _joined.asked.is_set()


def _beat(store: Any, key: str, over: threading.Event, asked: threading.Event) -> None:
    beats = 0
    while True:
        store.set(key, f"at work {beats}")
        if store.check([f"{key} asked"]):
            asked.set()
        beats += 1
        if over.wait(_BEAT_S):
            return


def _wait(store: Any, key: str, timeout_s: float, asks: Callable[[], bool] | None) -> None:
    said, since = b"", time.monotonic()
    while True:
        try:
            now = store.get(key)
            if asks is not None and asks():
                store.set(f"{key} asked", "")
                asks = None
        except (RuntimeError, ValueError) as error:
            raise TrainingError(f"rank 0 is gone: {str(error).splitlines()[0]}") from error
        if now == b"done":
            return
        if now == b"failed":
            raise TrainingError("rank 0 failed; its own message says why")
        if now != said:
            said, since = now, time.monotonic()
        elif time.monotonic() - since > timeout_s:
            raise TrainingError(f"rank 0 gave no sign of life for {timeout_s:g} s")
        time.sleep(0.1)
