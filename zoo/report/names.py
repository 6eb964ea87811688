"""How logged names read on a page: a title and a unit."""

from __future__ import annotations

LOSSES = (
    "loss",
    "reconstruction",
    "perceptual",
    "quantizer",
    "adversarial",
    "discriminator_loss",
    "r1",
    "r2",
    "gradient_penalty",
    "lecam",
    "feature_matching",
    "contrastive",
    "match",
    "categories",
    "naming",
    "path_length",
    "own_loss",
)
"""Terms of the objective, in the order the page shows them."""

_TITLES = {
    "loss": "Total loss of the model",
    "reconstruction": "Reconstruction",
    "perceptual": "Perceptual (LPIPS)",
    "quantizer": "Quantizer",
    "adversarial": "Adversarial",
    "discriminator_loss": "Discriminator",
    "r1": "R1 penalty",
    "r2": "R2 penalty",
    "gradient_penalty": "Gradient penalty",
    "lecam": "LeCam",
    "feature_matching": "Feature matching",
    "contrastive": "Contrastive",
    "match": "Likeness to the reference frame",
    "categories": "Kinds of made clips, as the discriminators name them",
    "naming": "Kinds, as the discriminators learn them",
    "path_length": "Path length",
    "own_loss": "The generator's own",
    "discriminator_wins": "Pairs the discriminators judge rightly",
    "real_logits": "Scores of real clips",
    "fake_logits": "Scores of made clips",
    "augment/p": "Augmentation probability p",
    "psnr_db": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "data_wait_share": "Waited for data",
    "codebook_used_share": "Codes used",
    "codebook_perplexity": "Codebook perplexity",
    "bits_per_clip": "Stored bits a clip",
    "bits_per_pixel": "Stored bits a pixel",
    "fvd": "FVD",
    "rfvd": "Reconstruction FVD",
    "kvd": "KVD",
    "precision": "Precision of samples",
    "recall": "Recall of samples",
    "bits_per_code": "Bits a code costs under the prior",
    "lpips_diversity": "LPIPS diversity of samples",
    "lpips_diversity_of_real_clips": "LPIPS diversity of real clips",
}
_UNITS = {
    "_db": "dB",
    "_per_s": "per second",
    "_share": "share",
    "_bits": "bits",
    "_seconds": "s",
}
_AXES = {
    "ssim": "SSIM (1 is equal)",
    "lpips": "LPIPS (0 is equal)",
    "codebook_perplexity": "codes",
    "lr": "rate",
}


def display_name(name: str) -> str:
    """Return the title of a logged name."""
    if name in _TITLES:
        return _TITLES[name]
    group, slash, rest = name.rpartition("/")
    words = rest.replace("_", " ")
    return f"{group}: {words}" if slash else words[:1].upper() + words[1:]


def with_unit(name: str) -> str:
    """Return what stands at the axis of a logged name."""
    if name in _AXES:
        return _AXES[name]
    if name in LOSSES:
        return "loss"
    for suffix, unit in _UNITS.items():
        if name.endswith(suffix):
            return f"{display_name(name)}, {unit}" if unit == "dB" else unit
    return name.rpartition("/")[2].replace("_", " ")
