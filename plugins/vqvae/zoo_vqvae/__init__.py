"""VQ-VAE parts for zoo. `zoo_vqvae.manifest` lists them; each lives in a file of its own."""
