"""Models beside the backbone: CLIP, faces, quality, restorers, pixel diffusion. Each behind what methods call."""
