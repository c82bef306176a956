"""Tokens and labels -> trained weights: the loop, its objectives, its optimizer, its run file."""
