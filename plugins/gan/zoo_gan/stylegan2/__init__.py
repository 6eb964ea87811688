"""Building blocks of StyleGAN2 (https://arxiv.org/abs/1912.04958) that the style-based families share.

No part of its own. `layers` has filters, equalised layers and modulated convolutions, `networks` the
mapping and synthesis networks and the blocks of the discriminator. Imports no torch.
"""
