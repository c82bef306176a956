"""Texts -> tokens -> packed batches. numpy only: no torch and no model."""
