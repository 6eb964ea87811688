"""Parts for adversarial video models: MoCoGAN and a 3D PatchGAN.

The manifest is `zoo_gan.manifest`; every other module needs torch and is imported on first use.
"""
