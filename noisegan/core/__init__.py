"""The StyleGAN2 body and its trainer. Knows injectors through `noisegan.api` only; never pluggy, never a strategy."""
