"""Packed batches -> encoder -> pooling -> heads. No texts, no files, no training."""
