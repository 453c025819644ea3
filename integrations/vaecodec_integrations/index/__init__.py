"""Share between the index adapters how vectors become latents and how an index is saved in one file."""
