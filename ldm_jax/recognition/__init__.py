"""What a diffusion model knows, read out: one file per method."""
