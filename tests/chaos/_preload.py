"""What a run imports, for `chaos.children`: done once, in the process that the others are forked from."""

import torch

import zoo.cli.group
import zoo.cli.models
import zoo.cli.train
import zoo.data
import zoo.metrics
import zoo.report
import zoo.training.trainer
import zoo_priors.manifest
import zoo_vqvae.videogpt
import zoo_vqvae.vq_ema
from zoo.metrics.lpips import load_lpips
from zoo.torchvision_repair import import_timm

torch.set_num_threads(1)
import_timm()
import timm.optim  # noqa: E402 - repaired before
import timm.scheduler  # noqa: E402 - alike

__all__ = ["load_lpips", "timm", "zoo", "zoo_priors", "zoo_vqvae"]
