"""Published tokenizers as parts for zoo. `zoo_tokenizers.manifest` lists them; each family is a folder."""
