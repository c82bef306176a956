"""Tokens -> logits, vectors and words, without gradients, in the caller's order."""
